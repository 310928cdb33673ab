//! The Raft log of a node: one raft-engine for all groups, written by one thread, so that everything waiting shares one
//! write and one fsync (E4). Owns durability, order and the cache of recent entries; knows nothing of terms or votes:
//! entries and values are opaque bytes.
//!
//! An entry is readable as soon as [`GroupLog::append`] returns, and durable once its callback was called. A write or
//! fsync that failed ends the writer for good: it is never retried as success, and every later operation fails (C9).

mod check;
mod engine;
mod error;
mod group;
mod heads;
mod marked;
mod overlay;
mod queue;
mod read;
mod record;
mod stats;
#[cfg(feature = "testing")]
mod stepped;
mod weight;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use raft_engine::env::{DefaultFileSystem, FileSystem};
use tokio::sync::watch;

pub(crate) use check::check;
pub use check::{GroupSpan, LogJudge};
pub use error::LogError;
pub use group::{AppendDone, GroupLog};
pub use stats::LogStats;
#[cfg(feature = "testing")]
pub use stepped::{LogStepper, Step};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {engine::Bounds, record::Record};

use crate::checked_file::create_private_dir;
use engine::Engine;
use group::Group;
use marked::MarkedFs;
use queue::Queue;
use read::Reader;
use stats::Counters;

/// A Raft group's number in the log: 1 is the meta group, 100 + n is shard n. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// One entry: an index and opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its index; entries of a group are contiguous.
    pub index: u64,
    /// The caller's encoding.
    pub bytes: Bytes,
}

/// Where the log lives, and its bounds.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The folder; created with its parents, for this user only.
    pub dir: PathBuf,
    /// Size of one log file: small enough that purging frees space in steps, large enough that rotation is rare.
    pub segment_bytes: u64,
    /// Live and dead bytes above which purging rewrites what is still needed (raft-engine's own default is 10 GB).
    pub purge_threshold_bytes: u64,
    /// Operations waiting for the writer. When full, `append` and the others wait: the group's pace is the disk's.
    pub queue_len_max: usize,
    /// Bytes waiting for the writer, and so at most one write's size.
    pub queue_bytes_max: usize,
    /// Bytes of recent entries kept in memory, shared evenly by the groups; those not yet on disk come on top.
    pub cache_bytes_max: usize,
}

/// Size of one log file by default.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes that a scrub reads at once: others read in between.
const SCRUB_BYTES: usize = 256 * 1024;

/// Files that a bounded log is divided into at least, so that purging one gives back a small part of it.
const SEGMENTS_MIN: u64 = 8;

impl LogOptions {
    /// The defaults for a log that is kept to about so many bytes by purging its groups.
    #[must_use]
    pub fn bounded(dir: impl Into<PathBuf>, bytes_max: u64) -> Self {
        let segment_bytes = (bytes_max / SEGMENTS_MIN).clamp(1024 * 1024, SEGMENT_BYTES_MAX);
        Self { segment_bytes, purge_threshold_bytes: bytes_max, ..Self::new(dir) }
    }

    /// The defaults, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: SEGMENT_BYTES_MAX,
            purge_threshold_bytes: 512 * 1024 * 1024,
            queue_len_max: 4_096,
            queue_bytes_max: 32 * 1024 * 1024,
            cache_bytes_max: 32 * 1024 * 1024,
        }
    }
}

/// The log. Cheap to clone; when the last clone and the last [`GroupLog`] are dropped, what waits is written and the
/// writer ends.
#[derive(Clone)]
pub struct RaftLog {
    handle: Arc<Handle>,
}

/// What the threads and every handle share.
struct Shared {
    engine: Arc<dyn Engine>,
    queue: Queue,
    reader: Reader,
    counters: Counters,
    groups: Mutex<HashMap<GroupId, Arc<Group>>>,
    groups_len: AtomicUsize,
    /// About how long the entries of each group were when the log was opened.
    entry_len: HashMap<GroupId, u64>,
    cache_bytes_max: usize,
    /// Bytes of files above which purging insists.
    files_bytes_max: u64,
    /// Moves before and after files are removed, so that a read which lost its file knows to look again.
    purges: AtomicU64,
    /// The first damage that a read met.
    damaged: watch::Sender<Option<LogError>>,
    dir: PathBuf,
}

impl Shared {
    /// The first one stays.
    fn found_damage(&self, error: &LogError) {
        self.damaged.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert_with(|| error.clone());
            first
        });
    }
}

/// Ends the writer with the last handle.
struct Handle {
    shared: Arc<Shared>,
    closed: watch::Receiver<Option<Option<LogError>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RaftLog {
    /// Opens or creates the log.
    ///
    /// # Errors
    /// The folder can't be used, another process has it, or what is there is damaged.
    pub fn open(options: LogOptions) -> Result<Self, LogError> {
        let dir = options.dir.clone();
        create_private_dir(&dir).map_err(|error| LogError::io(&dir, "creating the log's folder", &error))?;
        heads::remove_unbegun(&dir)?;
        let fs = MarkedFs::new(DefaultFileSystem, &dir).map_err(|why| LogError::corrupt(&dir, &why))?;
        let fs = Arc::new(fs);
        match Self::open_with(options, fs.clone()) {
            Ok(log) => {
                fs.recovered();
                Ok(log)
            }
            Err(error) => Err(fs.refused().map_or(error, |why| LogError::corrupt(&dir, &why))),
        }
    }

    /// Opens or creates the log on a file system of the caller's: the seam for fault tests.
    ///
    /// # Errors
    /// As [`RaftLog::open`].
    pub fn open_with<F: FileSystem + 'static>(options: LogOptions, fs: Arc<F>) -> Result<Self, LogError> {
        let shared = Self::share(&options, fs)?;
        let (closing, closed) = watch::channel(None);
        let writer = writer::start(shared.clone(), closing)
            .map_err(|source| LogError::io(&options.dir, "starting the log's threads", &source))?;
        Ok(Self { handle: Arc::new(Handle { shared, closed, writer: Mutex::new(Some(writer)) }) })
    }

    fn share<F: FileSystem + 'static>(options: &LogOptions, fs: Arc<F>) -> Result<Arc<Shared>, LogError> {
        let engine = engine::open(options, fs)?;
        let failed = |source| LogError::io(&options.dir, "starting the log's threads", &source);
        let reader = Reader::start(engine.clone(), &options.dir).map_err(failed)?;
        let spans = engine.groups().into_iter().filter_map(|id| Some((id, engine.span(id)?)));
        let entry_len = spans.map(|(id, span)| (GroupId(id), weight::entry_len(&reader, id, span))).collect();
        Ok(Arc::new(Shared {
            queue: Queue::new(options.queue_len_max, options.queue_bytes_max),
            reader,
            counters: Counters::default(),
            groups: Mutex::default(),
            groups_len: AtomicUsize::new(0),
            entry_len,
            cache_bytes_max: options.cache_bytes_max,
            // The engine has two kinds of files, and aims at so much for one.
            files_bytes_max: options.purge_threshold_bytes.saturating_mul(2),
            purges: AtomicU64::new(0),
            damaged: watch::Sender::new(None),
            dir: options.dir.clone(),
            engine,
        }))
    }

    /// The log of one group; empty if it never had an entry. All handles of a group share their state.
    #[must_use]
    pub fn group(&self, id: GroupId) -> GroupLog {
        let shared = &self.handle.shared;
        let mut groups = lock(&shared.groups);
        let group = groups
            .entry(id)
            .or_insert_with(|| {
                shared.groups_len.fetch_add(1, Ordering::Relaxed);
                let entry_len = shared.entry_len.get(&id).copied().unwrap_or(0);
                Arc::new(Group::load(id, shared.engine.as_ref(), entry_len, &shared.dir))
            })
            .clone();
        GroupLog::new(self.handle.clone(), group)
    }

    /// Counters since the log was opened.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.handle.shared.counters.read(self.handle.shared.queue.len())
    }

    /// Resolves when the writer has ended, with the error if it failed: then the process must end (C9).
    pub fn closed(&self) -> impl Future<Output = Option<LogError>> + Send + use<> {
        let mut closed = self.handle.closed.clone();
        async move {
            match closed.wait_for(Option::is_some).await {
                Ok(end) => end.clone().flatten(),
                // The writer's thread says how it ended, even when it panicked; this is for a thread that was killed.
                Err(_) => Some(LogError::Failed { why: "the log writer vanished".into() }),
            }
        }
    }

    /// Reads every entry of every group, for damage that nobody would meet otherwise before it matters. Blocks on the disk.
    ///
    /// # Errors
    /// The first damage, or the disk's.
    pub fn scrub(&self) -> Result<(), LogError> {
        for id in self.handle.shared.engine.groups() {
            let group = self.group(GroupId(id));
            let mut next = group.first_index();
            while let Some(at) = next {
                next = group.read(at..u64::MAX, SCRUB_BYTES)?.last().map(|entry| entry.index + 1);
            }
        }
        Ok(())
    }

    /// Resolves when a read has met damage, with what was found: whoever asked for the entries is told the same, but may have
    /// no way to pass it on.
    pub fn damaged(&self) -> impl Future<Output = LogError> + Send + use<> {
        let mut damaged = self.handle.shared.damaged.subscribe();
        // The sender goes with the log, which met no damage then.
        async move {
            match damaged.wait_for(Option::is_some).await.map(|found| found.clone()) {
                Ok(Some(error)) => error,
                _ => std::future::pending().await,
            }
        }
    }

    /// Lets the writer write what waits and end; later operations fail. Returns at once: [`RaftLog::closed`] tells the end.
    pub fn shutdown(&self) {
        self.handle.shared.queue.close(LogError::Closed);
    }
}

impl std::fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftLog").field("dir", &self.handle.shared.dir).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close(LogError::Closed);
        let writer = lock(&self.writer).take();
        // The last handle may go away inside a callback, on the writer's own thread: that can't wait for itself.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != std::thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.shared.dir.display(), "the log writer's thread panicked outside its guard");
        }
    }
}

/// Locks hold plain data that is whole between any two statements, and a panic of the writer fails the log anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
