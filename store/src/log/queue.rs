//! What waits for the writer: a bounded queue, first come first served. Room is bought before an operation is queued and
//! given back once it was written; whoever finds no room waits without holding anything.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::engine::Bounds;
use super::group::Group;
use super::record::Record;
use super::{LogError, lock};

/// Called once, with the fate of an operation.
pub(super) type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// One durable change of one group.
pub(super) struct Op {
    pub(super) group: Arc<Group>,
    pub(super) change: Change,
    pub(super) room: Room,
    pub(super) done: Done,
    /// Given by the queue: the order of writing.
    pub(super) seq: u64,
}

pub(super) enum Change {
    /// Entries, and new bounds if a truncation was in force.
    Append { records: Vec<Record>, bounds: Option<Bounds> },
    /// A truncation or a purge. `compact_to` is the first index the engine keeps.
    Bound { bounds: Bounds, compact_to: Option<u64> },
    /// A value.
    Put { key: &'static [u8], value: Vec<u8> },
}

/// Room bought in the queue, in permits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room(u32);

pub(super) struct Queue {
    room: Semaphore,
    /// One permit is this many bytes, and every operation takes at least one: so length and bytes are bounded at once.
    bytes_per_permit: usize,
    permits_max: u32,
    inner: Mutex<Inner>,
    ready: Condvar,
    /// The same for a writer that is stepped.
    #[cfg(feature = "testing")]
    pub(super) news: tokio::sync::Notify,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Op>,
    next_seq: u64,
    /// Why nothing more is taken.
    closed: Option<LogError>,
}

impl Queue {
    pub(super) fn new(len_max: usize, bytes_max: usize) -> Self {
        let permits_max = u32::try_from(len_max.clamp(1, Semaphore::MAX_PERMITS >> 1)).unwrap_or(u32::MAX >> 1);
        Self {
            room: Semaphore::new(permits_max as usize),
            bytes_per_permit: (bytes_max / permits_max as usize).max(1),
            permits_max,
            inner: Mutex::default(),
            ready: Condvar::new(),
            #[cfg(feature = "testing")]
            news: tokio::sync::Notify::new(),
        }
    }

    /// Waits for room for `bytes`. One operation larger than the whole queue takes all of it.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, LogError> {
        let permits = u32::try_from(1 + bytes / self.bytes_per_permit).unwrap_or(u32::MAX).min(self.permits_max);
        match self.room.acquire_many(permits).await {
            Ok(permit) => {
                permit.forget();
                Ok(Room(permits))
            }
            Err(_) => Err(self.closed().unwrap_or(LogError::Closed)),
        }
    }

    pub(super) fn give_back(&self, room: Room) {
        self.room.add_permits(room.0 as usize);
    }

    /// Queues an operation and returns its place. The caller holds its group's lock, so that the order of queueing is the
    /// order in which the group changed.
    pub(super) fn push(&self, mut op: Op) -> Result<u64, LogError> {
        let mut inner = lock(&self.inner);
        if let Some(error) = &inner.closed {
            return Err(error.clone());
        }
        inner.next_seq += 1;
        op.seq = inner.next_seq;
        inner.waiting.push_back(op);
        let seq = inner.next_seq;
        drop(inner);
        self.ready.notify_one();
        #[cfg(feature = "testing")]
        self.news.notify_one();
        Ok(seq)
    }

    /// Takes everything that waits, maybe nothing; `None` once closed and empty.
    #[cfg(feature = "testing")]
    pub(super) fn take_now(&self) -> Option<VecDeque<Op>> {
        let mut inner = lock(&self.inner);
        let ended = inner.waiting.is_empty() && inner.closed.is_some();
        (!ended).then(|| std::mem::take(&mut inner.waiting))
    }

    /// Takes everything that waits; waits for something; `None` once closed and empty.
    pub(super) fn take_all(&self) -> Option<VecDeque<Op>> {
        let mut inner = lock(&self.inner);
        while inner.waiting.is_empty() {
            if inner.closed.is_some() {
                return None;
            }
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut inner.waiting))
    }

    /// Waits for so long, less if the queue is closed; whether it is.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let inner = lock(&self.inner);
        let paused = self.ready.wait_timeout_while(inner, time, |inner| inner.closed.is_none());
        paused.unwrap_or_else(PoisonError::into_inner).0.closed.is_some()
    }

    /// Takes nothing more from now on; what waits is still written. A failure outranks a shutdown.
    pub(super) fn close(&self, why: LogError) {
        let mut inner = lock(&self.inner);
        if inner.closed.is_none() || !matches!(why, LogError::Closed) {
            inner.closed = Some(why);
        }
        drop(inner);
        self.room.close();
        self.ready.notify_all();
        #[cfg(feature = "testing")]
        self.news.notify_one();
    }

    /// Closes for a failure and hands out what waited, so that the writer can answer it.
    pub(super) fn fail(&self, why: LogError) -> VecDeque<Op> {
        self.close(why);
        std::mem::take(&mut lock(&self.inner).waiting)
    }

    /// Why the queue takes nothing, if it doesn't.
    pub(super) fn closed(&self) -> Option<LogError> {
        lock(&self.inner).closed.clone()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.inner).waiting.len()
    }
}
