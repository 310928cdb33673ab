//! skeleton
mod types;

use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, ShardId, UserId};

use crate::{StoreError, WarmStore};

pub use types::{
    AppliedMark, ApplyReply, CheckpointReport, Entry, Page, PageLimits, ShardStats, StoreOptions,
};

/// Shard.
#[derive(Clone)]
pub struct ShardStore;
impl ShardStore {
    /// Opens.
    pub fn open(_warm: Arc<dyn WarmStore>, _shard: ShardId, _options: StoreOptions) -> Result<ShardStore, StoreError> {
        unimplemented!()
    }
    /// Applied.
    pub fn applied(&self) -> AppliedMark {
        unimplemented!()
    }
    /// Checkpointed.
    pub fn checkpointed(&self) -> AppliedMark {
        unimplemented!()
    }
    /// Applies.
    pub fn apply(&self, _index: u64, _log_id: Bytes, _command: &Bytes) -> Result<ApplyReply, StoreError> {
        unimplemented!()
    }
    /// Blank.
    pub fn apply_blank(&self, _index: u64, _log_id: Bytes) {}
    /// Membership.
    pub fn apply_membership(&self, _index: u64, _log_id: Bytes, _membership: Bytes) {}
    /// Last.
    pub fn last_stamp(&self) -> EntryId {
        unimplemented!()
    }
    /// Reads.
    pub fn read_hot(&self, _user: &UserId, _after: EntryId, _limits: PageLimits) -> Option<Page> {
        unimplemented!()
    }
    /// Reads.
    pub fn read(&self, _user: &UserId, _after: EntryId, _limits: PageLimits) -> Result<Page, StoreError> {
        unimplemented!()
    }
    /// Cursor.
    pub fn cursor(&self, _user: &UserId, _device: &DeviceId) -> Result<EntryId, StoreError> {
        unimplemented!()
    }
    /// Bytes.
    pub fn hot_bytes(&self) -> usize {
        unimplemented!()
    }
    /// Full.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }
    /// Checkpoint.
    pub fn checkpoint(&self) -> Result<CheckpointReport, StoreError> {
        unimplemented!()
    }
    /// Stats.
    pub fn stats(&self) -> ShardStats {
        unimplemented!()
    }
}
