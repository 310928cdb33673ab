//! Who leads what: gives each shard back to its preferred leader once that node is up and caught up, and moves everything
//! away from a node that is going down, whose disk is full or slow, or that some other node can't reach although a third one can
//! (C7). Moves are planned: a transfer to a replica that has the whole log, so that no write
//! is refused (the edges' uplinks wait it out).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::ShardGroup;
use super::handler::META_GROUP;
use super::member::MetaRaft;
use super::membership::lag;
use super::meta_machine::MetaView;
use super::partition_watch::Partitions;
use super::raft_types::decode;
use super::rpc::{Method, RpcClients};
use super::shards::Shards;
use super::transport::{Channel, PeerTransport};
use crate::disk::Disk;

/// Between looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node must have been up this long before it is given leaderships: one that flaps gets none.
const UP_FOR: Duration = Duration::from_secs(3);

/// A replica this close behind catches up within the transfer.
const LAG_MAX: u64 = 64;

/// How long a move may take before the next is tried.
const MOVE_DEADLINE: Duration = Duration::from_secs(2);

/// Longest a node that is going down tries to hand its leaderships over.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(8);

/// Between looks while handing over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const WILL_LEAD_DEADLINE: Duration = Duration::from_millis(500);

/// Moves leaderships of one node.
pub struct Leaderships {
    /// This node.
    pub node: NodeId,
    /// Its shards.
    pub shards: Shards,
    /// Who is preferred where.
    pub meta: MetaView,
    /// Calls to the others.
    pub clients: Arc<RpcClients>,
    /// Who is up.
    pub transport: Arc<dyn PeerTransport>,
    /// Who can't reach whom.
    pub partitions: Arc<Partitions>,
    /// This node's disk.
    pub disk: Disk,
    /// The meta group.
    pub meta_raft: MetaRaft,
}

impl Leaderships {
    /// Gives shards back to their preferred leaders, one at a time, until `stop`; and all to others while the disk is in trouble.
    pub async fn balance(&self, stop: &CancellationToken) {
        let mut up_since: std::collections::HashMap<NodeId, Instant> = std::collections::HashMap::new();
        let mut disk = self.disk.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = disk.turned() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !disk.state().may_lead() {
                self.give_away().await;
                continue;
            }
            let Some(state) = self.meta.borrow().clone() else { continue };
            for node in state.nodes.keys().filter(|node| **node != self.node) {
                if self.transport.is_up(*node) {
                    up_since.entry(*node).or_insert_with(Instant::now);
                } else {
                    up_since.remove(node);
                }
            }
            for group in self.shards.in_order().iter().filter(|group| group.leadership.borrow().ready) {
                if self.partitions.is_cut_off(self.node) {
                    // A node behind the cut can't hand its clients' messages to this one, and elects nobody else: the voters that
                    // hear from this one wait with it.
                    if let Some(to) = self.successor(group, |voter| !self.partitions.is_cut_off(voter)) {
                        self.transfer(group, to).await;
                    }
                    continue;
                }
                // While its replicas change, a shard keeps its leader: that one is at work.
                let record = state.shards.get(usize::from(group.shard.0)).filter(|record| record.is_settled());
                let preferred = record.and_then(|record| record.replicas.first());
                let Some(&preferred) = preferred.filter(|preferred| **preferred != self.node) else { continue };
                let settled = up_since.get(&preferred).is_some_and(|since| since.elapsed() >= UP_FOR);
                let close = lag(&group.raft, preferred).is_some_and(|lag| lag <= LAG_MAX);
                if settled && close && !self.partitions.is_cut_off(preferred) && self.will_lead(preferred).await {
                    self.transfer(group, preferred).await;
                }
            }
        }
    }

    /// Gives what this node leads to those who say that they will lead. If nobody does, it stays: a slow leader is better than none,
    /// and a full one still answers reads.
    async fn give_away(&self) {
        let groups = self.shards.in_order();
        let led: Vec<&ShardGroup> = groups.iter().filter(|group| self.leads(group)).collect();
        let leads_meta = self.meta_raft.is_leader();
        let meta_voters = self.meta_raft.voter_ids().filter(|_| leads_meta);
        let voters: BTreeSet<NodeId> = led.iter().flat_map(|group| group.raft.voter_ids()).chain(meta_voters).collect();
        let mut willing = BTreeSet::new();
        for voter in voters.into_iter().filter(|voter| self.is_up_peer(*voter)) {
            if self.will_lead(voter).await {
                willing.insert(voter);
            }
        }
        let moves =
            led.iter().filter_map(|group| Some((*group, self.successor(group, |node| willing.contains(&node))?)));
        futures::future::join_all(moves.map(|(group, to)| self.transfer(group, to))).await;
        if let Some(to) = self.meta_raft.voter_ids().find(|voter| leads_meta && willing.contains(voter))
            && let Err(fatal) = self.meta_raft.trigger().transfer_leader(to).await
        {
            tracing::warn!(%fatal, "could not hand the meta group's leadership over");
        }
    }

    /// Moves every leadership away, to the replica that lags least. Returns how many could not be moved: with no other
    /// replica up there is nobody to take them.
    pub async fn hand_over(&self) -> usize {
        let give_up = Instant::now() + HAND_OVER_DEADLINE;
        let groups = self.shards.in_order();
        loop {
            let led: Vec<&ShardGroup> = groups.iter().filter(|group| self.leads(group)).collect();
            let moves = led.iter().filter_map(|group| Some((*group, self.successor(group, |_| true)?)));
            let moves: Vec<_> = moves.map(|(group, to)| self.transfer(group, to)).collect();
            let alone = !led.iter().any(|group| group.raft.voter_ids().any(|voter| self.is_up_peer(voter)));
            if led.is_empty() || alone || Instant::now() >= give_up {
                return led.len();
            }
            if moves.is_empty() {
                // Just elected: nothing has been heard of the others yet.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            futures::future::join_all(moves).await;
        }
    }

    /// Also while it is not confirmed yet.
    fn leads(&self, group: &ShardGroup) -> bool {
        group.raft.metrics().borrow_watched().current_leader == Some(self.node)
    }

    fn is_up_peer(&self, node: NodeId) -> bool {
        node != self.node && self.transport.is_up(node)
    }

    /// The replica that lags least, of those that are up and suit.
    fn successor(&self, group: &ShardGroup, suits: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let voters = group.raft.voter_ids().filter(|voter| self.is_up_peer(*voter) && suits(*voter));
        voters.filter_map(|voter| Some((lag(&group.raft, voter)?, voter))).min().map(|(_, voter)| voter)
    }

    async fn will_lead(&self, node: NodeId) -> bool {
        let Ok(client) = self.clients.get(node, Channel::Edge) else { return false };
        let answer = client.call(Method::WillLead, META_GROUP, Bytes::new(), WILL_LEAD_DEADLINE).await;
        answer.is_ok_and(|bytes| decode("will lead", &bytes).unwrap_or(false))
    }

    async fn transfer(&self, group: &ShardGroup, to: NodeId) {
        tracing::info!(shard = %group.shard, %to, "handing the leadership over");
        if let Err(fatal) = group.raft.trigger().transfer_leader(to).await {
            tracing::warn!(shard = %group.shard, %fatal, "could not hand the leadership over");
            return;
        }
        let mut leadership = group.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.node));
        let _ = tokio::time::timeout(MOVE_DEADLINE, moved).await;
    }
}
