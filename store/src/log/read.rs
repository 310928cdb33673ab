//! Reads entries from disk, on a thread of its own. raft-engine keeps the last block it read per thread and finds it again
//! by file number, offset and length alone: on a thread that reads two logs (two nodes in one process, or one log reopened)
//! it would hand out the other log's entries. Few reads come here: the cache answers for the tail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::engine::Engine;
use super::{LogEntry, LogError};

/// Requests waiting: more than groups ever ask at once; whoever finds it full waits.
const QUEUE_LEN_MAX: usize = 256;

/// Entries of one answer: bounds what the engine sets aside for a long range.
const ENTRIES_MAX: u64 = 4_096;

pub(super) struct Reader {
    /// Until it is dropped.
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    group: u64,
    begin: u64,
    end: u64,
    bytes_max: usize,
    reply: SyncSender<Result<Vec<LogEntry>, LogError>>,
}

impl Reader {
    pub(super) fn start(engine: Arc<dyn Engine>, dir: &Path) -> std::io::Result<Self> {
        let (requests, waiting) = sync_channel(QUEUE_LEN_MAX);
        let dir = dir.to_owned();
        let thread = std::thread::Builder::new().name("iris-log-read".into());
        let thread = thread.spawn(move || run(&engine, &waiting, dir))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Entries `begin..end` from disk, contiguous from `begin`, at least one; fewer than asked if they exceed `bytes_max`.
    pub(super) fn read(&self, group: u64, begin: u64, end: u64, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let (reply, answer) = sync_channel(1);
        let end = end.min(begin.saturating_add(ENTRIES_MAX));
        let requests = self.requests.as_ref().ok_or(LogError::Closed)?;
        requests.send(Request { group, begin, end, bytes_max, reply }).map_err(|_| LogError::Closed)?;
        answer.recv().map_err(|_| LogError::Closed)?
    }
}

// The engine, and with it the lock on the folder, is gone when the last handle is: a log can be opened again at once.
impl Drop for Reader {
    fn drop(&mut self) {
        self.requests.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the Raft log's reader panicked outside its guard");
        }
    }
}

/// Ends when the log's last handle is gone.
fn run(engine: &Arc<dyn Engine>, waiting: &Receiver<Request>, dir: PathBuf) {
    while let Ok(request) = waiting.recv() {
        let Request { group, begin, end, bytes_max, reply } = request;
        // The engine asserts on some damaged bytes.
        let read = match catch_unwind(AssertUnwindSafe(|| engine.fetch(group, begin, end, bytes_max))) {
            Ok(Ok(records)) => check(records.into_iter().map(|r| LogEntry { index: r.index, bytes: r.bytes }), begin)
                .ok_or_else(|| LogError::corrupt(&dir, &format!("group {group}: entry {begin} is not in its place"))),
            Ok(Err(error)) => Err(LogError::engine(&dir, "reading the Raft log", &error)),
            Err(panic) => Err(LogError::corrupt(&dir, &LogError::panic_text(&*panic))),
        };
        // The asker may have gone away.
        let _ = reply.send(read);
    }
}

/// The entries, if they are contiguous from `begin` and not none.
fn check(entries: impl Iterator<Item = LogEntry>, begin: u64) -> Option<Vec<LogEntry>> {
    let entries: Vec<LogEntry> = entries.collect();
    let contiguous = entries.iter().zip(begin..).all(|(entry, index)| entry.index == index);
    (contiguous && !entries.is_empty()).then_some(entries)
}
