//! What can go wrong with the log, in words for the operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::GroupId;

/// Why a log operation failed. Cheap to clone: one failed fsync answers everyone who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The log was shut down.
    #[error("the Raft log is closed")]
    Closed,
    /// An earlier write failed: what is on disk is unknown, so nothing more is written or read.
    #[error("the Raft log failed and takes nothing more ({why}). Check the disk, then restart the node")]
    Failed {
        /// The first failure.
        why: Arc<str>,
    },
    /// The operating system or the engine failed.
    #[error("{path}: {action} failed: {why}", path = .path.display())]
    Io {
        /// The log's folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's own words.
        why: Arc<str>,
    },
    /// What is on disk can't be what was written.
    #[error("{path}: the Raft log is damaged: {why}. Don't delete it: keep a copy of the data folder; the other nodes may hold the data", path = .path.display())]
    Corrupt {
        /// The log's folder.
        path: PathBuf,
        /// What was found.
        why: Arc<str>,
    },
    /// Entries that don't follow the last one: a bug above.
    #[error("group {group}: entry {found} can't follow, {expected} is next", group = .group.0)]
    Gap {
        /// The group.
        group: GroupId,
        /// The index that would follow.
        expected: u64,
        /// The index given.
        found: u64,
    },
    /// A key the log keeps for itself, or an empty one: a bug above.
    #[error("the key {key:?} can't be used in the Raft log")]
    Key {
        /// The key.
        key: String,
    },
}

impl LogError {
    pub(super) fn io(path: &Path, action: &'static str, why: &dyn std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), action, why: why.to_string().into() }
    }

    pub(super) fn corrupt(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::Corrupt { path: path.to_owned(), why: why.to_string().into() }
    }

    /// The engine's error, told apart: damage or a failing system.
    pub(super) fn engine(path: &Path, action: &'static str, error: &raft_engine::Error) -> Self {
        match error {
            raft_engine::Error::Corruption(_)
            | raft_engine::Error::Codec(_)
            | raft_engine::Error::Protobuf(_)
            | raft_engine::Error::EntryCompacted
            | raft_engine::Error::EntryNotFound => Self::corrupt(path, &format!("{action}: {error}")),
            _ => Self::io(path, action, error),
        }
    }

    /// What a panic inside the engine said: it panics where fsync fails, and on some damaged bytes.
    pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("panicked").to_owned()
    }
}
