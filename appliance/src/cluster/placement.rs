//! Where shards live and who should lead them: pure functions of the meta state. What they say is carried out elsewhere: the
//! meta leader's controller writes a step into the map, the shard's leader brings its group in line with it.

use std::collections::BTreeMap;

use iris_protocol::vnode::{VNODES, first_shard_of};
use iris_protocol::{NodeId, ShardId, VnodeId};

use super::meta::{MetaState, ShardRecord};

/// Replicas of a shard (C3).
pub const REPLICAS_MAX: usize = 3;

/// Shards on their way to where they shall be at a time: each copies its inboxes over the network while messages flow.
pub const MOVES_MAX: usize = 2;

/// One change of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which shard.
    pub shard: ShardId,
    /// Where it was to be.
    pub before: Vec<NodeId>,
    /// Where it shall be, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// The next change, or none: one replica more for a shard that has too few, on the node that holds fewest; else another
/// preferred leader, if one node is preferred by two shards more than another. Nothing while enough shards are under way, so
/// the same state always gives the same step, and a controller that dies is simply asked again elsewhere.
///
/// Only nodes that are `up` are given anything, and a shard that waits for one that is not waits for nobody: a machine that
/// joined and died holds up neither itself nor the others.
#[must_use]
pub fn next_step(state: &MetaState, up: impl Fn(NodeId) -> bool) -> Option<Step> {
    let nodes = state.settled_nodes().count();
    let awaited = |record: &ShardRecord| record.replicas.iter().any(|node| !record.voters.contains(node) && up(*node));
    let under_way = state.shards.iter().filter(|record| awaited(record)).count();
    if under_way >= MOVES_MAX {
        return None;
    }
    let held = count(state, |record| &record.replicas);
    if let Some(step) = successor(state, &held, &up) {
        return Some(step);
    }
    let wanted = nodes.min(REPLICAS_MAX);
    let short = state.shards().filter(|(_, record)| !awaited(record) && record.replicas.len() < wanted);
    // The shard with fewest copies first: it has most to lose.
    let mut short: Vec<_> = short.collect();
    short.sort_by_key(|(shard, record)| (record.voters.len(), *shard));
    for (shard, record) in short {
        let free = held.iter().filter(|(node, _)| up(**node) && !record.replicas.contains(node));
        if let Some((node, _)) = free.min_by_key(|(node, held)| (**held, **node)) {
            let mut replicas = record.replicas.clone();
            replicas.push(*node);
            return Some(Step { shard, before: record.replicas.clone(), replicas });
        }
    }
    (under_way == 0).then(|| lead_elsewhere(state)).flatten()
}

/// Puts another node in the place of a replica whose node is a member no more (C12), if there is one to put there.
fn successor(state: &MetaState, held: &BTreeMap<NodeId, usize>, up: impl Fn(NodeId) -> bool) -> Option<Step> {
    state.shards().find_map(|(shard, record)| {
        let at = record.replicas.iter().position(|node| !state.nodes.contains_key(node))?;
        let free = held.iter().filter(|(node, _)| up(**node) && !record.replicas.contains(node));
        let (node, _) = free.min_by_key(|(node, held)| (**held, **node))?;
        let mut replicas = record.replicas.clone();
        replicas[at] = *node;
        Some(Step { shard, before: record.replicas.clone(), replicas })
    })
}

/// Gives one shard another preferred leader among its replicas, if that makes the leaders more even.
fn lead_elsewhere(state: &MetaState) -> Option<Step> {
    let leads = count(state, |record| record.replicas.get(..1).unwrap_or_default());
    let of = |node: &NodeId| leads.get(node).copied().unwrap_or(0);
    let is_whole = |record: &ShardRecord| record.replicas.iter().all(|node| state.nodes.contains_key(node));
    state.shards().filter(|(_, record)| record.is_settled() && is_whole(record)).find_map(|(shard, record)| {
        let (leader, others) = record.replicas.split_first()?;
        let at = others.iter().enumerate().min_by_key(|(_, node)| (of(node), **node)).map(|(at, _)| at + 1)?;
        (of(leader) >= of(&record.replicas[at]) + 2).then(|| {
            let mut replicas = record.replicas.clone();
            replicas.swap(0, at);
            Step { shard, before: record.replicas.clone(), replicas }
        })
    })
}

/// How often each member that may hold something is among those that `of` names.
fn count(state: &MetaState, of: impl Fn(&ShardRecord) -> &[NodeId]) -> BTreeMap<NodeId, usize> {
    let mut counts: BTreeMap<NodeId, usize> = state.settled_nodes().map(|node| (node, 0)).collect();
    for node in state.shards.iter().flat_map(of) {
        counts.entry(*node).and_modify(|count| *count += 1);
    }
    counts
}

/// Voters of the meta group: odd, so that each two tolerate one death more, and not more than five, as each costs a round trip.
/// The others follow as learners: every node knows the map. Those that vote already stay, so that a new node moves nothing.
#[must_use]
pub fn meta_voters(nodes: impl Iterator<Item = NodeId>, voting: &[NodeId]) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = nodes.collect();
    let wanted = match nodes.len() {
        // Two copies of the map are better than one, though neither node may be missing then.
        0..=3 => nodes.len(),
        4 => 3,
        _ => 5,
    };
    nodes.sort_by_key(|node| (!voting.contains(node), *node));
    nodes.truncate(wanted);
    nodes.sort();
    nodes
}

/// The first layout: each shard on up to three nodes, preferred leaders in turn, so that every node leads as many as the
/// others within one. `nodes` in ascending order.
#[must_use]
pub fn first_layout(nodes: &[NodeId], shards: u16) -> Vec<ShardRecord> {
    (0..usize::from(shards))
        .map(|shard| {
            let replicas = nodes.iter().cycle().skip(shard % nodes.len().max(1));
            ShardRecord::founded_on(replicas.take(nodes.len().min(REPLICAS_MAX)).copied().collect())
        })
        .collect()
}

/// The shard of each vnode when a cluster is created.
#[must_use]
pub fn first_vnodes(shards: u16) -> Vec<ShardId> {
    (0..VNODES).map(|vnode| first_shard_of(VnodeId(vnode), shards)).collect()
}

#[cfg(test)]
#[path = "placement_tests.rs"]
pub(super) mod tests;
