//! raft-engine behind an object-safe trait, so that the file system's type stays out of [`super::RaftLog`]. Owns its
//! configuration and what is put right at open: bounds that the engine itself can forget.
//!
//! What the engine can't do alone: drop a suffix without appending, and remember a purge once its file is gone. Both are
//! kept as a small value beside the entries ([`Bounds`]), always overwritten and never deleted, because the engine carries
//! values but not deletions through its purge.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use iris_protocol::versioned::{self, Versioned};
use raft_engine::env::FileSystem;
use raft_engine::{Command, Config, LogBatch, ReadableSize, RecoveryMode};
use serde::{Deserialize, Serialize};

use super::record::{Record, Records};
use super::{LogError, LogOptions, heads};
use crate::checked_file::{create_private_dir, sync_dir};
use crate::room::is_want;
use crate::settle::settle;

/// Where a group's [`Bounds`] are kept.
pub(super) const BOUNDS_KEY: &[u8] = b"iris.bounds";

/// A group that still needs many entries of the oldest files is first asked to purge itself, this many times since the
/// process started; then the engine rewrites them. Our groups keep what they keep on purpose, and a process that ends after a
/// few purges would never get there.
const PURGES_UNTIL_REWRITE: u32 = 10;

/// Which of the entries the engine holds are really there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// Everything up to here was purged.
    pub(super) floor: Option<u64>,
    pub(super) keep: Keep,
}

/// How much of the log's end a truncation left; an append lifts it in the same write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Keep {
    #[default]
    All,
    UpTo(u64),
    Nothing,
}

impl Versioned for Bounds {
    const NAME: &'static str = "log bounds";
    const VERSION: u8 = 1;
}

impl Bounds {
    /// What remains of the engine's first and last index.
    pub(super) fn clip(&self, (first, last): (u64, u64)) -> Option<(u64, u64)> {
        let first = self.floor.map_or(first, |floor| first.max(floor.saturating_add(1)));
        let last = match self.keep {
            Keep::All => last,
            Keep::UpTo(kept) => last.min(kept),
            Keep::Nothing => return None,
        };
        (first <= last).then_some((first, last))
    }
}

/// What the log needs of raft-engine.
pub(super) trait Engine: Send + Sync {
    /// One write and one fsync. May panic when the fsync fails: callers guard it.
    fn write(&self, batch: &mut LogBatch) -> raft_engine::Result<usize>;
    /// Entries from disk. May panic on damaged bytes, and keeps a block per thread that doesn't know whose it is: only
    /// [`super::read::Reader`]'s thread calls it.
    fn fetch(&self, group: u64, begin: u64, end: u64, bytes_max: usize) -> raft_engine::Result<Vec<Record>>;
    fn value(&self, group: u64, key: &[u8]) -> Option<Vec<u8>>;
    fn span(&self, group: u64) -> Option<(u64, u64)>;
    /// Removes files nobody needs, rewriting what is still needed of them; insists on it when they are larger than
    /// that together.
    fn purge(&self, bytes_max: u64) -> raft_engine::Result<()>;
    fn groups(&self) -> Vec<u64>;
}

impl<F: FileSystem> Engine for raft_engine::Engine<F> {
    fn write(&self, batch: &mut LogBatch) -> raft_engine::Result<usize> {
        self.write(batch, true)
    }

    fn fetch(&self, group: u64, begin: u64, end: u64, bytes_max: usize) -> raft_engine::Result<Vec<Record>> {
        let mut records = Vec::new();
        self.fetch_entries_to::<Records>(group, begin, end, Some(bytes_max), &mut records)?;
        Ok(records)
    }

    fn value(&self, group: u64, key: &[u8]) -> Option<Vec<u8>> {
        self.get(group, key)
    }

    fn span(&self, group: u64) -> Option<(u64, u64)> {
        self.first_index(group).zip(self.last_index(group))
    }

    fn purge(&self, bytes_max: u64) -> raft_engine::Result<()> {
        for _ in 0..PURGES_UNTIL_REWRITE {
            self.purge_expired_files()?;
            if self.get_used_size() as u64 <= bytes_max {
                break;
            }
        }
        Ok(())
    }

    fn groups(&self) -> Vec<u64> {
        self.raft_groups()
    }
}

/// Whether the engine failed before anything was on disk, and can be asked again: there was no room, in which case it cut off
/// what it had begun, or a new file could not be opened. A failed fsync never comes this way: the engine panics.
pub(super) fn wrote_nothing(error: &raft_engine::Error) -> bool {
    match error {
        // Its word for a full disk, once it had given up.
        raft_engine::Error::TryAgain(_) => true,
        // It keeps an error's kind and the name of the call, not its number; `open` fails for want of files.
        raft_engine::Error::Io(error) => is_want(error) || error.to_string() == "open",
        _ => false,
    }
}

/// Opens the engine and puts its bounds right.
pub(super) fn open<F: FileSystem + 'static>(options: &LogOptions, fs: Arc<F>) -> Result<Arc<dyn Engine>, LogError> {
    let dir = &options.dir;
    create_private_dir(dir).map_err(|error| LogError::io(dir, "creating the log's folder", &error))?;
    // What a process before this one left in the system's memory is no log: it must be on disk, and be read from there.
    settle(dir).map_err(|error| LogError::io(dir, "fsync of what is there", &error))?;
    heads::check(dir)?;
    let config = config(options)?;
    // Recovery asserts on bytes it didn't expect; damage must come back as an error.
    let engine = match catch_unwind(AssertUnwindSafe(|| raft_engine::Engine::open_with_file_system(config, fs))) {
        Ok(Ok(engine)) => engine,
        Ok(Err(error)) => return Err(LogError::engine(dir, "opening the Raft log", &error)),
        Err(panic) => return Err(LogError::corrupt(dir, &LogError::panic_text(&*panic))),
    };
    if let Err(error) = repair(&engine, dir) {
        // As in the writer's failure: closing it on a failing disk would abort the process.
        std::mem::forget(engine);
        return Err(error);
    }
    // The engine syncs its folder when it begins another file, and not for the first: a power cut would take that file away, and
    // with it every vote and entry fsynced in it.
    if let Err(error) = sync_dir(&dir.join("any file")) {
        std::mem::forget(engine);
        return Err(LogError::io(dir, "fsync of the log's folder", &error));
    }
    Ok(Arc::new(engine))
}

fn config(options: &LogOptions) -> Result<Config, LogError> {
    let dir = options.dir.to_str();
    let dir = dir.ok_or_else(|| LogError::io(&options.dir, "opening the Raft log", &"the path isn't UTF-8"))?;
    Ok(Config {
        dir: dir.to_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 2,
        // Bodies are end-to-end encrypted more often than not: compressing them costs and gains nothing.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(options.segment_bytes),
        purge_threshold: ReadableSize(options.purge_threshold_bytes.max(options.segment_bytes)),
        // A recycled file's old bytes would lie behind the new tail; not worth it at our rate of rotation.
        enable_log_recycle: false,
        ..Config::default()
    })
}

/// Drops again, from the engine's index, what a purge or a truncation had dropped and recovery brought back.
fn repair(engine: &dyn Engine, dir: &Path) -> Result<(), LogError> {
    let mut compactions = BTreeMap::new();
    for group in engine.groups() {
        let Some(found) = engine.span(group) else { continue };
        match load_bounds(engine, group, dir)?.clip(found) {
            None => drop(compactions.insert(group, found.1 + 1)),
            Some((first, _)) if first > found.0 => drop(compactions.insert(group, first)),
            Some(_) => {}
        }
    }
    if compactions.is_empty() {
        return Ok(());
    }
    let mut batch = LogBatch::default();
    for (group, index) in compactions {
        batch.add_command(group, Command::Compact { index });
    }
    match catch_unwind(AssertUnwindSafe(|| engine.write(&mut batch))) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(LogError::engine(dir, "writing the Raft log", &error)),
        Err(panic) => Err(LogError::io(dir, "writing the Raft log", &LogError::panic_text(&*panic))),
    }
}

pub(super) fn load_bounds(engine: &dyn Engine, group: u64, dir: &Path) -> Result<Bounds, LogError> {
    match engine.value(group, BOUNDS_KEY) {
        None => Ok(Bounds::default()),
        Some(bytes) => versioned::decode(&bytes).map_err(|error| LogError::corrupt(dir, &error)),
    }
}
