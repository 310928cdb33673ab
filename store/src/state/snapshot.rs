//! A shard as a whole: its last checkpoint as a snapshot, and another replica's snapshot in its place.

use std::sync::atomic::Ordering;

use super::{ShardStats, ShardStore, State, lock};
use crate::StoreError;
use crate::snapshot::{ShardSnapshot, SnapshotFile};

impl ShardStore {
    /// Pins the last checkpoint; `None` before the first. Cheap. Copy it out and let go: see [`ShardSnapshot`].
    ///
    /// # Errors
    /// The disk's, or damage.
    pub fn snapshot(&self) -> Result<Option<ShardSnapshot>, StoreError> {
        let view = self.inner.warm.view(self.inner.shard)?;
        Ok(view.map(|view| ShardSnapshot::new(self.inner.shard, view)))
    }

    /// Replaces the shard by a snapshot, on disk and in memory; a crash at any point leaves the old shard or the new one.
    /// Reads go on meanwhile. The caller applies nothing meanwhile, and next what follows the snapshot's mark. Blocks.
    ///
    /// # Errors
    /// A damaged file, one of another shard, one older than what is applied here, or the disk's.
    pub fn install(&self, file: &SnapshotFile) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _no_checkpoint = lock(&inner.checkpointing);
        let (row, mut records) = file.shard_records(inner.shard)?;
        let applied = self.applied();
        if !applied.log_id.is_empty() && row.mark.index < applied.index {
            let (shard, index) = (inner.shard, row.mark.index);
            return Err(StoreError::OutOfOrder { shard, index, applied: applied.index });
        }
        // Once it is swapped in, memory is older than the disk, and a checkpoint of memory would put the old row over the new
        // one. Said before, because an install may fail, or panic, on either side of the swap.
        let before = inner.warm.shard(inner.shard)?;
        let replaced = inner.replaced.swap(true, Ordering::SeqCst);
        if let Err(error) = inner.warm.install(inner.shard, &row, &mut records) {
            let unchanged = inner.warm.shard(inner.shard).is_ok_and(|now| now == before);
            inner.replaced.store(replaced || !unchanged, Ordering::SeqCst);
            return Err(error);
        }
        let new = State::load(inner.warm.as_ref(), inner.shard, &inner.options)?;
        let old = {
            let mut state = self.state();
            let stats = ShardStats { dedup_keys_on_disk: new.stats.dedup_keys_on_disk, ..state.stats.clone() };
            std::mem::replace(&mut *state, State { stats, ..new })
        };
        inner.replaced.store(false, Ordering::SeqCst);
        // Freed without the lock: that takes milliseconds.
        drop(old);
        Ok(())
    }
}
