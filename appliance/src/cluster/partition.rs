//! Who sees whom, and where the network is cut (C7): every node tells the others whom it has a link to, and each compares. Two nodes
//! that are both up and have no link between them are cut off from each other, whatever the others see: so a cut of one direction
//! and one that only two of three notice are found, by everybody. When a whole side is out of sight, nobody can tell whether it
//! is down; that it ran all the time shows when it is back as the same process. Pure; `partition_watch` asks and tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iris_protocol::NodeId;
use iris_protocol::versioned::Versioned;
use serde::{Deserialize, Serialize};

/// A cut is believed once it has stood so long: links that break are noticed at their two ends up to 3 s apart, and a node that has
/// just started links up one by one.
pub(super) const STANDS_FOR: Duration = Duration::from_secs(5);

/// A link that was gone for less is not worth a word.
const GONE_FOR_MIN: Duration = Duration::from_secs(1);

/// What a node says of itself and the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sight {
    /// Drawn at its start: another one is another process.
    pub(super) run: u64,
    /// Those it has a live link to.
    pub(super) sees: BTreeSet<NodeId>,
}

impl Versioned for Sight {
    const NAME: &'static str = "sight";
    const VERSION: u8 = 1;
}

/// Two nodes that are up and can't reach each other; the lower id first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut(pub(super) NodeId, pub(super) NodeId);

impl Cut {
    /// Whether this node is at one of its ends.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0 == node || self.1 == node
    }
}

/// What one look showed: of every node that could be asked, this one included, whom it sees.
pub(super) type Sights = BTreeMap<NodeId, Sight>;

/// The pairs that have no link although both are up, as far as these looks tell.
fn cuts(sights: &Sights) -> BTreeSet<Cut> {
    // Whoever answered, or is seen by one who did.
    let up: BTreeSet<NodeId> =
        sights.keys().copied().chain(sights.values().flat_map(|sight| sight.sees.iter().copied())).collect();
    let mut cuts = BTreeSet::new();
    for (node, sight) in sights {
        for other in up.iter().filter(|other| *other != node && !sight.sees.contains(other)) {
            cuts.insert(Cut(*node.min(other), *node.max(other)));
        }
    }
    cuts
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// These two can't reach each other.
    Cut(Cut),
    /// They can again.
    Healed(Cut, Duration),
    /// These were out of this node's sight for so long, and are the same processes as before.
    WasCutOff(Vec<NodeId>, Duration),
}

/// Follows the looks. Times are since the start of the node.
#[derive(Debug)]
pub(super) struct Detector {
    me: NodeId,
    /// Cuts, since when, and whether they were told.
    standing: BTreeMap<Cut, (Duration, bool)>,
    /// The others' processes when they last answered.
    runs: BTreeMap<NodeId, u64>,
    /// Those this node lost sight of, and when.
    lost: BTreeMap<NodeId, Duration>,
}

impl Detector {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, standing: BTreeMap::new(), runs: BTreeMap::new(), lost: BTreeMap::new() }
    }

    /// The cuts that are believed.
    pub(super) fn believed(&self) -> impl Iterator<Item = Cut> + '_ {
        self.standing.iter().filter(|(_, (_, told))| *told).map(|(cut, _)| *cut)
    }

    /// Takes a look in: what is new by it.
    pub(super) fn look(&mut self, now: Duration, sights: &Sights) -> Vec<Event> {
        let mut events = self.back_in_sight(now, sights);
        let found = cuts(sights);
        for cut in &found {
            let (since, told) = self.standing.entry(*cut).or_insert((now, false));
            if !*told && now.saturating_sub(*since) >= STANDS_FOR {
                *told = true;
                events.push(Event::Cut(*cut));
            }
        }
        self.standing.retain(|cut, (since, told)| {
            let stands = found.contains(cut);
            if !stands && *told {
                events.push(Event::Healed(*cut, now.saturating_sub(*since)));
            }
            stands
        });
        events
    }

    /// Those that answer again under the same run. A cut that was known while it stood is not told twice.
    fn back_in_sight(&mut self, now: Duration, sights: &Sights) -> Vec<Event> {
        let sees = sights.get(&self.me).map(|sight| sight.sees.clone()).unwrap_or_default();
        for node in self.runs.keys().filter(|node| !sees.contains(node)) {
            self.lost.entry(*node).or_insert(now);
        }
        let (mut back, mut longest) = (Vec::new(), Duration::ZERO);
        for (node, sight) in sights.iter().filter(|(node, _)| **node != self.me) {
            let same = self.runs.insert(*node, sight.run) == Some(sight.run);
            let Some(since) = self.lost.remove(node) else { continue };
            let gone = now.saturating_sub(since);
            let cut = Cut(self.me.min(*node), self.me.max(*node));
            let told = self.standing.get(&cut).is_some_and(|(_, told)| *told);
            if same && gone >= GONE_FOR_MIN && !told {
                back.push(*node);
                longest = longest.max(gone);
            }
        }
        if back.is_empty() { Vec::new() } else { vec![Event::WasCutOff(back, longest)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sights(all: &[(u64, &[u64])]) -> Sights {
        let sight =
            |node: u64, sees: &[u64]| Sight { run: 100 + node, sees: sees.iter().copied().map(NodeId).collect() };
        all.iter().map(|(node, sees)| (NodeId(*node), sight(*node, sees))).collect()
    }

    #[track_caller]
    fn check(all: &[(u64, &[u64])], expect: &[(u64, u64)]) {
        let expect = expect.iter().map(|(one, other)| Cut(NodeId(*one), NodeId(*other))).collect();
        assert_eq!(cuts(&sights(all)), expect);
    }

    #[test]
    fn a_pair_without_a_link_is_found_by_each_of_three() {
        check(&[(1, &[2, 3]), (2, &[1, 3]), (3, &[1, 2])], &[]);
        // 1 and 2 are cut; node 1 can ask 3 only, 2 likewise, 3 can ask both.
        check(&[(1, &[3]), (3, &[1, 2])], &[(1, 2)]);
        check(&[(2, &[3]), (3, &[1, 2])], &[(1, 2)]);
        check(&[(1, &[3]), (2, &[3]), (3, &[1, 2])], &[(1, 2)]);
    }

    #[test]
    fn a_node_that_nobody_sees_may_be_down_and_is_no_cut() {
        check(&[(1, &[2]), (2, &[1])], &[]);
        check(&[(3, &[])], &[]);
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn told(detector: &mut Detector, seconds: std::ops::Range<u32>, all: &[(u64, &[u64])]) -> Vec<(u32, Event)> {
        let look =
            |second: u32| detector.look(SECOND * second, &sights(all)).into_iter().map(move |event| (second, event));
        seconds.flat_map(look).collect()
    }

    #[test]
    fn a_cut_is_told_once_when_it_stands_and_once_when_it_is_healed() {
        let (mut detector, cut) = (Detector::new(NodeId(1)), Cut(NodeId(1), NodeId(2)));
        let whole: &[(u64, &[u64])] = &[(1, &[2, 3]), (2, &[1, 3]), (3, &[1, 2])];
        let broken: &[(u64, &[u64])] = &[(1, &[3]), (3, &[1, 2])];
        assert_eq!(told(&mut detector, 0..3, whole), []);
        assert_eq!(told(&mut detector, 3..7, broken), [], "it may be that 2 has just died");
        assert_eq!(told(&mut detector, 7..8, whole), [(7, Event::WasCutOff(vec![NodeId(2)], SECOND * 4))]);
        assert_eq!(told(&mut detector, 10..30, broken), [(15, Event::Cut(cut))]);
        assert_eq!(detector.believed().collect::<Vec<_>>(), [cut]);
        assert_eq!(told(&mut detector, 30..40, whole), [(30, Event::Healed(cut, SECOND * 20))]);
        assert_eq!(detector.believed().count(), 0);
    }

    #[test]
    fn a_side_that_was_out_of_sight_and_ran_all_the_time_was_cut_off() {
        let whole: &[(u64, &[u64])] = &[(1, &[2, 3]), (2, &[1, 3]), (3, &[1, 2])];
        let mut detector = Detector::new(NodeId(1));
        told(&mut detector, 0..2, whole);
        assert_eq!(told(&mut detector, 2..60, &[(1, &[])]), []);
        let both = vec![NodeId(2), NodeId(3)];
        assert_eq!(told(&mut detector, 60..62, whole), [(60, Event::WasCutOff(both, SECOND * 58))]);
        // One that was restarted meanwhile was down.
        told(&mut detector, 62..80, &[(1, &[3]), (3, &[1])]);
        let mut restarted = sights(whole);
        restarted.get_mut(&NodeId(2)).unwrap().run = 7;
        assert_eq!(detector.look(SECOND * 80, &restarted), []);
    }

    proptest! {
        /// Whatever is up and whatever is cut: with all cuts both-sided, exactly the cut pairs of nodes that are known to be up are found.
        #[test]
        fn exactly_the_pairs_without_a_link_are_found(up in prop::collection::btree_set(1u64..6, 1..6), cut in prop::collection::btree_set((1u64..6, 1u64..6), 0..8)) {
            let linked = |one: u64, other: u64| one != other && up.contains(&one) && up.contains(&other) && !cut.contains(&(one, other)) && !cut.contains(&(other, one));
            let me = *up.first().unwrap();
            let sees = |node: u64| up.iter().copied().filter(|other| linked(node, *other)).map(NodeId).collect::<BTreeSet<_>>();
            let asked = up.iter().copied().filter(|node| *node == me || linked(me, *node));
            let sights: Sights = asked.map(|node| (NodeId(node), Sight { run: node, sees: sees(node) })).collect();
            let known: BTreeSet<u64> = sights.iter().flat_map(|(node, sight)| sight.sees.iter().chain([node])).map(|node| node.0).collect();
            let asked = |node: u64| sights.contains_key(&NodeId(node));
            let expect: BTreeSet<Cut> = known.iter().flat_map(|one| known.iter().map(move |other| (*one, *other)))
                .filter(|(one, other)| one < other && !linked(*one, *other) && (asked(*one) || asked(*other)))
                .map(|(one, other)| Cut(NodeId(one), NodeId(other))).collect();
            prop_assert_eq!(cuts(&sights), expect);
        }
    }
}
