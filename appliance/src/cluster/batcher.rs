//! Turns everything that waits for a led shard into Raft entries: while one is on its way to disk the next fills up, so that
//! batches grow with load and nobody waits for a timer. One task per shard of this node. An answer is given only from
//! apply, that is after commit (A4).
//!
//! Order: a request is proposed whole, in one entry or not at all; requests are proposed in the order they came.
//!
//! Before a batch is proposed its keys are looked for among the shard's older ones (A3, `iris_store`'s dedup): fresh keys cost
//! a few comparisons, and only what those can't exclude costs a look at the disk, off the runtime's threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use iris_protocol::HybridClock;
use iris_protocol::limits::BATCH_MESSAGES_MAX;
use iris_store::{DEDUP_IN_FLIGHT_KEYS_MAX, Item, KeysSeen, Outcome, ShardStore, encode_command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::{AppendRequest, Batch, Waiting};
use super::group::ShardGroup;
use super::raft_types::{Applied, Command};
use super::refused::Refused;
use crate::surroundings::Clock;

/// Requests waiting for one shard's batcher; each comes from one edge, which has one under way per shard.
pub(super) const REQUESTS_MAX: usize = 256;

/// Entries proposed and not yet applied: one on its way to disk, one right behind it.
const ENTRIES_IN_FLIGHT_MAX: usize = 2;

/// A proposal that takes longer is answered as unknown, so that a leader without a majority does not block its shard here for
/// the time when it has one again. Dedup makes the edge's next attempt safe, whatever became of this one.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);

// Between a look for keys and the apply of what was looked up, so many messages can come: all must still be in every
// replica's memory. More come in between only when proposals of a leader without a majority pile up behind their deadline;
// apply refuses those as stale.
const _: () = assert!(ENTRIES_IN_FLIGHT_MAX * BATCH_MESSAGES_MAX <= DEDUP_IN_FLIGHT_KEYS_MAX);

/// What batchers count.
#[derive(Debug, Default)]
pub struct BatchCounters {
    /// Entries proposed.
    pub batches: AtomicU64,
    /// Items in them.
    pub items: AtomicU64,
}

/// What became of an entry, and who waits for it.
type Ended = (Waiting, Result<Vec<Outcome>, Refused>);

/// Runs one shard's batcher until `stop`.
pub async fn run(
    group: ShardGroup,
    requests: &mut mpsc::Receiver<AppendRequest>,
    clock: Arc<dyn Clock>,
    counters: Arc<BatchCounters>,
    stop: &CancellationToken,
) {
    let mut stamps = HybridClock::default();
    let mut in_flight = FuturesUnordered::new();
    let mut left_over: Option<AppendRequest> = None;
    loop {
        let room = in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((waiting, result)) = in_flight.next(), if !in_flight.is_empty() => {
                Waiting::answer(waiting, result);
                continue;
            }
            first = next(&mut left_over, requests), if room => first,
        };
        let Some(first) = first else { return };
        if let Some(refused) = refusal(&group, &first.items) {
            let _ = first.answer.send(Err(refused));
            continue;
        }
        stamps.observe(group.store.last_stamp());
        let now = clock.unix_ms();
        let Batch { mut items, waiting } = Batch::gather(
            first,
            requests,
            &mut left_over,
            |items| for_want_of_room(&group, items),
            || stamps.stamp(now),
        );
        if items.is_empty() {
            continue;
        }
        let resolution = group.store.resolve(&mut items);
        let mut seen = resolution.seen();
        if resolution.needs_disk() {
            match answering(&mut in_flight, look_on_disk(&group.store, items, resolution)).await {
                Ok(found) => (items, seen) = found,
                Err(refused) => {
                    tracing::error!(shard = %group.shard, error = %refused, "the keys of older messages can't be read");
                    waiting.answer(Err(refused));
                    continue;
                }
            }
        }
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters.items.fetch_add(items.len() as u64, Ordering::Relaxed);
        // Awaited here, so that entries reach the Raft core in order; only their outcomes are awaited side by side.
        match group.raft.client_write_many([Command(encode_command(&items, seen))]).await {
            Ok(mut results) => in_flight.push(async move {
                let result = match tokio::time::timeout(PROPOSAL_DEADLINE, results.next()).await {
                    Ok(Some(Ok(Ok(response)))) => outcomes(response.response),
                    Ok(Some(Ok(Err(error)))) => Err(Refused::from_write(&error)),
                    Ok(Some(Err(fatal))) => Err(Refused::Failed(fatal.to_string())),
                    Ok(None) => Err(Refused::Failed("the Raft core gave no result".to_owned())),
                    Err(_) => Err(Refused::Failed("not committed in time".to_owned())),
                };
                (waiting, result)
            }),
            Err(fatal) => waiting.answer(Err(Refused::Failed(fatal.to_string()))),
        }
    }
}

async fn next(
    left_over: &mut Option<AppendRequest>,
    requests: &mut mpsc::Receiver<AppendRequest>,
) -> Option<AppendRequest> {
    match left_over.take() {
        Some(request) => Some(request),
        None => requests.recv().await,
    }
}

/// Why nothing can be proposed now, if so.
fn refusal(group: &ShardGroup, items: &[Item]) -> Option<Refused> {
    let now = *group.leadership.borrow();
    if !now.ready {
        return Some(Refused::NotLeader { leader: now.leader.filter(|leader| *leader != *group.raft.node_id()) });
    }
    for_want_of_room(group, items).or_else(|| group.store.is_full().then_some(Refused::Overloaded))
}

/// Cursors and what retention removes are small, and make room: on a full disk they are all that is taken. Nothing is while the log
/// itself waits for room.
fn for_want_of_room(group: &ShardGroup, items: &[Item]) -> Option<Refused> {
    let disk = group.disk.state();
    let is_message = |item: &Item| matches!(item, Item::Message(_));
    let refused = !disk.takes_messages() && (disk.waits_for_room || items.iter().any(is_message));
    refused.then_some(Refused::DiskFull)
}

/// Looks on the disk for the keys that memory can't exclude.
async fn look_on_disk(
    store: &ShardStore,
    mut items: Vec<Item>,
    mut resolution: iris_store::Resolution,
) -> Result<(Vec<Item>, KeysSeen), Refused> {
    let store = store.clone();
    let looked = crate::blocking::run(move || {
        store.resolve_on_disk(&mut items, &mut resolution).map(|()| (items, resolution.seen()))
    });
    let looked = looked.await.map_err(|error| Refused::Failed(error.to_string()))?;
    looked.map_err(|error| Refused::Failed(error.to_string()))
}

/// Does something, and meanwhile answers what ends.
async fn answering<T>(in_flight: &mut (impl Stream<Item = Ended> + Unpin), work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some((waiting, result)) = in_flight.next() => waiting.answer(result),
        }
    }
}

fn outcomes(applied: Applied) -> Result<Vec<Outcome>, Refused> {
    match applied {
        Applied::Shard(outcomes) if outcomes.contains(&Outcome::Stale) => {
            Err(Refused::Failed("it was looked up too long before it was committed".to_owned()))
        }
        Applied::Shard(outcomes) => Ok(outcomes),
        other => Err(Refused::Failed(format!("a batch was applied as {other:?}"))),
    }
}
