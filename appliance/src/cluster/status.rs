//! What this member can say about its groups and its fellow members, for the admin API.

use iris_protocol::NodeId;
use iris_protocol::admin::{GroupStatus, NetworkStatus, NodeStatus};
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;

use super::member::Member;
use super::raft_types::TypeConfig;

impl Member {
    /// Every group, meta first.
    #[must_use]
    pub fn group_statuses(&self) -> Vec<GroupStatus> {
        let mut statuses = vec![group_status(&self.meta, None)];
        for group in self.shards.in_order() {
            let mut status = group_status(&group.raft, Some(group.shard));
            status.checkpoint_index = group.store.checkpointed().index;
            statuses.push(status);
        }
        statuses
    }

    /// The network between the members, and how often it was found cut.
    #[must_use]
    pub fn network_status(&self) -> (NetworkStatus, u64) {
        (self.partitions.status(), self.partitions.count())
    }

    /// Every member, with what this node knows of it.
    #[must_use]
    pub fn node_statuses(&self) -> Vec<NodeStatus> {
        let leaders: Vec<Option<NodeId>> =
            self.shards.by_id().values().map(|group| group.leadership.borrow().leader).collect();
        let state = self.meta_view.borrow().clone();
        let nodes = state.iter().flat_map(|state| state.nodes.iter());
        nodes
            .map(|(id, record)| NodeStatus {
                id: *id,
                name: record.name.clone(),
                client: record.client.clone(),
                // One in quarantine has a link and is of no use.
                up: *id == self.node || self.transport.is_up(*id) && self.quarantined.what(*id).is_none(),
                newcomer: state.as_ref().is_some_and(|state| state.admissions.is_newcomer(*id)),
                leads: leaders.iter().filter(|leader| **leader == Some(*id)).count() as u32,
            })
            .collect()
    }
}

fn group_status<SM: RaftStateMachine<TypeConfig>>(
    raft: &Raft<TypeConfig, SM>,
    shard: Option<iris_protocol::ShardId>,
) -> GroupStatus {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let applied_index = now.last_applied.map_or(0, |id| id.index);
    GroupStatus {
        shard,
        leader: now.current_leader,
        term: now.current_term,
        last_index: now.last_log_index.unwrap_or(0),
        applied_index,
        // The meta group is written out with every change.
        checkpoint_index: applied_index,
        voters: now.membership_config.membership().voter_ids().collect(),
    }
}
