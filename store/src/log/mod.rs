//! skeleton
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// A group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);
/// Options.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Folder.
    pub dir: PathBuf,
    /// Bytes.
    pub segment_bytes: u64,
    /// Bytes.
    pub purge_threshold_bytes: u64,
    /// Operations.
    pub queue_len_max: usize,
    /// Bytes.
    pub queue_bytes_max: usize,
    /// Bytes.
    pub cache_bytes_max: usize,
}
impl LogOptions {
    /// Defaults.
    pub fn new(_dir: impl Into<PathBuf>) -> Self {
        unimplemented!()
    }
}
/// Error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Closed.
    #[error("closed")]
    Closed,
}
/// Entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Index.
    pub index: u64,
    /// Bytes.
    pub bytes: Bytes,
}
/// Stats.
#[derive(Debug, Clone, Default)]
pub struct LogStats {
    /// Count.
    pub fsyncs: u64,
    /// Count.
    pub entries: u64,
    /// Count.
    pub bytes: u64,
    /// Sum.
    pub fsync_us_sum: u64,
    /// Max.
    pub fsync_us_max: u64,
    /// Buckets: `[i]` counts fsyncs of less than `2^i` us (and at least half of that).
    pub fsync_us_buckets: [u64; 25],
    /// Length.
    pub queue_len: usize,
}
/// Log.
#[derive(Clone)]
pub struct RaftLog;
impl RaftLog {
    /// Opens.
    pub fn open(_options: LogOptions) -> Result<RaftLog, LogError> {
        unimplemented!()
    }
    /// Opens.
    pub fn open_with<F: raft_engine::env::FileSystem + 'static>(
        _options: LogOptions,
        _fs: Arc<F>,
    ) -> Result<RaftLog, LogError> {
        unimplemented!()
    }
    /// Group.
    pub fn group(&self, _id: GroupId) -> GroupLog {
        unimplemented!()
    }
    /// Stats.
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }
    /// Closed.
    pub fn closed(&self) -> impl Future<Output = Option<LogError>> + Send + use<> {
        async { unimplemented!() }
    }
    /// Shutdown.
    pub fn shutdown(&self) {}
}
/// Group log.
#[derive(Clone)]
pub struct GroupLog;
/// Called after the fsync.
pub type AppendDone = Box<dyn FnOnce(Result<(), LogError>) + Send>;
impl GroupLog {
    /// First.
    pub fn first_index(&self) -> Option<u64> {
        unimplemented!()
    }
    /// Last.
    pub fn last_index(&self) -> Option<u64> {
        unimplemented!()
    }
    /// Appends.
    pub async fn append(&self, _entries: Vec<LogEntry>, _done: AppendDone) -> Result<(), LogError> {
        unimplemented!()
    }
    /// Truncates.
    pub async fn truncate_after(&self, _last_kept: Option<u64>) -> Result<(), LogError> {
        unimplemented!()
    }
    /// Purges.
    pub async fn purge_to(&self, _index: u64) -> Result<(), LogError> {
        unimplemented!()
    }
    /// Puts.
    pub async fn put(&self, _key: &'static [u8], _value: Vec<u8>) -> Result<(), LogError> {
        unimplemented!()
    }
    /// Gets.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        unimplemented!()
    }
    /// Reads.
    pub fn read(&self, _range: Range<u64>, _bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        unimplemented!()
    }
}
