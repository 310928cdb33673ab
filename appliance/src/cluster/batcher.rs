//! Turns everything that waits for a led shard into Raft entries: while one is on its way to disk the next fills up, so that
//! batches grow with load and nobody waits for a timer. One task per shard of this node. An answer is given only from
//! apply, that is after commit (A4).
//!
//! Order: a request is proposed whole, in one entry or not at all; requests are proposed in the order they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use iris_protocol::HybridClock;
use iris_protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use iris_store::{Item, Outcome, encode_batch};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::ShardGroup;
use super::raft_types::{Applied, Command};
use super::refused::Refused;
use crate::surroundings::Clock;

/// Requests waiting for one shard's batcher; each comes from one edge, which has one under way per shard.
pub(super) const REQUESTS_MAX: usize = 256;

/// Entries proposed and not yet applied: one on its way to disk, one right behind it.
const ENTRIES_IN_FLIGHT_MAX: usize = 2;

/// A request that waited this long is dropped: its edge has given up on it and may have had it done elsewhere.
const REQUEST_AGE_MAX: Duration = Duration::from_secs(5);

/// A proposal that takes longer is answered as unknown, so that a leader without a majority does not block its shard here for
/// the time when it has one again. Dedup makes the edge's next attempt safe, whatever became of this one.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);

/// What an edge wants appended, in order.
pub struct AppendRequest {
    pub(super) items: Vec<Item>,
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Result<Vec<Outcome>, Refused>>,
}

/// What batchers count.
#[derive(Debug, Default)]
pub struct BatchCounters {
    /// Entries proposed.
    pub batches: AtomicU64,
    /// Items in them.
    pub items: AtomicU64,
}

/// Requests that share an entry, and how many items each has in it.
type Shares = Vec<(usize, oneshot::Sender<Result<Vec<Outcome>, Refused>>)>;

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
            Some((shares, result)) = in_flight.next(), if !in_flight.is_empty() => {
                answer(shares, result);
                continue;
            }
            first = next(&mut left_over, requests), if room => first,
        };
        let Some(first) = first else { return };
        if let Some(refused) = refusal(&group) {
            let _ = first.answer.send(Err(refused));
            continue;
        }
        stamps.observe(group.store.last_stamp());
        let now = clock.unix_ms();
        let (items, shares) = gather(first, requests, &mut left_over, || stamps.stamp(now));
        if items.is_empty() {
            continue;
        }
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters.items.fetch_add(items.len() as u64, Ordering::Relaxed);
        // Awaited here, so that entries reach the Raft core in order; only their outcomes are awaited side by side.
        match group.raft.client_write_many([Command(encode_batch(&items))]).await {
            Ok(mut results) => in_flight.push(async move {
                let result = match tokio::time::timeout(PROPOSAL_DEADLINE, results.next()).await {
                    Ok(Some(Ok(Ok(response)))) => match response.response {
                        Applied::Shard(outcomes) => Ok(outcomes),
                        other => Err(Refused::Failed(format!("a batch was applied as {other:?}"))),
                    },
                    Ok(Some(Ok(Err(error)))) => Err(Refused::from_write(&error)),
                    Ok(Some(Err(fatal))) => Err(Refused::Failed(fatal.to_string())),
                    Ok(None) => Err(Refused::Failed("the Raft core gave no result".to_owned())),
                    Err(_) => Err(Refused::Failed("not committed in time".to_owned())),
                };
                (shares, result)
            }),
            Err(fatal) => answer(shares, Err(Refused::Failed(fatal.to_string()))),
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
fn refusal(group: &ShardGroup) -> Option<Refused> {
    let now = *group.leadership.borrow();
    if !now.ready {
        return Some(Refused::NotLeader { leader: now.leader.filter(|leader| *leader != *group.raft.node_id()) });
    }
    group.store.is_full().then_some(Refused::Overloaded)
}

/// Takes `first` and everything behind it that fits one entry. What does not fit begins the next.
fn gather(
    first: AppendRequest,
    requests: &mut mpsc::Receiver<AppendRequest>,
    left_over: &mut Option<AppendRequest>,
    mut stamp: impl FnMut() -> iris_protocol::EntryId,
) -> (Vec<Item>, Shares) {
    let mut items: Vec<Item> = Vec::with_capacity(first.items.len());
    let mut shares = Shares::new();
    let mut bytes = 0;
    let mut taken = Some(first);
    while let Some(request) = taken {
        let more = request.items.iter().map(item_len).sum::<usize>();
        if !items.is_empty()
            && (items.len() + request.items.len() > BATCH_MESSAGES_MAX || bytes + more > BATCH_BYTES_MAX)
        {
            *left_over = Some(request);
            break;
        }
        if request.since.elapsed() < REQUEST_AGE_MAX && !request.answer.is_closed() {
            bytes += more;
            shares.push((request.items.len(), request.answer));
            items.extend(request.items);
        }
        taken = requests.try_recv().ok();
    }
    for item in &mut items {
        if let Item::Message(message) = item {
            message.stamp = stamp();
        }
    }
    (items, shares)
}

/// Bytes an item adds to an entry.
#[must_use]
pub fn item_len(item: &Item) -> usize {
    match item {
        Item::Message(message) => {
            message.body.len() + message.sender.as_bytes().len() + message.recipient.as_bytes().len() + 40
        }
        Item::Cursor { user, device, .. } => user.as_bytes().len() + device.as_bytes().len() + 16,
    }
}

fn answer(shares: Shares, result: Result<Vec<Outcome>, Refused>) {
    match result {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            for (len, answer) in shares {
                // An edge that has gone away will ask again, and find its keys.
                let _ = answer.send(Ok(outcomes.by_ref().take(len).collect()));
            }
        }
        Err(refused) => {
            for (_, answer) in shares {
                let _ = answer.send(Err(refused.clone()));
            }
        }
    }
}
