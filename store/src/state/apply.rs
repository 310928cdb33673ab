//! Applying one command to the state. Deterministic; checks what can fail before it changes anything.

use bytes::Bytes;
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::{DeviceId, EntryId, NameError, ShardId, UserId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::State;
use super::types::{ApplyReply, Entry};
use crate::StoreError;
use crate::command::{CommandError, CommandRef, ItemRef, KeysSeen, MessageRef, Outcome};

/// What tells two messages with one key apart (A3).
pub(super) fn digest(recipient: &str, kind: u16, body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(recipient.as_bytes(), u64::from(kind)))
}

/// The digest of each message; zero for anything else.
pub(super) fn digests(items: &[ItemRef<'_>]) -> Vec<u64> {
    let digest = |item: &ItemRef<'_>| match item {
        ItemRef::Message(message) => digest(message.recipient, message.kind, &message.body),
        _ => 0,
    };
    items.iter().map(digest).collect()
}

impl State {
    pub(super) fn apply(
        &mut self,
        shard: ShardId,
        index: u64,
        command: &CommandRef<'_>,
        digests: &[u64],
    ) -> Result<ApplyReply, StoreError> {
        let items = &command.items;
        self.check_ids(shard, items)?;
        let refused = |_| {
            let source = CommandError::Malformed { what: "a name that isn't one", at: 0 };
            StoreError::Command { shard, index, source }
        };
        let stale = command.seen != KeysSeen::NOT_LOOKED_UP && self.dedup.is_stale(command.seen.0, items.len());
        let before = self.last_stamp;
        let mut outcomes = Vec::with_capacity(items.len());
        let mut touched = Vec::new();
        for (item, &digest) in items.iter().zip(digests) {
            // Names were checked when the command was decoded: these errors can't happen.
            outcomes.push(match *item {
                ItemRef::Message(_) if stale => Outcome::Stale,
                ItemRef::Message(ref message) => self.message(message, digest, index, &mut touched).map_err(refused)?,
                ItemRef::Cursor { user, device, cursor, seen } => {
                    self.cursor(user, device, cursor, seen).map_err(refused)?
                }
                ItemRef::Known { first, conflict } => self.known(first, conflict),
                ItemRef::Trim { user, up_to, entries } => self.trim(user, up_to, entries),
                ItemRef::Expire { user, device, before } => self.expire_device(user, device, before),
            });
        }
        Ok(ApplyReply { outcomes, touched, before })
    }

    /// Whether the ids last for the whole command.
    fn check_ids(&self, shard: ShardId, items: &[ItemRef<'_>]) -> Result<(), StoreError> {
        let stamp = |item: &ItemRef<'_>| match item {
            ItemRef::Message(message) => message.stamp,
            _ => EntryId::ZERO,
        };
        let highest = items.iter().map(stamp).max().unwrap_or_default().max(self.last_stamp);
        if highest.0 + items.len() as u64 > ENTRY_ID_MAX.0 {
            return Err(StoreError::IdsExhausted { shard, last: self.last_stamp });
        }
        Ok(())
    }

    fn message(
        &mut self,
        message: &MessageRef<'_>,
        digest: u64,
        index: u64,
        touched: &mut Vec<UserId>,
    ) -> Result<Outcome, NameError> {
        self.dedup.expire(message.stamp.max(self.last_stamp));
        let known = self.dedup.sender(message.sender);
        if let Some(first) = known.and_then(|sender| self.dedup.find(sender, message.key)) {
            return Ok(self.known(first.id, first.digest != digest));
        }
        let place = match self.active.find(message.recipient) {
            Some(place) => place,
            None => {
                let user = match self.dedup.sender(message.recipient) {
                    Some(number) => self.dedup.name(number),
                    None => UserId::new(message.recipient)?,
                };
                self.active.create(user)
            }
        };
        let sender = match known {
            Some(number) => number,
            None => self.dedup.intern(UserId::new(message.sender)?),
        };
        let id = message.stamp.max(EntryId(self.last_stamp.0 + 1));
        self.last_stamp = id;
        self.stats.entries_applied += 1;
        let entry = Entry {
            id,
            sender: self.dedup.name(sender),
            kind: message.kind,
            key: message.key,
            body: Bytes::clone(&message.body),
        };
        self.dedup.insert(sender, message.key, id, digest);
        touched.extend(self.active.push(place, entry, index));
        Ok(Outcome::Appended(id))
    }

    fn known(&mut self, first: EntryId, conflict: bool) -> Outcome {
        if conflict {
            self.stats.key_conflicts += 1;
            return Outcome::KeyConflict;
        }
        self.stats.duplicates += 1;
        Outcome::Duplicate(first)
    }

    /// Forward only, and never beyond what exists (A8). Any move is a sign of life.
    fn cursor(&mut self, user: &str, device: &str, cursor: EntryId, seen: EntryId) -> Result<Outcome, NameError> {
        let known = self.cursors.get(user, device).map_or((EntryId::ZERO, EntryId::ZERO), |at| (at.cursor, at.seen));
        let (cursor, seen) = (cursor.min(self.last_stamp).max(known.0), seen.max(known.1));
        let (user, device) = match self.cursors.names(user, device) {
            Some(names) => names,
            None => (UserId::new(user)?, DeviceId::new(device)?),
        };
        if let Some(gone) = self.cursors.raise(&user, &device, cursor, seen) {
            self.active.remove_device(&user, &gone);
        }
        self.active.set_device(&user, &device, cursor, seen);
        Ok(Outcome::CursorMoved(cursor))
    }
}
