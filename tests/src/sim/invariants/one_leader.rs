//! C7: a leadership ends for good: what a later leader put into a group's log is never followed by an earlier one's.

use std::collections::{BTreeMap, HashMap};

use iris_appliance::cluster::testing::GroupSeen;
use iris_protocol::NodeId;

use super::super::world::World;

const NAME: &str = "one leader at a time (C7)";

/// Term and node of who put in what was seen to be applied at an index.
#[derive(Debug, Default)]
pub(super) struct Leaders(HashMap<String, BTreeMap<u64, (u64, NodeId)>>);

impl Leaders {
    pub(super) fn look(&mut self, world: &World, node: NodeId, seen: &GroupSeen) {
        let Some(((index, _), by)) = seen.applied.as_ref().zip(seen.applied_by) else { return };
        let known = self.0.entry(seen.group.clone()).or_default();
        let before = known.range(..index).next_back().filter(|(_, earlier)| **earlier > by);
        let after = known.range(index..).next().filter(|(_, later)| **later < by);
        if let Some((at, other)) = before.or(after) {
            let what = format!("{}: node {node} applied {by:?} at {index}, but {other:?} stands at {at}", seen.group);
            world.book.broken(NAME, world.now_ms, what);
        }
        known.insert(*index, by);
    }
}
