//! A4: what was acked as committed is at every replica, under the id it was acked with, with its body; what is there was sent.

use iris_protocol::NodeId;

use super::super::world::World;
use crate::oracle::Verdict;

const NAME: &str = "committed is there (A4)";

pub(super) fn judge(world: &World, node: NodeId, verdict: &Verdict) {
    let wrong = verdict.lost + verdict.corrupted + verdict.misnumbered + verdict.foreign;
    super::none(world, node, NAME, wrong, verdict);
}
