//! The leader's look for old keys before it proposes (see `dedup` for why that is exact). In two steps: a look into memory,
//! which is all that fresh messages cost; and one into the warm tier for what memory can't exclude.

use std::collections::HashMap;

use iris_protocol::{EntryId, MessageKey, UserId};

use super::apply::digest;
use super::dedup::{First, Horizon, Look};
use super::hash::FastHash;
use super::{Inner, ShardStore};
use crate::StoreError;
use crate::command::{Item, KeysSeen, NewMessage};
use crate::warm::BucketId;

/// What a look into memory said of a batch.
#[derive(Debug)]
#[must_use = "the batch must be proposed with it"]
pub struct Resolution {
    seen: KeysSeen,
    horizon: Horizon,
    /// Buckets that may have an item's key.
    perhaps: Vec<(BucketId, usize)>,
}

impl Resolution {
    /// Whether [`ShardStore::resolve_on_disk`] must be asked, too.
    #[must_use]
    pub fn needs_disk(&self) -> bool {
        !self.perhaps.is_empty()
    }

    /// What the command must say.
    #[must_use]
    pub fn seen(&self) -> KeysSeen {
        self.seen
    }
}

impl ShardStore {
    /// Replaces messages whose key is among the older ones in memory by [`Item::Known`]. Items must be stamped. Only for a
    /// leader that has applied everything that was in its log at its election.
    pub fn resolve(&self, items: &mut [Item]) -> Resolution {
        let state = self.state();
        let (seen, horizon) = (KeysSeen(state.dedup.taken()), state.dedup.horizon());
        let mut perhaps = Vec::new();
        for (at, item) in items.iter_mut().enumerate() {
            let Item::Message(message) = item else { continue };
            match state.dedup.look(&message.sender, message.key, message.stamp) {
                Look::Enough => {}
                Look::Old(first) => *item = known(message, first),
                Look::Perhaps(buckets) => perhaps.extend(buckets.into_iter().map(|bucket| (bucket, at))),
            }
        }
        Resolution { seen, horizon, perhaps }
    }

    /// Does the same for what only the warm tier knows. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's, or damage: the batch must not be proposed.
    pub fn resolve_on_disk(&self, items: &mut [Item], resolution: &mut Resolution) -> Result<(), StoreError> {
        let mut perhaps = std::mem::take(&mut resolution.perhaps);
        perhaps.sort_unstable();
        let mut found: HashMap<usize, First, FastHash> = HashMap::default();
        for group in perhaps.chunk_by(|a, b| a.0 == b.0) {
            self.inner.find_in(items, group, &resolution.horizon, &mut found)?;
        }
        for (at, first) in found {
            if let Some(item) = items.get_mut(at)
                && let Item::Message(message) = item
            {
                *item = known(message, first);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Looks into one bucket for the keys of some items; of several appends of a key the last one counts.
    fn find_in(
        &self,
        items: &[Item],
        group: &[(BucketId, usize)],
        horizon: &Horizon,
        found: &mut HashMap<usize, First, FastHash>,
    ) -> Result<(), StoreError> {
        let Some(&(bucket, _)) = group.first() else { return Ok(()) };
        let message = |at: usize| match items.get(at) {
            Some(Item::Message(message)) => Some((at, message)),
            _ => None,
        };
        let wanted: Vec<(usize, &NewMessage)> = group.iter().filter_map(|&(_, at)| message(at)).collect();
        let keys: Vec<(MessageKey, &UserId)> =
            wanted.iter().map(|(_, message)| (message.key, &message.sender)).collect();
        let answers = self.warm.dedup_find(self.shard, bucket, &keys)?;
        for ((at, message), answer) in wanted.into_iter().zip(answers) {
            let Some((id, digest)) = answer else { continue };
            if horizon.is_behind(message.key, id, message.stamp) {
                continue;
            }
            let first = found.entry(at).or_insert(First { id: EntryId::ZERO, digest });
            if id > first.id {
                *first = First { id, digest };
            }
        }
        Ok(())
    }
}

fn known(message: &NewMessage, first: First) -> Item {
    let conflict = first.digest != digest(message.recipient.as_str(), message.kind, &message.body);
    Item::Known { first: first.id, conflict }
}
