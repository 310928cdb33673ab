//! A1: at one index of a group's log every node applies the same entry.

use std::collections::HashMap;

use bytes::Bytes;
use iris_appliance::cluster::testing::GroupSeen;
use iris_protocol::NodeId;

use super::super::world::World;

const NAME: &str = "one entry an index (A1)";

/// What was seen to be applied where.
#[derive(Debug, Default)]
pub(super) struct Applied(HashMap<(String, u64), Bytes>);

impl Applied {
    pub(super) fn look(&mut self, world: &World, node: NodeId, seen: &GroupSeen) {
        let Some((index, id)) = &seen.applied else { return };
        let known = self.0.entry((seen.group.clone(), *index)).or_insert_with(|| id.clone());
        if known != id {
            let what = format!("{}: node {node} applied another entry at {index} than was seen before", seen.group);
            world.book.broken(NAME, world.now_ms, what);
        }
    }
}
