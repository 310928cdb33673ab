//! Snapshots as files: a shard's last checkpoint (or the meta group's state) copied out once, sent in chunks, taken up again
//! where it broke off, and installed as a whole. Owns the file's layout, its checks and its names; who sends it to whom, and
//! when, is not known here.
//!
//! One file: a head (what it is, its [`SnapshotManifest`] but for the totals), chunks of at most [`CHUNK_LEN_MAX`] bytes, a
//! trailer with the totals. Every chunk but the last is full, so a chunk's place follows from its number. Each carries its
//! number and a checksum over the snapshot's id, the number and the content: one of another snapshot, or in another place,
//! is as wrong as a damaged one. Checksums are against accidents; peers are members, and authenticated by the transport.

mod file;
mod layout;
mod receiver;
mod records;
mod shard;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use iris_protocol::ShardId;
use iris_protocol::versioned::Versioned;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::checked_file::io_error;
use crate::state::AppliedMark;

pub use file::SnapshotFile;
pub use layout::CHUNK_LEN_MAX;
pub use receiver::SnapshotReceiver;
pub use records::{RECORD_LEN_MAX, Records};
pub use shard::ShardSnapshot;
pub use writer::SnapshotWriter;

/// Names one copy: two of the same state are two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotId(pub [u8; 16]);

impl SnapshotId {
    /// One that no other snapshot has. Not a secret, so the seeds of the standard library's tables are random enough.
    fn fresh() -> Self {
        let salt = (SystemTime::now(), std::process::id());
        let halves = [RandomState::new().hash_one(salt), RandomState::new().hash_one(salt)];
        let mut id = [0; 16];
        for (bytes, half) in id.chunks_exact_mut(8).zip(halves) {
            bytes.copy_from_slice(&half.to_le_bytes());
        }
        Self(id)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// The meta group's.
    Meta,
    /// A shard's.
    Shard(ShardId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Shard(shard) => write!(f, "shard-{shard}"),
        }
    }
}

/// What a receiver must know before the first chunk; travels first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// Its name.
    pub id: SnapshotId,
    /// Whose state.
    pub subject: Subject,
    /// How far the log is applied in it.
    pub mark: AppliedMark,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of content in them.
    pub bytes: u64,
}

impl Versioned for SnapshotManifest {
    const NAME: &'static str = "snapshot manifest";
    const VERSION: u8 = 1;
}

/// What a file is for, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Being written: worth nothing after a crash.
    Written,
    /// Being received: taken up again after a crash.
    Received,
    /// Whole.
    Whole,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Written, Self::Received, Self::Whole];

    fn ending(self) -> &'static str {
        match self {
            Self::Written => "tmp",
            Self::Received => "part",
            Self::Whole => "snap",
        }
    }
}

fn file_path(dir: &Path, subject: Subject, id: SnapshotId, stage: Stage) -> PathBuf {
    dir.join(format!("{subject}-{id}.{}", stage.ending()))
}

/// Removes what crashed exports and receptions left, those of `keep` excepted. To be called before any begins.
///
/// # Errors
/// The system's. A folder that isn't there is empty.
pub fn clear_old(dir: &Path, keep: &[SnapshotId]) -> Result<(), StoreError> {
    let keep: HashSet<String> = keep.iter().map(ToString::to_string).collect();
    remove_files(dir, |name, stage| stage == Stage::Written || !keep.iter().any(|id| name.ends_with(id)))
}

/// Removes the subject's other files: one per subject is kept at most. Whoever still reads one of them goes on doing so.
fn remove_others(dir: &Path, subject: Subject, id: SnapshotId) -> Result<(), StoreError> {
    let (prefix, this) = (format!("{subject}-"), id.to_string());
    // The id's length tells "shard-1" from "shard-12".
    let len = prefix.len() + this.len();
    remove_files(dir, |name, _| name.starts_with(&prefix) && name.len() == len && !name.ends_with(&this))
}

fn remove_files(dir: &Path, which: impl Fn(&str, Stage) -> bool) -> Result<(), StoreError> {
    let failed = |source| io_error(dir, "removing old snapshots", source);
    let files = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        files => files.map_err(failed)?,
    };
    for file in files {
        let path = file.map_err(failed)?.path();
        let stage = Stage::ALL.into_iter().find(|stage| path.extension().is_some_and(|is| is == stage.ending()));
        let name = path.file_stem().and_then(|name| name.to_str());
        if let (Some(stage), Some(name)) = (stage, name)
            && which(name, stage)
        {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
    Ok(())
}
