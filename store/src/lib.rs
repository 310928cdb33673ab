//! What one Iris node keeps on its disks: the Raft log of all its groups, the inbox state of its shards (hot in memory, warm
//! in an embedded store), exact deduplication, cursors, and checked files. Knows neither Raft's messages nor the network:
//! log ids and memberships are opaque bytes here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod check;
pub mod checked_file;
pub mod command;
mod error;
#[cfg(test)]
mod formats_tests;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
pub mod room;
mod settle;
pub mod snapshot;
pub mod state;
#[cfg(feature = "testing")]
pub mod testing;
pub mod warm;

pub use checked_file::{create_private_dir, read_checked, write_checked};
pub use command::{CommandError, Item, KeysSeen, NewMessage, Outcome, decode_batch, encode_batch, encode_command};
pub use error::StoreError;
pub use log::{GroupId, GroupLog, LogEntry, LogError, LogOptions, LogStats, RaftLog};
#[cfg(feature = "testing")]
pub use log::{LogStepper, Step};
pub use snapshot::{
    ShardSnapshot, SnapshotFile, SnapshotId, SnapshotManifest, SnapshotReceiver, SnapshotWriter, Subject,
};
pub use state::{
    AppliedMark, ApplyReply, CheckpointReport, DEDUP_IN_FLIGHT_KEYS_MAX, DEDUP_RECENT_KEYS, Entry, Page, PageLimits,
    Resolution, RetentionLook, RetentionTimes, ShardStats, ShardStore, StoreOptions,
};
pub use warm::{Warm, WarmStore};
