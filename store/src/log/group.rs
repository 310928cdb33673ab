//! One group's log as its users see it: bounds and recent entries in memory, changed under a short lock in the same order
//! in which operations are queued for the writer. Owns contiguity, truncation, purge and the cache; no I/O under the lock.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use super::engine::{BOUNDS_KEY, Bounds, Engine, Keep, load_bounds};
use super::queue::{Change, Done, Op, Room};
use super::record::Record;
use super::weight::Weight;
use super::{GroupId, Handle, LogEntry, LogError, Shared, lock};

/// Memory an entry in the cache takes beside its bytes.
const ENTRY_OVERHEAD: usize = 64;

/// Truncations or purges that may overtake one read before it gives up.
const READ_ATTEMPTS: usize = 8;

/// Called once, after the fsync that covers the entries, on the writer's thread: it must not block.
pub type AppendDone = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// One group's log. Cheap to clone.
#[derive(Clone)]
pub struct GroupLog {
    handle: Arc<Handle>,
    group: Arc<Group>,
}

pub(super) struct Group {
    pub(super) id: GroupId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// First and last index, queued entries included.
    span: Option<(u64, u64)>,
    /// What the queue's end will have persisted.
    bounds: Bounds,
    /// Last index the engine will hold once the queue is written: a truncated suffix stays there until overwritten.
    engine_last: Option<u64>,
    /// The newest entries, contiguous up to the last.
    cache: VecDeque<Cached>,
    cache_bytes: usize,
    weight: Weight,
    /// The place in the queue up to which everything is on disk.
    flushed: u64,
    /// Moves with every truncation and purge: a read from disk that one overtook is done again.
    epoch: u64,
    /// The bounds on disk couldn't be read.
    damaged: Option<LogError>,
}

struct Cached {
    entry: LogEntry,
    /// The operation that writes it; until then it isn't evicted.
    seq: u64,
}

impl Group {
    /// As the engine has it, with entries that are about so long.
    pub(super) fn load(id: GroupId, engine: &dyn Engine, entry_len: u64, dir: &Path) -> Self {
        let (bounds, damaged) = match load_bounds(engine, id.0, dir) {
            Ok(bounds) => (bounds, None),
            Err(error) => (Bounds::default(), Some(error)),
        };
        let found = engine.span(id.0);
        let span = found.and_then(|found| bounds.clip(found));
        let engine_last = found.map(|(_, last)| last);
        let weight = span.map(|span| Weight::estimated(span, entry_len)).unwrap_or_default();
        Self { id, state: Mutex::new(State { span, bounds, engine_last, weight, damaged, ..State::default() }) }
    }

    /// The operation at `seq` is on disk: what it wrote may leave the cache.
    pub(super) fn flushed(&self, seq: u64, cache_bytes_max: usize) {
        let mut state = lock(&self.state);
        state.flushed = state.flushed.max(seq);
        state.evict(cache_bytes_max);
    }
}

impl State {
    fn next_index(&self) -> Option<u64> {
        self.span.map(|(_, last)| last + 1)
    }

    fn evict(&mut self, bytes_max: usize) {
        while self.cache_bytes > bytes_max
            && let Some(front) = self.cache.front()
            && front.seq <= self.flushed
        {
            self.cache_bytes -= front.entry.bytes.len() + ENTRY_OVERHEAD;
            self.cache.pop_front();
        }
    }

    fn forget(&mut self, gone: impl Fn(u64) -> bool) {
        self.cache.retain(|cached| !gone(cached.entry.index));
        self.cache_bytes = self.cache.iter().map(|cached| cached.entry.bytes.len() + ENTRY_OVERHEAD).sum();
    }

    /// Entries from the cache, at least one if `begin` is cached.
    fn cached(&self, begin: u64, end: u64, bytes_max: usize) -> Vec<LogEntry> {
        let Some(front) = self.cache.front() else { return Vec::new() };
        let skip = usize::try_from(begin.saturating_sub(front.entry.index)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let wanted = self.cache.range(skip.min(self.cache.len())..).map(|cached| &cached.entry);
        wanted
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.bytes.len().max(1);
                entry.index < end && (first || bytes <= bytes_max)
            })
            .cloned()
            .collect()
    }

    /// Drops everything after `last_kept`; what the engine must do for it, or nothing.
    fn truncate(&mut self, last_kept: Option<u64>) -> Option<Change> {
        let (first, last) = self.span?;
        if last_kept.is_some_and(|kept| kept >= last) {
            return None;
        }
        self.epoch += 1;
        let mut compact_to = None;
        match last_kept.filter(|&kept| kept >= first) {
            Some(kept) => {
                self.span = Some((first, kept));
                self.bounds.keep = Keep::UpTo(kept);
                self.weight.truncated(kept + 1);
                self.forget(|index| index > kept);
            }
            None => {
                self.span = None;
                self.bounds.keep = Keep::Nothing;
                // So that the next append may begin anywhere: the engine refuses holes.
                compact_to = self.engine_last.take().map(|last| last + 1);
                self.weight = Weight::default();
                self.forget(|_| true);
            }
        }
        Some(Change::Bound { bounds: self.bounds, compact_to })
    }

    /// Drops everything up to `index`; what the engine must do for it, or nothing.
    fn purge(&mut self, index: u64) -> Option<Change> {
        if self.bounds.floor.is_some_and(|floor| floor >= index) {
            return None;
        }
        self.epoch += 1;
        self.bounds.floor = Some(index);
        self.weight.purged(index);
        self.forget(|cached| cached <= index);
        let compact_to = match self.span {
            Some((first, last)) if index < last => {
                self.span = Some((first.max(index + 1), last));
                (index >= first).then_some(index + 1)
            }
            _ => {
                self.span = None;
                self.bounds.keep = Keep::Nothing;
                self.engine_last.take().map(|last| last.max(index) + 1)
            }
        };
        Some(Change::Bound { bounds: self.bounds, compact_to })
    }
}

impl GroupLog {
    pub(super) fn new(handle: Arc<Handle>, group: Arc<Group>) -> Self {
        Self { handle, group }
    }

    /// The first index, entries not yet on disk included.
    #[must_use]
    pub fn first_index(&self) -> Option<u64> {
        self.state().span.map(|(first, _)| first)
    }

    /// The last index, entries not yet on disk included.
    #[must_use]
    pub fn last_index(&self) -> Option<u64> {
        self.state().span.map(|(_, last)| last)
    }

    /// The last index with about so many bytes of entries behind it: up to where a purge would leave that much. `None` if there
    /// is less. What was there when the log was opened is estimated.
    #[must_use]
    pub fn index_behind(&self, bytes: u64) -> Option<u64> {
        self.state().weight.index_behind(bytes)
    }

    /// Appends entries that follow the last one (any index if the log is empty). They can be read when this returns; `done`
    /// is called after the fsync that covers them. Waits only for room in the queue.
    ///
    /// # Errors
    /// A gap, or the log is closed or failed; then `done` is not called.
    pub async fn append(&self, entries: Vec<LogEntry>, done: AppendDone) -> Result<(), LogError> {
        let Some(head) = entries.first().map(|entry| entry.index) else {
            done(Ok(()));
            return Ok(());
        };
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        let room = self.shared().queue.room(bytes).await?;
        let mut state = self.state();
        let expected = state.next_index().unwrap_or(head);
        let gap = entries.iter().zip(expected..).find(|(entry, index)| entry.index != *index);
        if let Some((entry, expected)) = gap {
            self.shared().queue.give_back(room);
            return Err(LogError::Gap { group: self.group.id, expected, found: entry.index });
        }
        let bounds = (state.bounds.keep != Keep::All).then_some(Bounds { keep: Keep::All, ..state.bounds });
        let records = entries.iter().map(|entry| Record::new(entry.index, entry.bytes.clone())).collect();
        let seq = self.push(&mut state, Change::Append { records, bounds }, room, done)?;
        let last = head + entries.len() as u64 - 1;
        state.bounds.keep = Keep::All;
        state.span = Some((state.span.map_or(head, |(first, _)| first), last));
        state.engine_last = Some(last);
        state.weight.appended(last, bytes as u64);
        state.cache_bytes += bytes + entries.len() * ENTRY_OVERHEAD;
        state.cache.extend(entries.into_iter().map(|entry| Cached { entry, seq }));
        Ok(())
    }

    /// Removes every entry after `last_kept` (all with `None`); durable when it returns, in order with appends.
    ///
    /// # Errors
    /// The log is closed or failed.
    pub async fn truncate_after(&self, last_kept: Option<u64>) -> Result<(), LogError> {
        self.bound(|state| state.truncate(last_kept)).await
    }

    /// Removes every entry up to `index`; durable when it returns. An `index` beyond the last empties the log, and the next
    /// append may begin anywhere (a snapshot was installed).
    ///
    /// # Errors
    /// The log is closed or failed.
    pub async fn purge_to(&self, index: u64) -> Result<(), LogError> {
        self.bound(|state| state.purge(index)).await
    }

    /// Stores a value; durable when it returns (votes). Keys are short constants of the caller.
    ///
    /// # Errors
    /// A key that can't be used, or the log is closed or failed.
    pub async fn put(&self, key: &'static [u8], value: Vec<u8>) -> Result<(), LogError> {
        // The engine keeps keys that begin with two underscores to itself.
        if key.is_empty() || key == BOUNDS_KEY || key.starts_with(b"__") {
            return Err(LogError::Key { key: String::from_utf8_lossy(key).into_owned() });
        }
        let room = self.shared().queue.room(key.len() + value.len()).await?;
        let (done, written) = reply();
        self.push(&mut self.state(), Change::Put { key, value }, room, done)?;
        written.await.unwrap_or(Err(LogError::Closed))
    }

    /// A stored value; one whose `put` hasn't returned may not be seen yet.
    ///
    /// # Errors
    /// The log failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.check_readable()?;
        Ok(self.shared().engine.value(self.group.id.0, key))
    }

    /// As [`Self::read`], if the cache alone can answer; `None` means `read` must, which blocks on the disk.
    #[must_use]
    pub fn read_cached(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<LogEntry>> {
        self.check_readable().ok()?;
        let state = self.state();
        let Some((first, last)) = state.span else { return Some(Vec::new()) };
        let (begin, end) = (range.start.max(first), range.end.min(last + 1));
        if begin >= end {
            return Some(Vec::new());
        }
        let cache_first = state.cache.front()?.entry.index;
        (begin >= cache_first).then(|| state.cached(begin, end, bytes_max))
    }

    /// Entries of `range` that exist, contiguous from the first of them: at least one, then as many as `bytes_max` allows.
    /// Joins disk and cache in one answer. Blocks on the disk for entries older than the cache.
    ///
    /// # Errors
    /// The log failed, or an entry on disk is damaged.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let mut attempts = 0;
        loop {
            self.check_readable()?;
            let purges = self.shared().purges.load(Ordering::SeqCst);
            let state = self.state();
            let Some((first, last)) = state.span else { return Ok(Vec::new()) };
            let (begin, end) = (range.start.max(first), range.end.min(last + 1));
            if begin >= end {
                return Ok(Vec::new());
            }
            let cache_first = state.cache.front().map_or(last + 1, |cached| cached.entry.index);
            let tail = state.cached(begin.max(cache_first), end, bytes_max);
            if begin >= cache_first {
                return Ok(tail);
            }
            let epoch = state.epoch;
            drop(state);
            let disk_end = end.min(cache_first);
            let read = self.shared().reader.read(self.group.id.0, begin, disk_end, bytes_max);
            attempts += 1;
            let overtaken = self.state().epoch != epoch
                || read.is_err() && (purges % 2 == 1 || self.shared().purges.load(Ordering::SeqCst) != purges);
            if overtaken && attempts < READ_ATTEMPTS {
                continue;
            }
            if let Err(error @ LogError::Corrupt { .. }) = &read {
                self.shared().found_damage(error);
            }
            return read.map(|head| join(head, tail, disk_end, bytes_max));
        }
    }

    async fn bound(&self, change: impl FnOnce(&mut State) -> Option<Change>) -> Result<(), LogError> {
        let room = self.shared().queue.room(0).await?;
        let (done, written) = reply();
        {
            let mut state = self.state();
            let Some(change) = change(&mut state) else {
                self.shared().queue.give_back(room);
                return Ok(());
            };
            self.push(&mut state, change, room, done)?;
        }
        written.await.unwrap_or(Err(LogError::Closed))
    }

    /// Queues a change under the group's lock. A refused one is harmless: the log is closed then, for good.
    fn push(&self, state: &mut MutexGuard<'_, State>, change: Change, room: Room, done: Done) -> Result<u64, LogError> {
        if let Some(error) = &state.damaged {
            return Err(error.clone());
        }
        self.shared().queue.push(Op { group: self.group.clone(), change, room, done, seq: 0 })
    }

    fn check_readable(&self) -> Result<(), LogError> {
        match self.shared().queue.closed() {
            Some(error @ LogError::Failed { .. }) => Err(error),
            _ => self.state().damaged.clone().map_or(Ok(()), Err),
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.group.state)
    }
}

impl std::fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupLog").field("group", &self.group.id.0).finish_non_exhaustive()
    }
}

/// The cache's entries after the disk's, if the disk gave all it was asked for.
fn join(mut head: Vec<LogEntry>, tail: Vec<LogEntry>, disk_end: u64, bytes_max: usize) -> Vec<LogEntry> {
    if head.last().is_some_and(|entry| entry.index + 1 == disk_end) {
        let mut bytes: usize = head.iter().map(|entry| entry.bytes.len()).sum();
        head.extend(tail.into_iter().take_while(|entry| {
            bytes += entry.bytes.len();
            bytes <= bytes_max
        }));
    }
    head
}

fn reply() -> (Done, oneshot::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = oneshot::channel();
    // The waiter may have been cancelled; the write happened all the same.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}
