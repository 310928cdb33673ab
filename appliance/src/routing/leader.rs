//! Finding a shard's leader and asking it, again and again until it answers or time is up. A leader on this node is asked
//! directly, any other over the edge channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use iris_protocol::versioned::{DecodeError, encode};
use iris_protocol::{DeviceId, EntryId, NodeId, ShardId, UserId};
use iris_store::{Item, Outcome, encode_batch};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::uplink::UplinkTask;
use super::uplink_queue::work_len;
use super::{InboxPage, PageRequest, SessionId, Submission, Work, wire};
use crate::cluster::{Channel, MetaState, MetaView, Method, Refused, RpcClients, RpcError, ShardGroup, Shards};
use crate::surroundings::RandomSource;

/// Submissions waiting at one edge for one shard.
const SUBMISSIONS_MAX: usize = 16_384;

/// Bytes waiting at one edge for one shard: 8 shards make 64 MiB at most.
const SUBMISSION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest an append may take at its leader; after it the outcome is unknown and it is sent again.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// How long reads look for a leader that answers.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Between looks for a leader, when nothing says that it changed: a fraction of an election.
const LOOK_AGAIN_MS: u64 = 20;

/// Doublings of it: 80 to 160 ms at most. With 640 ms the median failover was 0.2 s longer, because a new leader that is not ready
/// yet looks like any other refusal.
const LOOK_AGAIN_DOUBLINGS_MAX: u32 = 2;

/// No leader could answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard has no leader that answers")]
pub struct Unreachable;

/// Why one attempt failed. Whether it was carried out is unknown, save for `Refused::Overloaded` and `Refused::DiskFull`.
#[derive(Debug, thiserror::Error)]
pub(super) enum Miss {
    #[error("no leader is known")]
    NoLeader,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Miss {
    /// Whether the leader's disk is full.
    pub(super) fn is_full_disk(&self) -> bool {
        matches!(self, Self::Refused(Refused::DiskFull))
    }
}

/// What a shard needs for routing.
pub(super) struct Route {
    pub(super) shard: ShardId,
    submissions: mpsc::Sender<Submission>,
    /// Bytes in the queue, kept under [`SUBMISSION_BYTES_MAX`].
    pub(super) waiting_bytes: AtomicUsize,
    /// This node's replica, once it has one.
    local: ArcSwapOption<ShardGroup>,
    /// The leader's id as the last answer told it, for when no replica here knows it; 0 if unknown.
    hint: AtomicU64,
}

/// What a router is made of.
pub struct RouterParts {
    /// This node.
    pub node: NodeId,
    /// The founded cluster.
    pub meta: MetaView,
    /// Shards held here.
    pub shards: Shards,
    /// Calls to the others.
    pub clients: Arc<RpcClients>,
    /// Jitter.
    pub random: Arc<dyn RandomSource>,
}

pub(super) struct Inner {
    node: NodeId,
    meta: MetaView,
    routes: Vec<Arc<Route>>,
    clients: Arc<RpcClients>,
    pub(super) random: Arc<dyn RandomSource>,
    sessions: AtomicU64,
}

/// The way from sessions to shard leaders. Cheap to clone.
#[derive(Clone)]
pub struct Router(pub(super) Arc<Inner>);

impl Router {
    /// A router for a founded cluster, and the tasks that carry submissions, one per shard.
    #[must_use]
    pub fn new(parts: RouterParts, state: &MetaState) -> (Self, Vec<UplinkTask>) {
        let mut queues = Vec::new();
        let mut routes = Vec::new();
        for (shard, _) in state.shards() {
            let (submissions, queue) = mpsc::channel(SUBMISSIONS_MAX);
            let route = Arc::new(Route {
                shard,
                submissions,
                waiting_bytes: AtomicUsize::new(0),
                local: ArcSwapOption::empty(),
                hint: AtomicU64::new(0),
            });
            queues.push((route.clone(), queue));
            routes.push(route);
        }
        let router = Self(Arc::new(Inner {
            node: parts.node,
            meta: parts.meta,
            routes,
            clients: parts.clients,
            random: parts.random,
            sessions: AtomicU64::new(0),
        }));
        router.0.hold(&parts.shards);
        let tasks = queues.into_iter().map(|(route, queue)| UplinkTask::new(router.0.clone(), route, queue)).collect();
        (router, tasks)
    }

    /// Follows which shards are held here, until `stop`.
    pub async fn follow(&self, mut shards: Shards, stop: &CancellationToken) {
        loop {
            self.0.hold(&shards);
            tokio::select! {
                () = stop.cancelled() => return,
                () = shards.changed() => {}
            }
        }
    }

    /// A new session's id.
    #[must_use]
    pub fn new_session(&self) -> SessionId {
        SessionId(self.0.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a submission; its outcome comes through its `replies`. Submissions of one session are carried out in order, shard by shard.
    ///
    /// # Errors
    /// The submission itself, if the shard's queue is full: it is overloaded, nothing was done.
    pub fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let user = match &submission.work {
            Work::Message { recipient, .. } => recipient,
            Work::Cursor { user, .. } => user,
        };
        let Some(route) = self.0.route(user) else { return Err(submission) };
        let len = work_len(&submission.work);
        if route.waiting_bytes.fetch_add(len, Ordering::Relaxed) + len > SUBMISSION_BYTES_MAX {
            route.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(submission);
        }
        route.submissions.try_send(submission).map_err(|error| {
            route.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
            error.into_inner()
        })
    }

    /// Reads a page of an inbox at its leader, whoever that is by then.
    ///
    /// # Errors
    /// No leader answered in time.
    pub async fn read_page(&self, user: &UserId, request: PageRequest) -> Result<InboxPage, Unreachable> {
        let route = self.0.route(user).ok_or(Unreachable)?;
        self.0
            .until_answered(route, request.wait + READ_DEADLINE, || self.0.read_once(route, user, request.clone()))
            .await
    }

    /// Reads a device's stored cursor at its leader.
    ///
    /// # Errors
    /// No leader answered in time.
    pub async fn stored_cursor(&self, user: &UserId, device: &DeviceId) -> Result<EntryId, Unreachable> {
        let route = self.0.route(user).ok_or(Unreachable)?;
        self.0.until_answered(route, READ_DEADLINE, || self.0.cursor_once(route, user, device)).await
    }
}

impl Inner {
    fn hold(&self, shards: &Shards) {
        let held = shards.by_id();
        for route in &self.routes {
            route.local.store(held.get(&route.shard).cloned().map(Arc::new));
        }
    }

    fn route(&self, user: &UserId) -> Option<&Arc<Route>> {
        let shard = self.meta.borrow().as_ref()?.shard_of(user);
        self.routes.get(usize::from(shard.0))
    }

    async fn until_answered<T, F: Future<Output = Result<T, Miss>>>(
        &self,
        route: &Route,
        time: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Unreachable> {
        let give_up = Instant::now() + time;
        for misses in 0.. {
            match tokio::time::timeout_at(give_up, attempt()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(miss)) => tracing::trace!(shard = %route.shard, %miss, "the shard's leader did not answer"),
                Err(_) => return Err(Unreachable),
            }
            if Instant::now() >= give_up {
                return Err(Unreachable);
            }
            self.wait_for_change(route, misses).await;
        }
        Err(Unreachable)
    }

    /// Waits until the leader may be another one; a moment, if nobody tells.
    /// `misses`: attempts in a row that failed; each makes the moment longer, so that a shard in trouble is not stormed.
    pub(super) async fn wait_for_change(&self, route: &Route, misses: u32) {
        let look_again_ms = LOOK_AGAIN_MS << misses.min(LOOK_AGAIN_DOUBLINGS_MAX);
        let moment = Duration::from_millis(look_again_ms + self.random.below(look_again_ms));
        match route.local.load_full() {
            Some(group) => {
                let mut leadership = group.leadership.clone();
                leadership.mark_unchanged();
                let _ = tokio::time::timeout(moment, leadership.changed()).await;
            }
            None => tokio::time::sleep(moment).await,
        }
    }

    /// Whom to ask: the leader as the local replica knows it, else the last hint, else any replica. A replica that has just
    /// come knows nothing yet.
    fn leader(&self, route: &Route) -> Result<NodeId, Miss> {
        if let Some(leader) = route.local.load().as_ref().and_then(|group| group.leadership.borrow().leader) {
            return Ok(leader);
        }
        match route.hint.load(Ordering::Relaxed) {
            0 => {
                let state = self.meta.borrow().clone().ok_or(Miss::NoLeader)?;
                let record = state.shards.get(usize::from(route.shard.0)).ok_or(Miss::NoLeader)?;
                let others: Vec<NodeId> = record.voters.iter().copied().filter(|node| *node != self.node).collect();
                let at = self.random.below(others.len().max(1) as u64) as usize;
                others.get(at).copied().ok_or(Miss::NoLeader)
            }
            known => Ok(NodeId(known)),
        }
    }

    /// Remembers what an answer says about where the leader is.
    fn learn<T>(&self, route: &Route, asked: NodeId, result: Result<T, Miss>) -> Result<T, Miss> {
        let hint = match &result {
            Ok(_) => asked.0,
            Err(Miss::Refused(Refused::NotLeader { leader })) => leader.map_or(0, |leader| leader.0),
            Err(_) => 0,
        };
        route.hint.store(hint, Ordering::Relaxed);
        result
    }

    async fn ask(
        &self,
        leader: NodeId,
        route: &Route,
        method: Method,
        payload: Bytes,
        time: Duration,
    ) -> Result<Bytes, Miss> {
        let channel = if method == Method::Read { Channel::Read } else { Channel::Edge };
        let client = self.clients.get(leader, channel)?;
        Ok(client.call(method, route.shard.0, payload, time).await?)
    }

    /// One attempt to append; the items are taken whole or not at all.
    pub(super) async fn append_once(&self, route: &Route, items: Vec<Item>) -> Result<Vec<Outcome>, Miss> {
        let leader = self.leader(route)?;
        let result = async {
            match route.local.load_full() {
                Some(group) if leader == self.node => {
                    // The same deadline as elsewhere: a leader that can't commit must not hold the queue.
                    match tokio::time::timeout(APPEND_DEADLINE, group.append(items)).await {
                        Ok(outcomes) => Ok(outcomes?),
                        Err(_) => Err(Miss::Rpc(RpcError::Deadline(leader))),
                    }
                }
                _ => {
                    let answer = self.ask(leader, route, Method::Append, encode_batch(&items), APPEND_DEADLINE).await?;
                    Ok(wire::decode_outcomes(&answer)??)
                }
            }
        };
        self.learn(route, leader, result.await)
    }

    async fn read_once(&self, route: &Route, user: &UserId, request: PageRequest) -> Result<InboxPage, Miss> {
        let leader = self.leader(route)?;
        let result = async {
            match route.local.load_full() {
                Some(group) if leader == self.node => Ok(group.read(user, request).await?),
                _ => {
                    let call = encode(&wire::ReadCall::new(user, &request)).into();
                    let answer = self.ask(leader, route, Method::Read, call, request.wait + APPEND_DEADLINE).await?;
                    Ok(wire::decode_page(&answer)??)
                }
            }
        };
        self.learn(route, leader, result.await)
    }

    async fn cursor_once(&self, route: &Route, user: &UserId, device: &DeviceId) -> Result<EntryId, Miss> {
        let leader = self.leader(route)?;
        let result = async {
            match route.local.load_full() {
                Some(group) if leader == self.node => Ok(group.stored_cursor(user, device).await?),
                _ => {
                    let call = encode(&wire::CursorCall { user: user.clone(), device: device.clone() }).into();
                    let answer = self.ask(leader, route, Method::Cursor, call, APPEND_DEADLINE).await?;
                    Ok(wire::decode_cursor(&answer)??)
                }
            }
        };
        self.learn(route, leader, result.await)
    }
}
