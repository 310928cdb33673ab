//! A member that comes back as a new node, because its disk was damaged (C12, docs/decisions/0017). In two steps, as nobody knows
//! whether an answer was heard: first the new node is a member beside the old one, which may ask again and is told the same; once
//! the new one is heard from, the old one is no member any more. Its id is in no list of members from then on, and is never given
//! again, so that what it promised can't be asked of anybody else. Pure.

use std::collections::BTreeMap;

use iris_protocol::NodeId;

use super::{MetaOutcome, MetaState, NodeRecord};

impl MetaState {
    /// Gives the old node's successor a place. One that was given before and never heard from goes: the key that it had is lost.
    pub(super) fn replace(
        &mut self,
        replacing: &mut BTreeMap<NodeId, NodeId>,
        old: NodeId,
        mut record: NodeRecord,
    ) -> MetaOutcome {
        let Some(known) = self.nodes.get(&old) else { return MetaOutcome::Unchanged };
        record.name.clone_from(&known.name);
        if let Some((&node, _)) = self.nodes.iter().find(|(_, other)| other.key == record.key) {
            let is_asked_again = replacing.get(&node) == Some(&old);
            return if is_asked_again { MetaOutcome::Joined(node) } else { MetaOutcome::Unchanged };
        }
        let before = replacing.iter().find(|(_, whose)| **whose == old).map(|(node, _)| *node);
        if let Some(before) = before {
            replacing.remove(&before);
            self.admissions.heard_from(before);
            self.nodes.remove(&before);
        }
        let node = self.admissions.give_place();
        replacing.insert(node, old);
        self.nodes.insert(node, record);
        MetaOutcome::Joined(node)
    }

    /// A node was heard from: whose place it took is a member no more, and whose place that one took if it was damaged before it
    /// was heard from. Whether there was one.
    pub(super) fn retire(&mut self, replacing: &mut BTreeMap<NodeId, NodeId>, node: NodeId) -> bool {
        let (mut successor, mut retired) = (node, false);
        while let Some(old) = replacing.remove(&successor) {
            self.admissions.heard_from(old);
            retired |= self.nodes.remove(&old).is_some();
            successor = old;
        }
        retired
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Meta, MetaCommand};
    use super::*;
    use crate::cluster::placement::tests::{founded, record};

    fn meta(nodes: u64) -> Meta {
        let mut meta = Meta::default();
        meta.apply(MetaCommand::Found(Box::new(founded(nodes, 2))));
        meta
    }

    fn replace(meta: &mut Meta, old: u64, record: &NodeRecord) -> MetaOutcome {
        meta.apply(MetaCommand::Replace { old: NodeId(old), record: record.clone() })
    }

    fn ids(meta: &Meta) -> Vec<u64> {
        meta.state.iter().flat_map(|state| state.nodes.keys()).map(|node| node.0).collect()
    }

    #[test]
    fn the_old_one_goes_when_the_new_one_is_heard_from() {
        let mut meta = meta(3);
        let new = record(9);
        assert_eq!(replace(&mut meta, 2, &new), MetaOutcome::Joined(NodeId(4)));
        assert_eq!(replace(&mut meta, 2, &new), MetaOutcome::Joined(NodeId(4)), "its answer was lost");
        assert_eq!(ids(&meta), [1, 2, 3, 4]);
        let state = meta.state.as_ref().unwrap();
        assert!(state.admissions.is_newcomer(NodeId(4)) && state.nodes[&NodeId(4)].name == "n2");
        assert_eq!(meta.apply(MetaCommand::Describe(NodeId(4), new.clone())), MetaOutcome::Changed);
        assert_eq!(ids(&meta), [1, 3, 4]);
        let state = meta.state.as_ref().unwrap();
        assert!(!state.admissions.is_newcomer(NodeId(4)) && meta.replacing.is_empty());
        assert_eq!(replace(&mut meta, 2, &record(10)), MetaOutcome::Unchanged, "it is gone for good");
        // The same may happen to the new one.
        assert_eq!(replace(&mut meta, 4, &record(11)), MetaOutcome::Joined(NodeId(5)));
    }

    #[test]
    fn one_that_is_damaged_before_it_was_heard_from_leaves_nobody_behind() {
        let mut meta = meta(3);
        let again = record(10);
        assert_eq!(replace(&mut meta, 2, &record(9)), MetaOutcome::Joined(NodeId(4)));
        assert_eq!(replace(&mut meta, 4, &again), MetaOutcome::Joined(NodeId(5)));
        assert_eq!(replace(&mut meta, 4, &again), MetaOutcome::Joined(NodeId(5)), "its answer was lost");
        assert_eq!(ids(&meta), [1, 2, 3, 4, 5]);
        assert_eq!(meta.apply(MetaCommand::Describe(NodeId(5), again)), MetaOutcome::Changed);
        assert_eq!(ids(&meta), [1, 3, 5]);
        assert!(meta.replacing.is_empty());
    }

    #[test]
    fn a_second_key_takes_the_place_of_one_that_never_came() {
        let mut meta = meta(3);
        assert_eq!(replace(&mut meta, 2, &record(9)), MetaOutcome::Joined(NodeId(4)));
        assert_eq!(replace(&mut meta, 2, &record(10)), MetaOutcome::Joined(NodeId(5)));
        assert_eq!(ids(&meta), [1, 2, 3, 5], "an id is never given twice");
        let taken = meta.state.as_ref().unwrap().nodes[&NodeId(1)].clone();
        assert_eq!(replace(&mut meta, 2, &taken), MetaOutcome::Unchanged, "another member's key");
        assert_eq!(replace(&mut meta, 7, &record(12)), MetaOutcome::Unchanged, "a stranger");
    }
}
