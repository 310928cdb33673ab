//! A shard as a snapshot: its last checkpoint pinned, copied out, and read back for an install. The first record is the
//! shard's row, the rest are the warm tier's records.

use std::path::Path;

use iris_protocol::{ShardId, versioned};

use super::{SnapshotFile, SnapshotWriter, Subject};
use crate::StoreError;
use crate::state::AppliedMark;
use crate::warm::{ShardRow, WarmRecord, WarmView, decode_record, encode_record};

/// A shard's last checkpoint, pinned. Hold it no longer than it takes to copy it out.
pub struct ShardSnapshot {
    shard: ShardId,
    view: Box<dyn WarmView>,
}

impl ShardSnapshot {
    pub(crate) fn new(shard: ShardId, view: Box<dyn WarmView>) -> Self {
        Self { shard, view }
    }

    /// How far the log is applied in it.
    #[must_use]
    pub fn mark(&self) -> &AppliedMark {
        &self.view.row().mark
    }

    /// Copies it out into a file in `dir`, at the disk's speed. Blocks.
    ///
    /// # Errors
    /// The disk's, or damage: nothing is left in `dir` then.
    pub fn export(mut self, dir: &Path) -> Result<SnapshotFile, StoreError> {
        let mut writer = SnapshotWriter::create(dir, Subject::Shard(self.shard), self.mark().clone())?;
        writer.record(&versioned::encode(self.view.row()))?;
        let mut encoded = Vec::new();
        self.view.each(&mut |record| {
            encoded.clear();
            encode_record(&record, &mut encoded);
            writer.record(&encoded)
        })?;
        // The warm tier is let go before the copy is fsynced.
        drop(self.view);
        writer.finish()
    }
}

impl std::fmt::Debug for ShardSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardSnapshot").field("shard", &self.shard).field("mark", self.mark()).finish_non_exhaustive()
    }
}

impl SnapshotFile {
    /// The row and the records of a shard's snapshot.
    pub(crate) fn shard_records(
        &self,
        shard: ShardId,
    ) -> Result<(ShardRow, impl Iterator<Item = Result<WarmRecord, StoreError>>), StoreError> {
        if self.manifest().subject != Subject::Shard(shard) {
            return Err(self.damaged(format!("it is of {}, not of shard {shard}", self.manifest().subject)));
        }
        let mut records = self.records();
        let row = records.next().ok_or_else(|| self.damaged("it is empty"))??;
        let row: ShardRow = versioned::decode(&row).map_err(|error| self.damaged(error.to_string()))?;
        if row.mark != self.manifest().mark {
            return Err(self.damaged("its row isn't the one of its mark"));
        }
        let decode = |record| decode_record(&record).map_err(|why| self.damaged(why));
        Ok((row, records.map(move |record| record.and_then(decode))))
    }
}
