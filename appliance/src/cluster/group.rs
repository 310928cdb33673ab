//! One shard's Raft group on this node: its handle, who leads it, and whether this node may serve as its leader now.

use std::sync::Arc;
use std::time::Duration;

use iris_protocol::{NodeId, ShardId};
use iris_store::{GroupLog, ShardStore};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Raft, ReadPolicy};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::batch::AppendRequest;
use super::raft_types::TypeConfig;
use super::shard_machine::ShardMachine;
use super::snapshots::Outgoing;
use super::waiters::Waiters;
use crate::disk::Disk;
use crate::surroundings::Clock;

/// A shard's Raft handle.
pub type ShardRaft = Raft<TypeConfig, ShardMachine>;

/// Who leads a group, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// This node leads and has applied everything that was in its log when it was elected: it may propose and answer reads.
    pub ready: bool,
}

/// One shard on this node. Cheap to clone.
#[derive(Clone)]
pub struct ShardGroup {
    /// Which.
    pub shard: ShardId,
    /// Raft.
    pub raft: ShardRaft,
    /// The state, for reads.
    pub store: ShardStore,
    /// Its log, to know how large it is.
    pub(super) log: GroupLog,
    /// The snapshot that is on its way to a follower, if one is.
    pub(super) outgoing: Outgoing,
    /// Readers that wait for entries.
    pub waiters: Arc<Waiters>,
    /// To the batcher.
    pub(super) appends: mpsc::Sender<AppendRequest>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// This node's disk.
    pub(super) disk: Disk,
    /// Tells when a device is seen.
    pub(super) clock: Arc<dyn Clock>,
    /// A device last seen longer ago is to be said to be there.
    pub(super) refresh_after: Duration,
}

/// Between attempts to confirm a fresh leadership; openraft refuses for a moment after an election.
const CONFIRM_AGAIN: Duration = Duration::from_millis(10);

/// Longest one attempt to confirm it may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(1);

/// Follows a group's leadership until `stop` and publishes it.
///
/// # Errors
/// The Raft core has ended: the process must not go on.
pub async fn follow_leadership(
    node: NodeId,
    raft: ShardRaft,
    waiters: Arc<Waiters>,
    publish: watch::Sender<Leadership>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut metrics = raft.server_metrics();
    let mut confirmed_term = None;
    loop {
        // Cloned at once: a reference held across an await would block the Raft core.
        let (leader, term) = {
            let now = metrics.borrow_and_update();
            (now.current_leader, now.vote.leader_id.term)
        };
        let leads = leader == Some(node);
        let ready = leads && confirmed_term == Some(term);
        let before = publish.send_replace(Leadership { leader, ready });
        if before.ready && !ready {
            waiters.wake_all();
        }
        if leads && !ready {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                confirmed = confirm(&raft, node, term) => if confirmed? { confirmed_term = Some(term) },
            }
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = metrics.changed() => changed.map_err(|_| anyhow::anyhow!("the Raft core has ended"))?,
        }
    }
}

/// Waits until everything in the log at the election is applied here; `false` if the leadership went before that.
async fn confirm(raft: &ShardRaft, node: NodeId, term: u64) -> anyhow::Result<bool> {
    loop {
        let still = {
            let metrics = raft.server_metrics();
            let now = metrics.borrow_watched();
            now.current_leader == Some(node) && now.vote.leader_id.term == term
        };
        if !still {
            return Ok(false);
        }
        // With a deadline: the wait for apply has none of its own, and the leadership may go meanwhile.
        match tokio::time::timeout(CONFIRM_DEADLINE, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => return Ok(true),
            Ok(Err(openraft::error::RaftError::Fatal(fatal))) => anyhow::bail!("the Raft core has ended: {fatal}"),
            Ok(Err(openraft::error::RaftError::APIError(_))) | Err(_) => tokio::time::sleep(CONFIRM_AGAIN).await,
        }
    }
}
