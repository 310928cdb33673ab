//! Properties of placement: balanced, whole, and reached by steps that end.

use super::*;
use iris_p2p::Identity;
use proptest::prelude::*;

use crate::cluster::meta::admission::Admissions;
use crate::cluster::meta::{DedupSettings, Leaf, NodeRecord, Pki, Secret};

pub(in crate::cluster) fn record(id: u64) -> NodeRecord {
    NodeRecord {
        name: format!("n{id}"),
        key: Identity::ephemeral().peer_id(),
        p2p: Vec::new(),
        client: format!("10.0.0.{id}:8443"),
    }
}

pub(in crate::cluster) fn founded(nodes: u64, shards: u16) -> MetaState {
    let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    let (pem, secret) = (String::new(), Secret::new(String::new()));
    MetaState {
        cluster: "c".to_owned(),
        pki: Pki {
            ca_cert_pem: pem.clone(),
            ca_key_pem: secret.clone(),
            ca_until_ms: 0,
            leaf: Leaf { cert_pem: pem, names: Vec::new(), until_ms: 0 },
            leaf_key_pem: secret,
        },
        token_keys: Vec::new(),
        nodes: ids.iter().map(|id| (*id, record(id.0))).collect(),
        shards: first_layout(&ids, shards),
        vnodes: first_vnodes(shards),
        dedup: DedupSettings { window_ms: 1, keys_max: 1 },
        admissions: Admissions::default(),
    }
}

/// Carries steps out as controller and shard leaders would, the moves under way ending in any order.
fn settle(state: &mut MetaState, order: &mut impl FnMut(usize) -> usize) -> usize {
    settle_among(state, order, |_| true)
}

/// The same while only some nodes are up: those that aren't confirm nothing.
fn settle_among(state: &mut MetaState, order: &mut impl FnMut(usize) -> usize, up: impl Fn(NodeId) -> bool) -> usize {
    for steps in 0..10_000 {
        if let Some(step) = next_step(state, &up) {
            let record = &mut state.shards[usize::from(step.shard.0)];
            assert_eq!(record.replicas, step.before);
            record.replicas = step.replicas;
            continue;
        }
        let awaits =
            |record: &ShardRecord| record.replicas.iter().any(|node| !record.voters.contains(node) && up(*node));
        let moving: Vec<usize> = (0..state.shards.len()).filter(|at| awaits(&state.shards[*at])).collect();
        assert!(moving.len() <= MOVES_MAX);
        if moving.is_empty() {
            return steps;
        }
        let record = &mut state.shards[moving[order(moving.len())]];
        record.voters =
            record.replicas.iter().copied().filter(|node| record.voters.contains(node) || up(*node)).collect();
    }
    panic!("the steps never end");
}

fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

fn check(state: &MetaState) {
    let wanted = state.nodes.len().min(REPLICAS_MAX);
    for record in &state.shards {
        let mut distinct = record.replicas.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((record.replicas.len(), distinct.len()), (wanted, wanted), "each on as many nodes as it can be");
    }
    let leads = count(state, |record| &record.replicas[..1]);
    assert!(spread(&leads) <= 1, "leaders are even: {leads:?}");
}

proptest! {
    #[test]
    fn layouts_are_balanced_and_whole(nodes in 1u64..9, shards in 1u16..65) {
        let state = founded(nodes, shards);
        check(&state);
        prop_assert!(state.vnodes.iter().all(|shard| shard.0 < shards));
        prop_assert_eq!(next_step(&state, |_| true), None, "a founded cluster has nothing to do");
    }

    #[test]
    fn one_node_becomes_three_copies_whatever_the_order(shards in 1u16..20, picks in prop::collection::vec(any::<usize>(), 200)) {
        let mut state = founded(1, shards);
        let mut picks = picks.into_iter().cycle();
        let mut order = |len| picks.next().unwrap() % len;
        for id in 2..=3 {
            state.nodes.insert(NodeId(id), record(id));
            settle(&mut state, &mut order);
            check(&state);
            prop_assert!(spread(&count(&state, |record| &record.replicas)) <= 1);
        }
    }
}

#[test]
fn a_machine_that_joined_and_died_holds_nobody_up() {
    let mut state = founded(1, 8);
    state.nodes.insert(NodeId(2), record(2));
    // It is given two shards, and dies.
    for _ in 0..MOVES_MAX {
        let step = next_step(&state, |_| true).unwrap();
        state.shards[usize::from(step.shard.0)].replicas = step.replicas;
    }
    let up = |node| node != NodeId(2);
    assert_eq!(next_step(&state, up), None, "nobody else is there");
    state.nodes.extend((3..=4).map(|id| (NodeId(id), record(id))));
    settle_among(&mut state, &mut |_| 0, up);
    for record in &state.shards {
        let copies = record.voters.len();
        assert!(copies >= 2 && !record.voters.contains(&NodeId(2)), "{record:?}");
    }
    assert_eq!(state.shards.iter().filter(|record| record.voters.len() == 3).count(), 6);
    // It comes back.
    settle(&mut state, &mut |_| 0);
    assert!(state.shards.iter().all(|record| record.voters.len() == 3), "{:?}", state.shards);
}

#[test]
fn three_join_at_once() {
    let mut state = founded(1, 8);
    state.nodes.extend((2..=4).map(|id| (NodeId(id), record(id))));
    settle(&mut state, &mut |_| 0);
    assert!(state.shards.iter().all(|record| record.replicas.len() == REPLICAS_MAX));
    let held = count(&state, |record| &record.replicas);
    // Node 1 began with all of them; moving some away from it is rebalancing, which is not this step's.
    assert!(held.iter().filter(|(node, _)| node.0 != 1).all(|(_, held)| (5..=6).contains(held)), "{held:?}");
}

#[test]
fn the_meta_group_has_few_voters_and_keeps_those_it_has() {
    let nodes = |n: u64| (1..=n).map(NodeId);
    let voters = |n, voting: &[u64]| {
        let voting: Vec<NodeId> = voting.iter().copied().map(NodeId).collect();
        meta_voters(nodes(n), &voting).iter().map(|node| node.0).collect::<Vec<_>>()
    };
    assert_eq!(voters(1, &[1]), [1]);
    assert_eq!(voters(2, &[1]), [1, 2]);
    assert_eq!(voters(3, &[1, 2]), [1, 2, 3]);
    assert_eq!(voters(4, &[2, 3, 4]), [2, 3, 4]);
    assert_eq!(voters(9, &[7, 8, 9]), [1, 2, 7, 8, 9]);
}

#[test]
fn a_node_that_came_in_anothers_place_gets_what_that_one_had() {
    let mut state = founded(3, 8);
    let before = state.shards.clone();
    state.nodes.remove(&NodeId(2));
    assert_eq!(next_step(&state, |_| true), None, "there is nobody to take them");
    state.nodes.insert(NodeId(4), record(4));
    assert_eq!(next_step(&state, |node| node != NodeId(4)), None, "it must be up");
    settle(&mut state, &mut |count| count - 1);
    for (old, new) in before.iter().zip(&state.shards) {
        let replaced: Vec<NodeId> =
            old.replicas.iter().map(|node| if *node == NodeId(2) { NodeId(4) } else { *node }).collect();
        assert_eq!(new.replicas, replaced, "in its place, and nothing else moves");
    }
}
