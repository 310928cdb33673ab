//! Exact deduplication by (sender, key) over a window of entry-id time (A3), in bounded memory. Never probabilistic. Owns
//! which keys count and how old ones are found; where old ones lie is the warm tier's business.
//!
//! The recent keys are in memory, [`DEDUP_RECENT_KEYS`] of them at least and every one that no checkpoint has written yet.
//! Older ones lie in the warm tier, in buckets. Apply must not read the disk, so the leader looks for old keys *before* it
//! proposes (`resolve`), and puts what it found into the command in the message's place.
//!
//! Why that is exact. Let S be the number of keys the shard had taken in when the leader looked; the command says S. When
//! the command is applied, at most [`DEDUP_IN_FLIGHT_KEYS_MAX`] more have been taken in, else it is refused as stale, on every
//! replica alike. A key is then
//! - among the last RECENT - IN_FLIGHT at S: left to apply, and among the last RECENT when it is applied, so every replica has
//!   it in memory;
//! - older: the leader found it, in its own memory or in its buckets, and said so;
//! - taken in after S: among the last IN_FLIGHT, so every replica has it in memory;
//! - unknown: then no replica knows it, however much it happens to have in memory.
//!
//! What is forgotten, by the window or by the bound, is decided from the log alone (`buckets`, `now_ms`), so a replica
//! that still has such a key in memory ignores it like all the others.

mod buckets;
mod fence;
mod recent;

use iris_protocol::{EntryId, MessageKey, UserId};

use super::types::StoreOptions;
use crate::StoreError;
use crate::warm::{BucketId, DedupKey};

use buckets::Buckets;
pub use buckets::{BucketRow, DedupRow};
use fence::is_odd;
use recent::{Key, Recent};

/// Keys of a shard that every replica has in memory at least: some 3 MB, and four seconds at full load. Never to be lowered: a
/// log that was written with it in mind may be applied again by any later version.
pub const DEDUP_RECENT_KEYS: usize = 65_536;

/// Keys that may be taken in between a leader's look and the apply of what it proposed: four times what it can have in flight.
pub const DEDUP_IN_FLIGHT_KEYS_MAX: usize = DEDUP_RECENT_KEYS / IN_FLIGHT_PART;

const IN_FLIGHT_PART: usize = 8;

/// Keys in a bucket: 76 of them make the 10 million of A3.
pub(super) const DEDUP_BUCKET_KEYS_MAX: usize = 131_072;

/// With a smaller bound, buckets are smaller, so that hitting the bound forgets little at once.
const BUCKETS_AT_BOUND_MIN: usize = 64;

/// Keys that leave memory with each new one, once they are old and written: two, so that a burst's surplus goes again.
const POPS_PER_KEY: usize = 2;

#[derive(Debug)]
pub(super) struct Dedup {
    recent: Recent,
    buckets: Buckets,
    /// The first so many of `recent` are old: `buckets` leads to them.
    old: usize,
    /// What the last checkpoint wrote: newer keys are in memory only.
    written: EntryId,
    now_ms: u64,
    taken: u64,
    floors: [EntryId; 2],
    window_ms: u64,
    keys_max: usize,
    recent_max: usize,
    in_flight_max: usize,
    dropped_early: u64,
}

/// The first append of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub(super) id: EntryId,
    pub(super) digest: u64,
}

/// What decides whether a key is forgotten, as of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Horizon {
    now_ms: u64,
    window_ms: u64,
    floors: [EntryId; 2],
}

impl Horizon {
    /// Whether a key's first append lies beyond it for a message with this stamp.
    pub(super) fn is_behind(&self, key: MessageKey, id: EntryId, stamp: EntryId) -> bool {
        let now_ms = self.now_ms.max(stamp.unix_ms());
        now_ms > id.unix_ms().saturating_add(self.window_ms) || id < self.floors[usize::from(is_odd(key, id))]
    }
}

/// Where a look into memory found a key.
pub(super) enum Look {
    /// Nowhere, and there is nowhere else to look; or where apply will find it.
    Enough,
    /// Among the older ones.
    Old(First),
    /// Not in memory; perhaps in these.
    Perhaps(Vec<BucketId>),
}

impl Dedup {
    /// What a checkpoint left, with nothing in memory yet.
    pub(super) fn new(options: &StoreOptions, row: &DedupRow, written: EntryId) -> Self {
        let window_ms = u64::try_from(options.dedup_window.as_millis()).unwrap_or(u64::MAX);
        let keys_max = options.dedup_keys_max.max(1);
        let bucket_keys_max = (keys_max / BUCKETS_AT_BOUND_MIN).clamp(1, options.dedup_bucket_keys_max.max(1));
        Self {
            recent: Recent::default(),
            buckets: Buckets::new(row, bucket_keys_max, window_ms),
            old: 0,
            written,
            now_ms: row.now_ms,
            taken: row.taken,
            floors: row.floors,
            window_ms,
            keys_max,
            recent_max: options.dedup_recent_keys,
            in_flight_max: options.dedup_recent_keys / IN_FLIGHT_PART,
            dropped_early: 0,
        }
    }

    /// Takes the last keys from the warm tier into memory, as many as every replica has. `read` hands over a whole bucket.
    pub(super) fn load(
        &mut self,
        mut read: impl FnMut(BucketId, &mut dyn FnMut(DedupKey)) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut newest_first: Vec<(EntryId, BucketId)> = self.buckets.rows().map(|row| (row.last, row.id)).collect();
        newest_first.sort_unstable_by_key(|bucket| std::cmp::Reverse(bucket.0));
        let mut keys: Vec<DedupKey> = Vec::new();
        for (at, &(_, bucket)) in newest_first.iter().enumerate() {
            read(bucket, &mut |key| keys.push(key))?;
            self.buckets.loaded(bucket);
            // What lies after the end of the next bucket is complete.
            let complete_after = newest_first.get(at + 1).map_or(EntryId::ZERO, |next| next.0);
            if keys.iter().filter(|key| key.id > complete_after).count() >= self.recent_max {
                break;
            }
        }
        keys.sort_unstable_by_key(|key| key.id);
        let old = keys.len().saturating_sub(self.recent_max);
        for key in keys.drain(..old) {
            self.buckets.grew_old(key.key, key.id);
        }
        for DedupKey { key, sender, id, digest } in keys {
            let sender = self.recent.sender(sender.as_str()).unwrap_or_else(|| self.recent.intern(sender));
            self.recent.push(Key { id, digest, key, sender });
        }
        self.grow_old();
        Ok(())
    }

    /// What goes with a checkpoint.
    pub(super) fn row(&self) -> DedupRow {
        DedupRow {
            now_ms: self.now_ms,
            taken: self.taken,
            next: self.buckets.next(),
            floors: self.floors,
            buckets: self.buckets.rows().cloned().collect(),
        }
    }

    pub(super) fn horizon(&self) -> Horizon {
        Horizon { now_ms: self.now_ms, window_ms: self.window_ms, floors: self.floors }
    }

    /// Keys taken in since the shard began.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether a command of so many items, looked up at `seen`, would be applied too long after that.
    pub(super) fn is_stale(&self, seen: u64, items: usize) -> bool {
        (self.taken + items as u64).saturating_sub(seen) > self.in_flight_max as u64
    }

    /// The time of the log is `now` at least: forgets what the window leaves behind.
    pub(super) fn expire(&mut self, now: EntryId) {
        self.now_ms = self.now_ms.max(now.unix_ms());
        let from_ms = self.now_ms.saturating_sub(self.window_ms);
        while self.recent.front().is_some_and(|key| key.id.unix_ms() < from_ms) {
            self.pop();
        }
        self.buckets.expire(from_ms);
    }

    /// A sender's number while any of its keys is in memory.
    pub(super) fn sender(&self, name: &str) -> Option<u32> {
        self.recent.sender(name)
    }

    pub(super) fn name(&self, sender: u32) -> UserId {
        self.recent.name(sender)
    }

    /// A number for a new sender; [`Dedup::insert`] must follow.
    pub(super) fn intern(&mut self, name: UserId) -> u32 {
        self.recent.intern(name)
    }

    /// The first append of a key that apply must know: among the recent ones, and not forgotten.
    pub(super) fn find(&self, sender: u32, key: MessageKey) -> Option<First> {
        let (_, known) = self.recent.find(sender, key)?;
        // The window was seen to by `expire`; the bound forgets by bucket, here and there in the queue.
        let forgotten = known.id < self.floors[usize::from(is_odd(key, known.id))];
        (!forgotten).then_some(First { id: known.id, digest: known.digest })
    }

    /// Remembers a key that is not known, with an id above all others.
    pub(super) fn insert(&mut self, sender: u32, key: MessageKey, id: EntryId, digest: u64) {
        self.taken += 1;
        self.recent.push(Key { id, digest, key, sender });
        self.buckets.take(key, id);
        while self.buckets.keys() > self.keys_max
            && let Some(dropped) = self.buckets.drop_oldest()
        {
            self.dropped_early += u64::from(dropped.keys);
            let floor = &mut self.floors[usize::from(dropped.odd)];
            *floor = EntryId(dropped.last.0 + 1).max(*floor);
        }
        self.grow_old();
        for _ in 0..POPS_PER_KEY {
            self.pop_surplus();
        }
    }

    /// Looks for a message's key before it is proposed. Fresh keys cost a few comparisons.
    pub(super) fn look(&self, sender: &UserId, key: MessageKey, stamp: EntryId) -> Look {
        if !self.buckets.may_hold(key) {
            return Look::Enough;
        }
        let known = self.sender(sender.as_str()).and_then(|number| self.recent.find(number, key));
        match known {
            Some((place, known)) if !self.horizon().is_behind(key, known.id, stamp) => {
                // Among the newest ones apply finds it by itself, and says the same.
                let old = place < self.old;
                if old { Look::Old(First { id: known.id, digest: known.digest }) } else { Look::Enough }
            }
            _ => match self.buckets.candidates(key).collect::<Vec<_>>() {
                none if none.is_empty() => Look::Enough,
                some => Look::Perhaps(some),
            },
        }
    }

    /// Keys with `after < id <= up_to`, at most so many, for a checkpoint.
    pub(super) fn keys_between(&self, after: EntryId, up_to: EntryId, len_max: usize) -> Vec<DedupKey> {
        let keys = self.recent.between(after, up_to, len_max);
        keys.map(|key| DedupKey { key: key.key, sender: self.name(key.sender), id: key.id, digest: key.digest })
            .collect()
    }

    /// Buckets to remove with the checkpoint that begins now.
    pub(super) fn take_removed(&mut self) -> Vec<BucketId> {
        self.buckets.take_removed()
    }

    /// A checkpoint wrote everything up to here.
    pub(super) fn written(&mut self, up_to: EntryId) {
        self.written = up_to;
    }

    /// Lets surplus keys go, so many at most; whether there are more.
    pub(super) fn trim_memory(&mut self, len_max: usize) -> bool {
        for _ in 0..len_max {
            if !self.pop_surplus() {
                self.recent.shrink(self.recent_max * 2);
                return false;
            }
        }
        true
    }

    /// Lets the oldest key go if it is written and there are enough without it.
    fn pop_surplus(&mut self) -> bool {
        let surplus = self.recent.len() > self.recent_max;
        let pops = surplus && self.recent.front().is_some_and(|key| key.id <= self.written);
        if pops {
            self.pop();
        }
        pops
    }

    fn pop(&mut self) {
        self.recent.pop();
        self.old = self.old.saturating_sub(1);
    }

    /// Those that are no longer surely in every replica's memory when a command is applied become old.
    fn grow_old(&mut self) {
        let sure = self.recent_max - self.in_flight_max;
        while self.recent.len() - self.old > sure
            && let Some(&Key { key, id, .. }) = self.recent.at(self.old)
        {
            self.buckets.grew_old(key, id);
            self.old += 1;
        }
    }

    /// Keys remembered.
    pub(super) fn len(&self) -> usize {
        self.buckets.keys()
    }

    /// Keys in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.recent.len()
    }

    /// Bytes of memory, allocations as they are.
    pub(super) fn bytes(&self) -> usize {
        self.recent.bytes() + self.buckets.bytes()
    }

    pub(super) fn dropped_early(&self) -> u64 {
        self.dropped_early
    }
}
