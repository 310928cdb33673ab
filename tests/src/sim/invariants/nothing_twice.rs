//! A3: no key has two entries, however often it was sent, by whatever way.

use iris_protocol::NodeId;

use super::super::world::World;
use crate::oracle::Verdict;

const NAME: &str = "no key twice (A3)";

pub(super) fn judge(world: &World, node: NodeId, verdict: &Verdict) {
    super::none(world, node, NAME, verdict.duplicated, verdict);
}
