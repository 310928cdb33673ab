//! Which keys are remembered, as a table of buckets: each key belongs to one bucket from its first append on, and leaves with
//! it. Owns the table and its fences; the keys themselves are in memory (`recent`) and in the warm tier.
//!
//! The table is a function of the log alone: which bucket a key goes to, and when a bucket goes, is decided when a command is
//! applied and never by when a checkpoint happens. So every replica forgets the same keys at the same log entry.

use iris_protocol::{EntryId, MessageKey};
use serde::{Deserialize, Serialize};

use super::fence::{Fence, is_odd};
use crate::warm::BucketId;

/// Ids in one bucket reach over a day at most, so that whole buckets leave the window a day late at most.
const SPAN_MS_MAX: u64 = 24 * 3600 * 1000;

/// What the warm tier keeps of the table, with each checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRow {
    /// The latest time seen in the log, in milliseconds: what the window is counted back from.
    pub now_ms: u64,
    /// Keys taken in since the shard began.
    pub taken: u64,
    /// The next bucket's name.
    pub next: u32,
    /// Keys first appended before these are forgotten because the bound was hit: timely ones, odd ones.
    pub floors: [EntryId; 2],
    /// The buckets, in order of their first ids.
    pub buckets: Vec<BucketRow>,
}

impl DedupRow {
    /// The bucket a key of this shard is in, if it is in one.
    #[must_use]
    pub fn bucket_of(&self, key: MessageKey, id: EntryId) -> Option<BucketId> {
        place_of(&self.buckets, |row| row, key, id).map(|at| self.buckets[at].id)
    }

    /// Keys in all buckets.
    pub(in crate::state) fn keys(&self) -> usize {
        self.buckets.iter().map(|row| row.keys as usize).sum()
    }
}

/// What is known of a bucket without looking into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRow {
    /// Its name.
    pub id: BucketId,
    /// Holds keys whose own time is missing, or too far off that of their entry.
    pub odd: bool,
    /// Id of the first key's entry.
    pub first: EntryId,
    /// Id of the last key's entry.
    pub last: EntryId,
    /// Keys it was given; those forgotten before a checkpoint were never written.
    pub keys: u32,
    /// The times of all its keys.
    pub(super) fence: Fence,
}

/// A bucket, and the times of those of its keys that must be looked for: the recent ones are found by apply itself.
#[derive(Debug)]
struct Tracked {
    row: BucketRow,
    old: Fence,
}

/// The table.
#[derive(Debug)]
pub(super) struct Buckets {
    tracked: Vec<Tracked>,
    next: u32,
    keys: usize,
    bucket_keys_max: usize,
    span_ms_max: u64,
    /// Of all buckets together: what a fresh key is compared with.
    old: Fence,
    /// No bucket ends before this.
    earliest_last: EntryId,
    /// Buckets that went since the last checkpoint began.
    removed: Vec<BucketId>,
}

impl Buckets {
    /// The table as a checkpoint left it. Nothing is known yet of which keys are in memory, so all are old.
    pub(super) fn new(row: &DedupRow, bucket_keys_max: usize, window_ms: u64) -> Self {
        let tracked: Vec<_> = row.buckets.iter().map(|row| Tracked { old: row.fence, row: row.clone() }).collect();
        let mut buckets = Self {
            tracked,
            next: row.next,
            keys: row.keys(),
            bucket_keys_max,
            // With a window of minutes, as tests have it, days would keep everything.
            span_ms_max: SPAN_MS_MAX.min(window_ms / 8),
            old: Fence::default(),
            earliest_last: EntryId::ZERO,
            removed: Vec::new(),
        };
        buckets.sum_up();
        buckets
    }

    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = &BucketRow> {
        self.tracked.iter().map(|tracked| &tracked.row)
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    pub(super) fn bytes(&self) -> usize {
        self.tracked.capacity() * size_of::<Tracked>()
    }

    /// Gives a new key its bucket; ids ascend.
    pub(super) fn take(&mut self, key: MessageKey, id: EntryId) {
        self.keys += 1;
        let odd = is_odd(key, id);
        let open = self.tracked.iter_mut().rev().map(|tracked| &mut tracked.row).find(|row| row.odd == odd);
        if let Some(row) = open
            && (row.keys as usize) < self.bucket_keys_max
            && id.unix_ms() - row.first.unix_ms() <= self.span_ms_max
        {
            row.keys += 1;
            row.last = id;
            row.fence.add(key, id);
            return;
        }
        let mut row = BucketRow { id: BucketId(self.next), odd, first: id, last: id, keys: 1, fence: Fence::default() };
        row.fence.add(key, id);
        // 2^32 buckets are more than a shard fills in its life: one a second for a century.
        self.next = self.next.wrapping_add(1);
        self.tracked.push(Tracked { row, old: Fence::default() });
    }

    /// From now on a key must be looked for: it is no longer among those that every replica surely has in memory.
    pub(super) fn grew_old(&mut self, key: MessageKey, id: EntryId) {
        if let Some(at) = place_of(&self.tracked, |tracked| &tracked.row, key, id) {
            self.tracked[at].old.add(key, id);
            self.old.add(key, id);
        }
    }

    /// All keys of a bucket are at hand: [`Self::grew_old`] says which are old.
    pub(super) fn loaded(&mut self, bucket: BucketId) {
        for tracked in self.tracked.iter_mut().filter(|tracked| tracked.row.id == bucket) {
            tracked.old = Fence::default();
        }
        self.sum_up();
    }

    /// `false` if the key is surely not among the old ones.
    pub(super) fn may_hold(&self, key: MessageKey) -> bool {
        self.old.may_hold(key)
    }

    /// The buckets that may have the key among their old ones.
    pub(super) fn candidates(&self, key: MessageKey) -> impl Iterator<Item = BucketId> {
        self.tracked.iter().filter(move |tracked| tracked.old.may_hold(key)).map(|tracked| tracked.row.id)
    }

    /// Drops the buckets that end before `from`.
    pub(super) fn expire(&mut self, from_ms: u64) {
        if self.earliest_last.unix_ms() >= from_ms {
            return;
        }
        let (gone, kept) = std::mem::take(&mut self.tracked)
            .into_iter()
            .partition(|tracked: &Tracked| tracked.row.last.unix_ms() < from_ms);
        self.tracked = kept;
        self.forget(gone);
    }

    /// Drops the bucket with the oldest key.
    pub(super) fn drop_oldest(&mut self) -> Option<BucketRow> {
        if self.tracked.is_empty() {
            return None;
        }
        let oldest = self.tracked.remove(0);
        let row = oldest.row.clone();
        self.forget(vec![oldest]);
        Some(row)
    }

    fn forget(&mut self, gone: Vec<Tracked>) {
        for Tracked { row, .. } in gone {
            self.keys -= row.keys as usize;
            self.removed.push(row.id);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.old = Fence::default();
        for tracked in &self.tracked {
            self.old.join(&tracked.old);
        }
        self.earliest_last = self.rows().map(|row| row.last).min().unwrap_or_default();
    }

    /// Buckets to remove with the checkpoint that begins now.
    pub(super) fn take_removed(&mut self) -> Vec<BucketId> {
        std::mem::take(&mut self.removed)
    }
}

/// The place of a key's bucket in a list ordered by first ids: the last of its kind that begins at or before it.
fn place_of<T>(list: &[T], row: impl Fn(&T) -> &BucketRow, key: MessageKey, id: EntryId) -> Option<usize> {
    let odd = is_odd(key, id);
    let end = list.partition_point(|item| row(item).first <= id);
    let at = list[..end].iter().rposition(|item| row(item).odd == odd)?;
    (row(&list[at]).last >= id).then_some(at)
}
