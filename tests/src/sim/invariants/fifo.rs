//! A6: the messages of one sender to one recipient stand in the order they were sent in.

use iris_protocol::NodeId;

use super::super::world::World;
use crate::oracle::Verdict;

const NAME: &str = "order of a sender (A6)";

pub(super) fn judge(world: &World, node: NodeId, verdict: &Verdict) {
    super::none(world, node, NAME, verdict.reordered, verdict);
}
