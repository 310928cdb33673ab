//! Where shards live and who should lead them: pure functions of the members. (Moving replicas is a later concern; this is
//! the layout a cluster is created with, and the leader each shard returns to.)

use iris_protocol::vnode::{VNODES, first_shard_of};
use iris_protocol::{NodeId, ShardId, VnodeId};

use super::meta::ShardRecord;

/// Replicas of a shard (C3).
pub const REPLICAS_MAX: usize = 3;

/// The first layout: each shard on up to three nodes, preferred leaders in turn, so that every node leads as many as the
/// others within one. `nodes` in ascending order.
#[must_use]
pub fn first_layout(nodes: &[NodeId], shards: u16) -> Vec<ShardRecord> {
    (0..usize::from(shards))
        .map(|shard| {
            let replicas = nodes.iter().cycle().skip(shard % nodes.len().max(1));
            ShardRecord { replicas: replicas.take(nodes.len().min(REPLICAS_MAX)).copied().collect() }
        })
        .collect()
}

/// The shard of each vnode when a cluster is created.
#[must_use]
pub fn first_vnodes(shards: u16) -> Vec<ShardId> {
    (0..VNODES).map(|vnode| first_shard_of(VnodeId(vnode), shards)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn layouts_are_balanced_and_whole(nodes in 1u64..9, shards in 1u16..65) {
            let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
            let layout = first_layout(&nodes, shards);
            let mut leads: HashMap<NodeId, usize> = HashMap::new();
            for shard in &layout {
                prop_assert_eq!(shard.replicas.len(), nodes.len().min(3));
                let mut distinct = shard.replicas.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), shard.replicas.len());
                *leads.entry(shard.replicas[0]).or_default() += 1;
            }
            let counts: Vec<usize> = nodes.iter().map(|node| leads.get(node).copied().unwrap_or(0)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            prop_assert!(first_vnodes(shards).iter().all(|shard| shard.0 < shards));
        }
    }
}
