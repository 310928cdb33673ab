//! The obvious way to do what a shard does, with everything in lists; what the model tests compare with.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use iris_store::{Entry, Item, NewMessage, Outcome};

/// Recipient, kind, body.
type Content = (UserId, u16, Bytes);

/// A shard.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) window_ms: u64,
    pub(crate) keys_max: usize,
    pub(crate) inboxes: BTreeMap<UserId, Vec<Entry>>,
    /// Sender, key, first id, content.
    keys: Vec<(UserId, MessageKey, EntryId, Content)>,
    /// Cursor, last seen.
    pub(crate) devices: HashMap<(UserId, DeviceId), (EntryId, EntryId)>,
    pub(crate) last: EntryId,
    /// Keys taken in so far.
    pub(crate) taken: u64,
}

impl Model {
    pub(crate) fn new(window_ms: u64, keys_max: usize) -> Self {
        Self { window_ms, keys_max, ..Self::default() }
    }

    pub(crate) fn apply(&mut self, item: &Item) -> Outcome {
        match item {
            Item::Message(message) => self.message(message),
            Item::Cursor { user, device, cursor, seen } => {
                let at = self.devices.entry((user.clone(), device.clone())).or_default();
                *at = (at.0.max((*cursor).min(self.last)), at.1.max(*seen));
                Outcome::CursorMoved(at.0)
            }
            Item::Known { first, conflict: false } => Outcome::Duplicate(*first),
            Item::Known { conflict: true, .. } => Outcome::KeyConflict,
            Item::Trim { user, up_to, .. } => {
                if let Some(lowest) = self.lowest(user) {
                    let inbox = self.inboxes.entry(user.clone()).or_default();
                    inbox.retain(|entry| entry.id > lowest.min(*up_to));
                }
                Outcome::Done
            }
            Item::Expire { user, device, before } => {
                self.devices.retain(|(name, known), (_, seen)| (name, known) != (user, device) || *seen >= *before);
                Outcome::Done
            }
        }
    }

    /// What every known device of a user has.
    pub(crate) fn lowest(&self, user: &UserId) -> Option<EntryId> {
        self.devices.iter().filter(|((name, _), _)| name == user).map(|(_, (cursor, _))| *cursor).min()
    }

    pub(crate) fn message(&mut self, message: &NewMessage) -> Outcome {
        let now = message.stamp.max(self.last).unix_ms();
        let window_ms = self.window_ms;
        self.keys.retain(|(_, _, first, _)| now <= first.unix_ms() + window_ms);
        let content = (message.recipient.clone(), message.kind, message.body.clone());
        if let Some((_, _, first, known)) =
            self.keys.iter().find(|(sender, key, ..)| *sender == message.sender && *key == message.key)
        {
            return if *known == content { Outcome::Duplicate(*first) } else { Outcome::KeyConflict };
        }
        let id = message.stamp.max(EntryId(self.last.0 + 1));
        self.last = id;
        self.taken += 1;
        if self.keys.len() == self.keys_max {
            self.keys.remove(0);
        }
        self.keys.push((message.sender.clone(), message.key, id, content));
        self.inboxes.entry(message.recipient.clone()).or_default().push(Entry {
            id,
            sender: message.sender.clone(),
            kind: message.kind,
            key: message.key,
            body: message.body.clone(),
        });
        Outcome::Appended(id)
    }
}
