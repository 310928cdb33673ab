//! Applying one command to the state. Deterministic; checks what can fail before it changes anything.

use bytes::Bytes;
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::{DeviceId, EntryId, NameError, ShardId, UserId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::State;
use super::types::{ApplyReply, Entry};
use crate::StoreError;
use crate::command::{CommandError, ItemRef, MessageRef, Outcome};

/// What tells two messages with one key apart (A3): recipient, kind and body. Zero for a cursor.
pub(super) fn digests(items: &[ItemRef<'_>]) -> Vec<u64> {
    let digest = |item: &ItemRef<'_>| match item {
        ItemRef::Message(message) => {
            let seed = xxh3_64_with_seed(message.recipient.as_bytes(), u64::from(message.kind));
            xxh3_64_with_seed(&message.body, seed)
        }
        ItemRef::Cursor { .. } => 0,
    };
    items.iter().map(digest).collect()
}

impl State {
    pub(super) fn apply(
        &mut self,
        shard: ShardId,
        index: u64,
        items: &[ItemRef<'_>],
        digests: &[u64],
    ) -> Result<ApplyReply, StoreError> {
        self.check_ids(shard, items)?;
        let refused = |_| {
            let source = CommandError::Malformed { what: "a name that isn't one", at: 0 };
            StoreError::Command { shard, index, source }
        };
        let before = self.last_stamp;
        let mut outcomes = Vec::with_capacity(items.len());
        let mut touched = Vec::new();
        for (item, &digest) in items.iter().zip(digests) {
            // Names were checked when the command was decoded: these errors can't happen.
            outcomes.push(match item {
                ItemRef::Message(message) => self.message(message, digest, index, &mut touched).map_err(refused)?,
                ItemRef::Cursor { user, device, cursor } => self.cursor(user, device, *cursor).map_err(refused)?,
            });
        }
        Ok(ApplyReply { outcomes, touched, before })
    }

    /// Whether the ids last for the whole command.
    fn check_ids(&self, shard: ShardId, items: &[ItemRef<'_>]) -> Result<(), StoreError> {
        let stamp = |item: &ItemRef<'_>| match item {
            ItemRef::Message(message) => message.stamp,
            ItemRef::Cursor { .. } => EntryId::ZERO,
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
        if let Some((first, first_digest)) = known.and_then(|sender| self.dedup.find(sender, message.key)) {
            return Ok(if first_digest == digest {
                self.stats.duplicates += 1;
                Outcome::Duplicate(first)
            } else {
                self.stats.key_conflicts += 1;
                Outcome::KeyConflict
            });
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
        touched.extend(self.active.push(place, entry, digest, index));
        Ok(Outcome::Appended(id))
    }

    /// Forward only, and never beyond what exists (A8).
    fn cursor(&mut self, user: &str, device: &str, cursor: EntryId) -> Result<Outcome, NameError> {
        let cursor = cursor.min(self.last_stamp);
        let stands = self.cursors.get(user, device);
        if cursor <= stands {
            return Ok(Outcome::CursorMoved(stands));
        }
        let (user, device) = match self.cursors.names(user, device) {
            Some(names) => names,
            None => (UserId::new(user)?, DeviceId::new(device)?),
        };
        self.cursors.raise(&user, &device, cursor);
        self.active.move_cursor(&user, &device, cursor);
        Ok(Outcome::CursorMoved(cursor))
    }
}
