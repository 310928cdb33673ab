//! The one thread that writes. Takes everything waiting over all groups, makes one batch of it, writes and fsyncs once, then
//! answers everyone (E4). Ends at shutdown or at the first failure, and says which. A write that found no room is none: nothing
//! of it was fsynced, and the engine cut off what it had begun. It waits, and is done again once there is room.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use iris_protocol::versioned;
use raft_engine::{Command, LogBatch};
use tokio::sync::watch;

use super::engine::{BOUNDS_KEY, wrote_nothing};
use super::queue::{Change, Op};
use super::record::Records;
use super::{LogError, Shared};
use crate::room::free_bytes;

/// Between looks for room on a full disk.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(200);

/// Free bytes beyond what waits before a write is tried again: a failed attempt costs the engine new files, so it must be worth it.
const ROOM_SPARE: u64 = 256 * 1024;

/// Why a write failed.
enum Fault {
    /// There was no room, or no file could be opened: nothing is on disk, and nobody was told that it is.
    NoRoom(String),
    /// What is on disk is unknown.
    Fatal(String),
}

/// Starts the writer; `closing` is told how it ended.
pub(super) fn start(
    shared: Arc<Shared>,
    closing: watch::Sender<Option<Option<LogError>>>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("iris-log-write".into()).spawn(move || {
        // A callback that panics must not leave the node running with a log nobody writes.
        let end = match catch_unwind(AssertUnwindSafe(|| run(&shared))) {
            Ok(end) => end,
            Err(panic) => Some(fail_all(&shared, &LogError::panic_text(&*panic), VecDeque::new())),
        };
        if let Some(error) = &end {
            tracing::error!(dir = %shared.dir.display(), %error, "the Raft log's writer ended");
        }
        closing.send_replace(Some(end));
    })
}

fn run(shared: &Shared) -> Option<LogError> {
    while let Some(ops) = shared.queue.take_all() {
        let written = match write_all(shared, ops) {
            Ok(written) => written,
            Err(error) => return Some(error),
        };
        if let Err(error) = answer_all(shared, written) {
            return Some(error);
        }
    }
    None
}

/// Operations that are on disk, and not answered yet.
pub(super) struct Written {
    ops: VecDeque<Op>,
    purge: bool,
}

/// One write and one fsync of everything in `ops`. A failure has answered everyone.
pub(super) fn write_all(shared: &Shared, ops: VecDeque<Op>) -> Result<Written, LogError> {
    let (entries, bytes) = size(&ops);
    let purge = ops.iter().any(|op| matches!(op.change, Change::Bound { compact_to: Some(_), .. }));
    let (ops, written) = write_when_there_is_room(shared, ops, bytes);
    match written {
        Ok(took) => shared.counters.wrote(entries, bytes, took),
        Err(why) => return Err(fail_all(shared, &why, ops)),
    }
    Ok(Written { ops, purge })
}

/// Answers those whose operations are on disk, and gives space back if there was a purge among them.
pub(super) fn answer_all(shared: &Shared, written: Written) -> Result<(), LogError> {
    complete(shared, written.ops);
    match if written.purge { remove_files(shared) } else { Ok(()) } {
        Ok(()) => Ok(()),
        // What is still needed of the oldest files could not be moved: they stay until the next purge.
        Err(Fault::NoRoom(why)) => {
            tracing::warn!(why, "giving up old log files is put off");
            Ok(())
        }
        Err(Fault::Fatal(why)) => Err(fail_all(shared, &why, VecDeque::new())),
    }
}

/// Writes, waiting as long as the disk is full; how long the write itself took. The log being closed ends the wait: nobody was
/// promised what waits.
fn write_when_there_is_room(
    shared: &Shared,
    mut ops: VecDeque<Op>,
    bytes: usize,
) -> (VecDeque<Op>, Result<Duration, String>) {
    let mut waited = false;
    loop {
        let started = Instant::now();
        shared.counters.begins();
        let written;
        (ops, written) = write(shared, ops);
        shared.counters.ended();
        match written {
            Ok(()) => {
                if waited {
                    tracing::info!(dir = %shared.dir.display(), "there is room for the Raft log again");
                    shared.counters.waits_for_room(false);
                }
                return (ops, Ok(started.elapsed()));
            }
            Err(Fault::Fatal(why)) => return (ops, Err(why)),
            Err(Fault::NoRoom(why)) => {
                if !waited {
                    tracing::error!(dir = %shared.dir.display(), why, "no room for the Raft log: it waits until there is");
                    shared.counters.waits_for_room(true);
                }
                waited = true;
                if !wait_for_room(shared, bytes as u64) {
                    return (ops, Err(why));
                }
            }
        }
    }
}

/// Waits until so much might fit; false if the log was closed before that.
fn wait_for_room(shared: &Shared, bytes: u64) -> bool {
    loop {
        if shared.queue.pause(LOOK_FOR_ROOM_EVERY) {
            return false;
        }
        // A system that can't tell is asked by trying.
        if free_bytes(&shared.dir).is_none_or(|free| free >= bytes + ROOM_SPARE) {
            return true;
        }
    }
}

fn size(ops: &VecDeque<Op>) -> (usize, usize) {
    ops.iter().fold((0, 0), |(entries, bytes), op| match &op.change {
        Change::Append { records, .. } => {
            (entries + records.len(), bytes + records.iter().map(|record| record.bytes.len()).sum::<usize>())
        }
        Change::Bound { .. } | Change::Put { .. } => (entries, bytes),
    })
}

fn write(shared: &Shared, ops: VecDeque<Op>) -> (VecDeque<Op>, Result<(), Fault>) {
    // The engine panics when an fsync fails, and on a hole between entries, which the groups rule out.
    let written = catch_unwind(AssertUnwindSafe(|| {
        let mut batch = LogBatch::with_capacity(ops.len() * 2);
        for op in &ops {
            add(&mut batch, op)?;
        }
        shared.engine.write(&mut batch)
    }));
    let written = match written {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(fault(shared, "writing", &error)),
        Err(panic) => Err(Fault::Fatal(format!("{}: {}", shared.dir.display(), LogError::panic_text(&*panic)))),
    };
    (ops, written)
}

fn fault(shared: &Shared, action: &str, error: &raft_engine::Error) -> Fault {
    let why = format!("{}: {action} failed: {error}", shared.dir.display());
    if wrote_nothing(error) { Fault::NoRoom(why) } else { Fault::Fatal(why) }
}

/// Adds one operation. Order within a batch is the order of application, at once and at recovery: a truncation followed by
/// an append in one round ends as if they had been written apart.
fn add(batch: &mut LogBatch, op: &Op) -> raft_engine::Result<()> {
    let group = op.group.id.0;
    match &op.change {
        Change::Append { records, bounds } => {
            batch.add_entries::<Records>(group, records)?;
            match bounds {
                Some(bounds) => batch.put(group, BOUNDS_KEY.to_vec(), versioned::encode(bounds)),
                None => Ok(()),
            }
        }
        Change::Bound { bounds, compact_to } => {
            if let Some(index) = *compact_to {
                batch.add_command(group, Command::Compact { index });
            }
            batch.put(group, BOUNDS_KEY.to_vec(), versioned::encode(bounds))
        }
        Change::Put { key, value } => batch.put(group, key.to_vec(), value.clone()),
    }
}

fn complete(shared: &Shared, ops: VecDeque<Op>) {
    let cache_bytes_max = shared.cache_bytes_max / shared.groups_len.load(Ordering::Relaxed).max(1);
    for op in ops {
        if matches!(op.change, Change::Append { .. }) {
            op.group.flushed(op.seq, cache_bytes_max);
        }
        shared.queue.give_back(op.room);
        (op.done)(Ok(()));
    }
}

/// Answers everyone with the failure, those still waiting included. No later operation gets in.
fn fail_all(shared: &Shared, why: &str, ops: VecDeque<Op>) -> LogError {
    let error = LogError::Failed { why: why.into() };
    // The engine fsyncs its files when it goes, and panics twice where that fails, which aborts the process before anyone
    // could say why. So it never goes: the folder stays locked until the process, which must end, has ended.
    std::mem::forget(shared.engine.clone());
    let waiting = shared.queue.fail(error.clone());
    for op in ops.into_iter().chain(waiting) {
        (op.done)(Err(error.clone()));
    }
    error
}

/// Gives space back after a purge. On this thread, because rewriting what is still needed competes with appends for the
/// same disk anyway.
fn remove_files(shared: &Shared) -> Result<(), Fault> {
    shared.purges.fetch_add(1, Ordering::SeqCst);
    let removed = catch_unwind(AssertUnwindSafe(|| shared.engine.purge(shared.files_bytes_max)));
    shared.purges.fetch_add(1, Ordering::SeqCst);
    match removed {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(fault(shared, "purging", &error)),
        Err(panic) => {
            Err(Fault::Fatal(format!("{}: purging: {}", shared.dir.display(), LogError::panic_text(&*panic))))
        }
    }
}
