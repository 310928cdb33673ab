//! A2: the ids of an inbox strictly increase, whatever clocks do.

use iris_protocol::NodeId;

use super::super::world::World;
use crate::oracle::Verdict;

const NAME: &str = "ids increase (A2)";

pub(super) fn judge(world: &World, node: NodeId, verdict: &Verdict) {
    super::none(world, node, NAME, verdict.not_increasing, verdict);
}
