//! What can go wrong with the state of a shard. Every message names the file and what the operator can do about it; the
//! log has an error of its own ([`crate::LogError`]).

use std::path::PathBuf;
use std::sync::Arc;

use iris_protocol::{EntryId, ShardId};

use crate::command::CommandError;

/// Why the store refused or failed. Cheap to clone, so that one failure can answer many waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed: disk full, disk error, damage.
    #[error("{path}: {action} failed: {source}. Check free space and the disk's health, then start again; if it stays, this node's data is damaged: keep a copy of the data folder", path = .path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// SQLite's own words.
        source: Arc<rusqlite::Error>,
    },
    /// The folder was made with another engine than the one asked for.
    #[error("{path} keeps its inboxes in {made}, not in {asked}: set store.engine = \"{made}\". To change the engine, let this machine join as a new node with an empty folder", path = .path.display())]
    Engine {
        /// The data folder.
        path: PathBuf,
        /// The engine it was made with.
        made: String,
        /// The one asked for.
        asked: String,
    },
    /// sled failed in a way of its own.
    #[error("{path}: {action} failed: {why}. Start again; if it stays, this node's data is damaged: keep a copy of the data folder", path = .path.display())]
    Sled {
        /// The store's folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// sled's own words.
        why: String,
    },
    /// The operating system failed.
    #[error("{path}: {action} failed: {source}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's own words.
        source: Arc<std::io::Error>,
    },
    /// A checksum or an encoding is wrong: the file was damaged or written by something else.
    #[error("{path}: {what} is damaged ({why}). Don't delete the file: keep a copy of the data folder; the other nodes may hold the data", path = .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// What was found.
        why: String,
    },
    /// A snapshot on its way in is not as it was announced.
    #[error("{path}: the transfer of a snapshot went wrong: {why}. It is asked for again", path = .path.display())]
    Transfer {
        /// Where it would have gone.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// Written by another version of Iris.
    #[error("{path} has format {found}, this Iris reads up to {known}. Start the Iris that wrote it, or a newer one", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Format found.
        found: i64,
        /// Format known.
        known: i64,
    },
    /// Another process has the file.
    #[error("{path} is in use by another process. Is an iris already running on this folder?", path = .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The shard is being copied out, and the engine can't write it meanwhile. Nothing was written; a later attempt succeeds.
    #[error("{path}: shard {shard} is being copied out; its checkpoint is put off", path = .path.display())]
    Busy {
        /// The store.
        path: PathBuf,
        /// The shard.
        shard: ShardId,
    },
    /// The disk has too little room to begin with it. Nothing was written; it may be tried again.
    #[error("{path}: {action} needs {needed} bytes of room, {free} are free. Make room on the disk: it is tried again by itself", path = .path.display())]
    NoRoom {
        /// The store.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// Bytes it may take.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// A checkpoint failed earlier; whether it reached the disk is unknown.
    #[error("{path}: an earlier checkpoint failed and is not retried, because what reached the disk is unknown. Restart the node", path = .path.display())]
    Poisoned {
        /// The database file.
        path: PathBuf,
    },
    /// A log entry that is not a command: every replica refuses it alike.
    #[error("shard {shard}, log index {index}: {source}")]
    Command {
        /// The shard.
        shard: ShardId,
        /// The log index.
        index: u64,
        /// What was wrong.
        source: CommandError,
    },
    /// Applied twice, or backwards: a bug above.
    #[error("shard {shard}: log index {index} comes after {applied} was applied")]
    OutOfOrder {
        /// The shard.
        shard: ShardId,
        /// The index given.
        index: u64,
        /// The last index applied.
        applied: u64,
    },
    /// The id space of the shard is used up: a clock ran far into the future.
    #[error("shard {shard}: no entry id is left after {last}: a leader's clock was set absurdly far ahead")]
    IdsExhausted {
        /// The shard.
        shard: ShardId,
        /// Its last id.
        last: EntryId,
    },
}
