//! A3, C7: a leader that proposes and answers reads has applied everything that was in its log when it was elected, and so its
//! own first entry behind that.

use std::collections::HashMap;

use iris_appliance::cluster::testing::GroupSeen;
use iris_protocol::NodeId;

use super::super::world::World;

const NAME: &str = "a leader knows what it inherited (A3)";

/// Who was seen to serve without it at the last look, and in which term: one look alone may fall between two steps of a node.
#[derive(Debug, Default)]
pub(super) struct Ready(HashMap<(String, NodeId), u64>);

impl Ready {
    pub(super) fn look(&mut self, world: &World, node: NodeId, seen: &GroupSeen) {
        let at = (seen.group.clone(), node);
        let Some(term) = seen.serves_in.filter(|term| seen.applied_by.is_none_or(|by| by < (*term, node))) else {
            self.0.remove(&at);
            return;
        };
        if self.0.insert(at, term) == Some(term) {
            let what = format!("{}: node {node} serves in term {term}, but has applied no entry of it", seen.group);
            world.book.broken(NAME, world.now_ms, what);
        }
    }
}
