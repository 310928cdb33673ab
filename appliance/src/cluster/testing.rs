//! What the simulation sees of a group that nobody else needs to: what was applied where, and
//! by whom. And how it moves a leadership, as an operator would.

use bytes::Bytes;
use iris_protocol::NodeId;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;

use super::Member;
use super::raft_types::{TypeConfig, encode};

/// A group as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSeen {
    /// `meta`, or the shard.
    pub group: String,
    /// The last applied index, and the id of the entry there.
    pub applied: Option<(u64, Bytes)>,
    /// Term and node of the leader that put it there.
    pub applied_by: Option<(u64, NodeId)>,
    /// The term in which this node says it may propose and answer reads.
    pub serves_in: Option<u64>,
    /// The last index in the log.
    pub last_index: Option<u64>,
}

/// Every group of a node.
#[must_use]
pub fn groups(member: &Member) -> Vec<GroupSeen> {
    let shards = member.shards.in_order();
    let shards = shards.iter().map(|group| {
        let seen = seen(format!("shard {}", group.shard), &group.raft);
        let serves_in = group.leadership.borrow().ready.then(|| group.raft.metrics().borrow_watched().current_term);
        GroupSeen { serves_in, ..seen }
    });
    std::iter::once(seen("meta".to_owned(), &member.meta)).chain(shards).collect()
}

fn seen<SM: RaftStateMachine<TypeConfig>>(group: String, raft: &Raft<TypeConfig, SM>) -> GroupSeen {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    GroupSeen {
        group,
        applied: now.last_applied.map(|id| (id.index, Bytes::from(encode(&id)))),
        applied_by: now.last_applied.map(|id| (id.committed_leader_id().term, id.committed_leader_id().node_id)),
        serves_in: None,
        last_index: now.last_log_index,
    }
}

/// Asks every shard that this node leads to be led by another.
pub async fn give_away(member: &Member, to: NodeId) {
    for group in member.shards.in_order() {
        if group.raft.is_leader() && group.raft.voter_ids().any(|voter| voter == to) {
            // One that does not move is asked again by whoever wants it moved.
            let _ = group.raft.trigger().transfer_leader(to).await;
        }
    }
}
