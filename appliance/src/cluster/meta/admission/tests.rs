//! Tokens and joins as commands on the meta state: what is let in, what is refused and how, and that ids are never given twice.

use iris_p2p::Identity;
use proptest::prelude::*;

use super::*;

const HOUR_MS: u64 = 3_600_000;
const NOW_MS: u64 = 1_795_000_000_000;

struct Cluster {
    admissions: Admissions,
    nodes: BTreeMap<NodeId, NodeRecord>,
}

fn record(name: &str) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        key: Identity::ephemeral().peer_id(),
        p2p: Vec::new(),
        client: "192.0.2.1:8443".to_owned(),
    }
}

fn hash(secret: u8) -> SecretHash {
    SecretHash::of(&[secret; 32])
}

impl Cluster {
    /// Founded by one node.
    fn new() -> Self {
        let nodes = BTreeMap::from([(NodeId(1), record("attic"))]);
        let mut admissions = Admissions::default();
        admissions.begin_after(&nodes);
        Self { nodes, admissions }
    }

    fn issue(&mut self, id: u8, now_ms: u64) -> MetaOutcome {
        let id_bytes = [id; 8];
        self.admissions.issue(NewToken { id: TokenId(id_bytes), secret: hash(id), now_ms, ttl_ms: HOUR_MS })
    }

    fn join(&mut self, id: u8, secret: u8, record: &NodeRecord, now_ms: u64) -> MetaOutcome {
        let join = Join { token: TokenId([id; 8]), secret: hash(secret), record: record.clone(), now_ms };
        self.admissions.join(&mut self.nodes, join)
    }

    #[track_caller]
    fn refused(&mut self, id: u8, secret: u8, record: &NodeRecord, now_ms: u64) -> JoinRefusal {
        let (nodes, admissions) = (self.nodes.clone(), self.admissions.clone());
        let MetaOutcome::JoinRefused(refusal) = self.join(id, secret, record, now_ms) else { panic!("it was let in") };
        assert_eq!((&self.nodes, &self.admissions), (&nodes, &admissions), "a refusal changes nothing");
        refusal
    }
}

#[test]
fn a_token_lets_one_node_in_and_each_refusal_says_which() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.issue(7, NOW_MS), MetaOutcome::Changed);
    let (nas, pi) = (record("nas"), record("pi"));
    assert_eq!(cluster.refused(8, 8, &nas, NOW_MS), JoinRefusal::Unknown);
    assert_eq!(cluster.refused(7, 8, &nas, NOW_MS), JoinRefusal::WrongSecret);
    let taken = JoinRefusal::NameTaken { node: NodeId(1), name: "attic".into() };
    assert_eq!(cluster.refused(7, 7, &record("attic"), NOW_MS), taken);
    assert_eq!(cluster.refused(7, 7, &nas, NOW_MS + HOUR_MS), JoinRefusal::Expired { at_ms: NOW_MS + HOUR_MS });
    // What was refused used nothing up.
    assert_eq!(cluster.join(7, 7, &nas, NOW_MS + HOUR_MS - 1), MetaOutcome::Joined(NodeId(2)));
    assert_eq!(cluster.nodes[&NodeId(2)], nas);
    let used = JoinRefusal::Used { node: NodeId(2), name: "nas".into(), at_ms: NOW_MS + HOUR_MS - 1 };
    assert_eq!(cluster.refused(7, 7, &pi, NOW_MS), used);
    assert_eq!(cluster.refused(7, 7, &pi, NOW_MS + 2 * HOUR_MS), used, "also when it would have expired since");
    assert_eq!(cluster.refused(7, 8, &pi, NOW_MS), JoinRefusal::WrongSecret, "a guesser does not even learn that");
}

#[test]
fn a_lost_answer_is_given_again_until_the_node_was_heard_from() {
    let mut cluster = Cluster::new();
    cluster.issue(7, NOW_MS);
    cluster.issue(9, NOW_MS);
    let nas = record("nas");
    assert_eq!(cluster.join(7, 7, &nas, NOW_MS), MetaOutcome::Joined(NodeId(2)));
    assert_eq!(cluster.join(7, 7, &nas, NOW_MS + 5 * HOUR_MS), MetaOutcome::Joined(NodeId(2)), "however late");
    assert_eq!(cluster.join(9, 9, &nas, NOW_MS), MetaOutcome::Joined(NodeId(2)), "or with another token");
    assert_eq!(cluster.join(9, 9, &record("pi"), NOW_MS), MetaOutcome::Joined(NodeId(3)), "which is not used up by it");
    assert!(cluster.admissions.is_newcomer(NodeId(2)));
    assert!(cluster.admissions.heard_from(NodeId(2)));
    assert!(!cluster.admissions.heard_from(NodeId(2)));
    // From here on its data folder may hold promises. Without it, it is another node.
    let member = JoinRefusal::KeyIsMember { node: NodeId(2), name: "nas".into() };
    assert_eq!(cluster.refused(7, 7, &nas, NOW_MS), member);
    cluster.issue(10, NOW_MS);
    assert_eq!(cluster.refused(10, 10, &nas, NOW_MS), member);
}

#[test]
fn an_id_is_not_given_again_when_its_node_is_gone() {
    let mut cluster = Cluster::new();
    cluster.issue(7, NOW_MS);
    cluster.issue(8, NOW_MS);
    let nas = record("nas");
    assert_eq!(cluster.join(7, 7, &nas, NOW_MS), MetaOutcome::Joined(NodeId(2)));
    cluster.nodes.remove(&NodeId(2));
    assert!(matches!(cluster.refused(7, 7, &nas, NOW_MS), JoinRefusal::Used { node: NodeId(2), .. }));
    assert_eq!(cluster.join(8, 8, &nas, NOW_MS), MetaOutcome::Joined(NodeId(3)));
}

#[test]
fn a_name_of_a_machine_that_never_ran_is_given_up() {
    let mut cluster = Cluster::new();
    for id in 7..=9 {
        cluster.issue(id, NOW_MS);
    }
    // Let in, and set up anew before it ever ran: another key, the same name.
    let (first, again, third) = (record("nas"), record("nas"), record("nas"));
    assert_eq!(cluster.join(7, 7, &first, NOW_MS), MetaOutcome::Joined(NodeId(2)));
    let starting = JoinRefusal::NameTaken { node: NodeId(2), name: "nas".into() };
    let later_ms = NOW_MS + STARTING_MS;
    assert_eq!(cluster.refused(8, 8, &again, later_ms - 1), starting, "two of one name, set up together");
    assert_eq!(cluster.join(8, 8, &again, later_ms), MetaOutcome::Joined(NodeId(3)));
    assert_eq!(cluster.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(3)]);
    assert!(!cluster.admissions.is_newcomer(NodeId(2)), "it is nothing any more");
    let used = JoinRefusal::Used { node: NodeId(2), name: "nas".into(), at_ms: NOW_MS };
    assert_eq!(cluster.refused(7, 7, &first, NOW_MS), used);
    // One that runs keeps its name.
    cluster.admissions.heard_from(NodeId(3));
    let taken = JoinRefusal::NameTaken { node: NodeId(3), name: "nas".into() };
    assert_eq!(cluster.refused(9, 9, &third, NOW_MS), taken);
}

#[test]
fn a_full_cluster_takes_nobody() {
    let mut cluster = Cluster::new();
    for id in 2..=MEMBERS_MAX as u8 {
        cluster.issue(id, NOW_MS);
        let joined = MetaOutcome::Joined(NodeId(id.into()));
        assert_eq!(cluster.join(id, id, &record(&format!("n{id}")), NOW_MS), joined);
    }
    cluster.issue(77, NOW_MS);
    assert_eq!(cluster.refused(77, 77, &record("one-more"), NOW_MS), JoinRefusal::Full);
    let instead = MetaOutcome::Joined(NodeId(MEMBERS_MAX as u64 + 1));
    assert_eq!(
        cluster.join(77, 77, &record("n2"), NOW_MS + STARTING_MS),
        instead,
        "in the place of one that never ran"
    );
    assert_eq!(cluster.nodes.len(), MEMBERS_MAX);
}

#[test]
fn the_tokens_remembered_are_bounded_and_those_nobody_needs_go_first() {
    let mut cluster = Cluster::new();
    for id in 0..TOKENS_MAX as u8 {
        assert_eq!(cluster.issue(id, NOW_MS + u64::from(id)), MetaOutcome::Changed);
    }
    assert_eq!(cluster.issue(3, NOW_MS), MetaOutcome::Changed, "the same again, after a lost answer");
    let full = MetaOutcome::TokensFull { first_expires_ms: NOW_MS + HOUR_MS };
    assert_eq!(cluster.issue(100, NOW_MS + 100), full);
    // Used, and the node is there: this one makes room.
    assert_eq!(cluster.join(5, 5, &record("nas"), NOW_MS), MetaOutcome::Joined(NodeId(2)));
    assert_eq!(cluster.issue(100, NOW_MS + 100), full, "not while its answer may have to be given again");
    cluster.admissions.heard_from(NodeId(2));
    assert_eq!(cluster.issue(100, NOW_MS + 100), MetaOutcome::Changed);
    assert_eq!(cluster.refused(5, 5, &record("pi"), NOW_MS), JoinRefusal::Unknown);
    // All of them old: remembered for a while, then gone.
    assert_eq!(cluster.issue(101, NOW_MS + 2 * HOUR_MS), MetaOutcome::Changed);
    assert!(matches!(cluster.refused(9, 9, &record("pi"), NOW_MS + 2 * HOUR_MS), JoinRefusal::Expired { .. }));
    assert_eq!(cluster.issue(102, NOW_MS + 2 * HOUR_MS + REMEMBERED_MS), MetaOutcome::Changed);
    assert_eq!(cluster.admissions.tokens.len(), 2);
}

#[test]
fn a_token_lives_a_day_at_most_whoever_asks() {
    let mut cluster = Cluster::new();
    let new = NewToken { id: TokenId([1; 8]), secret: hash(1), now_ms: NOW_MS, ttl_ms: u64::MAX };
    assert_eq!(cluster.admissions.issue(new), MetaOutcome::Changed);
    let late = cluster.refused(1, 1, &record("nas"), NOW_MS + TOKEN_TTL_MS_MAX);
    assert_eq!(late, JoinRefusal::Expired { at_ms: NOW_MS + TOKEN_TTL_MS_MAX });
}

#[test]
fn time_does_not_go_back_with_the_leaders_clocks() {
    let mut cluster = Cluster::new();
    cluster.issue(1, NOW_MS);
    cluster.issue(2, NOW_MS + HOUR_MS);
    // Another leads now, two hours behind: the first token is over all the same, and a new one lives its hour from the latest time.
    let expired = JoinRefusal::Expired { at_ms: NOW_MS + HOUR_MS };
    assert_eq!(cluster.refused(1, 1, &record("nas"), NOW_MS - HOUR_MS), expired);
    cluster.issue(3, NOW_MS - HOUR_MS);
    assert_eq!(cluster.join(3, 3, &record("nas"), NOW_MS - HOUR_MS), MetaOutcome::Joined(NodeId(2)));
    let Used { at_ms, .. } = cluster.admissions.tokens[2].used.clone().unwrap();
    assert_eq!(at_ms, NOW_MS + HOUR_MS);
    // One without a battery leads: nobody is let in by a clock of 1970, and what was made by the other ends with the next one made.
    let back = JoinRefusal::ClockWentBack { now_ms: HOUR_MS, latest_ms: NOW_MS + HOUR_MS };
    assert_eq!(cluster.refused(2, 2, &record("pi"), HOUR_MS), back);
    cluster.issue(4, HOUR_MS);
    assert_eq!(cluster.refused(2, 2, &record("pi"), HOUR_MS), JoinRefusal::Expired { at_ms: HOUR_MS });
    assert_eq!(cluster.join(4, 4, &record("pi"), HOUR_MS), MetaOutcome::Joined(NodeId(3)));
    cluster.issue(5, 2 * HOUR_MS);
    // The right clock again, as after a year of rest: what was made in 1970 is over, what is made now lives its hour and no more.
    assert_eq!(cluster.refused(5, 5, &record("tv"), NOW_MS), JoinRefusal::Expired { at_ms: 3 * HOUR_MS });
    cluster.issue(6, NOW_MS);
    assert_eq!(
        cluster.refused(6, 6, &record("tv"), NOW_MS + HOUR_MS),
        JoinRefusal::Expired { at_ms: NOW_MS + HOUR_MS }
    );
    assert_eq!(cluster.join(6, 6, &record("tv"), NOW_MS + HOUR_MS - 1), MetaOutcome::Joined(NodeId(4)));
}

#[test]
fn a_clock_far_ahead_leaves_no_token_that_never_ends() {
    const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
    let mut cluster = Cluster::new();
    cluster.issue(1, NOW_MS);
    cluster.issue(2, NOW_MS + 10 * YEAR_MS);
    let back = JoinRefusal::ClockWentBack { now_ms: NOW_MS, latest_ms: NOW_MS + 10 * YEAR_MS };
    assert_eq!(cluster.refused(2, 2, &record("nas"), NOW_MS), back, "not for ten years");
    cluster.issue(3, NOW_MS);
    assert!(matches!(cluster.refused(2, 2, &record("nas"), NOW_MS), JoinRefusal::Expired { .. }), "nor after this");
    assert_eq!(cluster.join(3, 3, &record("nas"), NOW_MS), MetaOutcome::Joined(NodeId(2)));
}

#[test]
fn secrets_are_shown_nowhere() {
    let new = NewToken { id: TokenId([0xab; 8]), secret: hash(1), now_ms: 1, ttl_ms: 1 };
    let shown = format!("{new:?}");
    assert!(shown.contains("abababab") && shown.contains("SecretHash(..)"), "{shown}");
}

proptest! {
    /// Whatever is issued, tried, heard and removed: one node a token at most, no id twice, and bounded memory.
    #[test]
    fn no_id_twice_and_no_token_twice(
        steps in proptest::collection::vec((0u8..4, 0u8..12, 0u8..6, prop_oneof![0u64..3, Just(100), Just(10_000)]), 1..200)
    ) {
        let machines: Vec<NodeRecord> = (0..6).map(|at| record(&format!("m{at}"))).collect();
        let mut cluster = Cluster::new();
        let mut keys = BTreeMap::from([(NodeId(1), cluster.nodes[&NodeId(1)].key)]);
        let mut users: BTreeMap<u8, NodeId> = BTreeMap::new();
        for (what, token, machine, hours) in steps {
            let machine = &machines[usize::from(machine)];
            match what {
                0 => {
                    // One so old that it is forgotten may be made again here; in earnest ids are random.
                    if !cluster.admissions.tokens.iter().any(|known| known.id == TokenId([token; 8])) {
                        users.remove(&token);
                    }
                    cluster.issue(token, NOW_MS + hours * HOUR_MS);
                }
                1 => {
                    let before = cluster.nodes.len();
                    if let MetaOutcome::Joined(node) = cluster.join(token, token, machine, NOW_MS + hours * HOUR_MS) {
                        // An id belongs to one key for ever.
                        prop_assert_eq!(*keys.entry(node).or_insert(machine.key), machine.key);
                        if cluster.nodes.len() > before {
                            prop_assert_eq!(*users.entry(token).or_insert(node), node);
                        }
                    }
                }
                2 => drop(cluster.admissions.heard_from(NodeId(u64::from(token)))),
                _ => drop(cluster.nodes.remove(&NodeId(u64::from(token)))),
            }
            prop_assert!(cluster.admissions.tokens.len() <= TOKENS_MAX);
        }
    }
}
