//! From hot to warm and back: what a checkpoint writes, and how a shard is loaded from what the last one left. Apply and reads
//! go on while one is written: it works on a layer that was set aside and takes the lock for moments only.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::Instant;

use iris_protocol::{EntryId, ShardId};

use super::cursors::Cursors;
use super::dedup::Dedup;
use super::layer::Layer;
use super::types::{CheckpointReport, ShardStats, StoreOptions};
use super::{ShardStore, State};
use crate::StoreError;
use crate::warm::{BucketId, BucketKeys, Changes, ShardRow, WarmStore};

/// Keys copied or dropped while the lock is held once: some 100 us.
const KEYS_AT_ONCE: usize = 1_024;

/// A layer on its way to the warm tier, with the row that goes with it. Never changes.
pub(super) struct Frozen {
    pub(super) layer: Layer,
    row: ShardRow,
    /// Dedup buckets that went since the checkpoint before.
    dedup_removed: Vec<BucketId>,
    /// The checkpoint before ended here.
    after: EntryId,
}

impl State {
    /// What the last checkpoint left; empty before the first.
    pub(super) fn load(warm: &dyn WarmStore, shard: ShardId, options: &StoreOptions) -> Result<Self, StoreError> {
        let row = warm.shard(shard)?.unwrap_or_default();
        let mut cursors = Cursors::default();
        warm.cursors(shard, &mut |row| {
            cursors.raise(&row.user, &row.device, row.cursor, row.seen);
        })?;
        let mut dedup = Dedup::new(options, &row.dedup, row.last_stamp);
        dedup.load(|bucket, each| warm.dedup_keys(shard, bucket, each))?;
        Ok(Self {
            applied: row.mark.clone(),
            checkpointed: row.mark,
            last_stamp: row.last_stamp,
            floor: row.last_stamp,
            active: Layer::default(),
            frozen: None,
            dedup,
            cursors,
            stats: ShardStats { dedup_keys_on_disk: row.dedup.keys(), ..ShardStats::default() },
        })
    }

    /// Sets everything applied aside for a checkpoint, or the layer that a failed one left.
    fn freeze(&mut self) -> Option<Arc<Frozen>> {
        if self.frozen.is_none() {
            if self.applied == self.checkpointed {
                return None;
            }
            let row = ShardRow { mark: self.applied.clone(), last_stamp: self.last_stamp, dedup: self.dedup.row() };
            let (layer, dedup_removed) = (std::mem::take(&mut self.active), self.dedup.take_removed());
            self.frozen = Some(Arc::new(Frozen { layer, row, dedup_removed, after: self.floor }));
        }
        self.frozen.clone()
    }

    /// The frozen layer is on disk.
    fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.floor = frozen.row.last_stamp;
            self.checkpointed = frozen.row.mark.clone();
            self.dedup.written(self.floor);
            self.stats.checkpoints += 1;
            self.stats.dedup_keys_on_disk = frozen.row.dedup.keys();
        }
    }
}

impl ShardStore {
    /// Writes everything applied so far to the warm tier, durably and at once, and frees its memory. Apply and reads go on
    /// meanwhile. Blocks on the disk.
    ///
    /// Does nothing when nothing was applied since the last one. Nor does it while the shard is busy as a whole: a snapshot is
    /// being installed, another checkpoint is under way or, with sled, a snapshot is being copied out. That can take minutes,
    /// and the node's other shards wait for this call: a later one does it. The report's mark tells what is durable.
    ///
    /// # Errors
    /// The disk's; nothing is lost from memory then, and the mark of [`ShardStore::checkpointed`] stays.
    pub fn checkpoint(&self) -> Result<CheckpointReport, StoreError> {
        let nothing_done = || CheckpointReport { mark: self.checkpointed(), ..CheckpointReport::default() };
        let _one = match self.inner.checkpointing.try_lock() {
            Ok(one) => one,
            // Whoever panicked with it left the state whole, or marked as replaced.
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(nothing_done()),
        };
        if self.inner.replaced.load(Ordering::SeqCst) {
            return Err(StoreError::Poisoned { path: self.inner.warm.path().to_owned() });
        }
        let started = Instant::now();
        let Some(frozen) = self.state().freeze() else {
            return Ok(nothing_done());
        };
        let (inboxes, trims, cursors, cursors_removed) =
            (frozen.layer.inboxes(), frozen.layer.trims(), frozen.layer.cursors(), frozen.layer.cursors_removed());
        let dedup = self.new_keys(&frozen);
        let changes = Changes {
            row: &frozen.row,
            inboxes: &inboxes,
            trims: &trims,
            cursors: &cursors,
            cursors_removed: &cursors_removed,
            dedup: &dedup,
            dedup_removed: &frozen.dedup_removed,
        };
        match self.inner.warm.checkpoint(self.inner.shard, &changes) {
            // The frozen layer stays as it is, for the next attempt.
            Err(StoreError::Busy { .. }) => return Ok(nothing_done()),
            written => written?,
        }
        let report = CheckpointReport {
            mark: frozen.row.mark.clone(),
            entries: frozen.layer.entries_len(),
            bytes: frozen.layer.bytes(),
            cursors: cursors.len(),
            keys: dedup.iter().map(|bucket| bucket.keys.len()).sum(),
            took: started.elapsed(),
        };
        // The layer itself is freed after the lock, when `frozen` goes: that takes milliseconds.
        self.state().thaw();
        while self.state().dedup.trim_memory(KEYS_AT_ONCE) {}
        Ok(report)
    }

    /// The keys of the frozen layer, by bucket. They stay in memory until they are written; those that were forgotten since
    /// are not among them. Copied in pieces, so that apply never waits for long.
    fn new_keys(&self, frozen: &Frozen) -> Vec<BucketKeys> {
        let mut buckets: Vec<BucketKeys> = Vec::new();
        let mut after = frozen.after;
        loop {
            let keys = self.state().dedup.keys_between(after, frozen.row.last_stamp, KEYS_AT_ONCE);
            let Some(last) = keys.last() else { break };
            after = last.id;
            for key in keys {
                let Some(bucket) = frozen.row.dedup.bucket_of(key.key, key.id) else { continue };
                match buckets.iter_mut().rev().find(|known| known.bucket == bucket) {
                    Some(known) => known.keys.push(key),
                    None => buckets.push(BucketKeys { bucket, keys: vec![key] }),
                }
            }
        }
        // In the order in which they will lie on disk: each page is touched once.
        for bucket in &mut buckets {
            bucket.keys.sort_unstable_by(|a, b| (a.key, &a.sender).cmp(&(b.key, &b.sender)));
        }
        buckets
    }
}
