//! How things stand, in one sentence: why, and what to do next (D5). A function of what the answering node sees, so that
//! command line, console and desktop say the same.

use iris_protocol::NodeId;
use iris_protocol::admin::{DiskStatus, GroupStatus, Health, HealthLevel, NetworkCut, NodeStatus};

/// What the sentence is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The node that answers.
    pub node: NodeId,
    /// Every member.
    pub nodes: &'a [NodeStatus],
    /// Every group held here.
    pub groups: &'a [GroupStatus],
    /// Pairs of members that can't reach each other although both are up.
    pub cuts: &'a [NetworkCut],
    /// This node's disk, if it is looked at.
    pub disk: Option<DiskStatus>,
}

/// Judges.
#[must_use]
pub fn assess(facts: &Facts<'_>) -> Health {
    // What is still being copied to this node says nothing of how the cluster stands: the others serve it.
    let (coming, here): (Vec<_>, Vec<_>) = facts.groups.iter().cloned().partition(|group| facts.is_coming(group));
    let (mut level, mut sentence) = judge(&Facts { groups: &here, ..*facts });
    if !coming.is_empty() && !here.is_empty() {
        let (coming, all) = (coming.len(), facts.groups.len());
        sentence
            .push_str(&format!(" This node is being taken in: {coming} of {all} groups are still being copied to it."));
    }
    for newcomer in facts.nodes.iter().filter(|node| node.newcomer && !node.up) {
        let name = &newcomer.name;
        sentence.push_str(&format!(" {name} was let in and has not been heard from yet: start it, or see its log."));
    }
    if !facts.cuts.is_empty() {
        // Whatever works now works by a way round.
        level = if level == HealthLevel::Safe { HealthLevel::AtRisk } else { level };
        sentence = sentence.replace(NOTHING_TO_DO, "") + &cut_off(facts);
    } else if facts.sees_nobody() {
        sentence.push_str(
            " No other node answers this one: unless they are all down, it is this node that is cut off, so see its own network first.",
        );
    }
    if let Some((disk_level, why)) = facts.disk.as_ref().and_then(|disk| disk_trouble(facts, disk)) {
        level = if level == HealthLevel::Stopped { level } else { disk_level };
        sentence.push_str(&why);
    }
    Health { level, sentence }
}

/// Names those that count as down because they found their own disks damaged (C12): what to do differs.
pub fn add_quarantined<'a>(health: &mut Health, nodes: impl Iterator<Item = &'a NodeStatus>) {
    for node in nodes {
        health.sentence.push_str(&format!(
            " {} has found its own disk damaged and is in quarantine; it comes back by itself as a new node once the others can do \
             without it. Don't start it again: see its `iris status`.",
            node.name
        ));
    }
}

/// What is said when all is well.
const NOTHING_TO_DO: &str = " Nothing to do.";

/// Which nodes can't reach each other, and what to look at.
fn cut_off(facts: &Facts<'_>) -> String {
    let name = |id: NodeId| {
        let known = facts.nodes.iter().find(|node| node.id == id);
        known.map_or_else(|| format!("node {id}"), |node| node.name.clone())
    };
    let pairs = facts.cuts.iter().map(|cut| format!("{} can't reach {}", name(cut.one), name(cut.other)));
    format!(
        " The network is cut: {} though both are up. See what is between them: cables, firewalls, their p2p addresses.",
        pairs.collect::<Vec<_>>().join(" and ")
    )
}

/// What is the matter with this node's disk, if anything is.
fn disk_trouble(facts: &Facts<'_>, disk: &DiskStatus) -> Option<(HealthLevel, String)> {
    const MIB: u64 = 1024 * 1024;
    let leads = facts.groups.iter().any(|group| group.shard.is_some() && group.leader == Some(facts.node));
    if disk.full {
        let (free, wanted) = (disk.free_bytes / MIB, (disk.reserve_bytes + disk.reserve_bytes / 4) / MIB);
        let (level, what) = if leads {
            (HealthLevel::Stopped, "messages to some users are refused, because no other node can take its place")
        } else {
            (HealthLevel::AtRisk, "it leads nothing")
        };
        let why = format!(
            " This node's disk is full ({free} MiB free): {what}. Reading goes on. Make room: with {wanted} MiB free it goes on by itself."
        );
        return Some((level, why));
    }
    disk.slow.then(|| {
        let ms = disk.write_us / 1_000;
        let what =
            if leads { "and no other node can lead in its place, so messages are slow" } else { "so it leads nothing" };
        let why =
            format!(" This node's disk is slow: a write took {ms} ms, {what}. See what else uses it, and its health.");
        (HealthLevel::AtRisk, why)
    })
}

fn judge(facts: &Facts<'_>) -> (HealthLevel, String) {
    if facts.groups.is_empty() || facts.nodes.is_empty() {
        let why = "This node is not yet part of a cluster: it waits for a majority of the members. Start the others.";
        return (HealthLevel::Stopped, why.to_owned());
    }
    if let Some(missing) = facts.groups.iter().filter_map(|group| facts.missing(group)).max() {
        return (HealthLevel::Stopped, without_majority(facts, missing));
    }
    let leaderless: Vec<&GroupStatus> = facts.groups.iter().filter(|group| !facts.is_led(group)).collect();
    if let Some(first) = leaderless.first() {
        return (HealthLevel::Stopped, without_leader(facts, first, leaderless.len()));
    }
    let spare = facts.groups.iter().map(|group| facts.spare(group)).min().unwrap_or(0);
    let copies = facts.groups.iter().map(|group| group.voters.len()).min().unwrap_or(1);
    let down = facts.down();
    match (spare, down.as_slice(), copies) {
        (0, [], 1) => {
            let why = "Everything works, but there is one copy of everything: if this machine's disk fails, all is lost. \
                       Two more nodes would keep it safe.";
            (HealthLevel::AtRisk, why.to_owned())
        }
        (0, [], _) => {
            let why = format!(
                "Everything works and is stored {copies} times, but {copies} nodes can't do without one: if one fails, \
                 messages wait. One more node would change that."
            );
            (HealthLevel::AtRisk, why)
        }
        (0, down, _) => {
            let why = format!(
                "Everything works, but {} and no further node may fail: messages would wait. {}.",
                are_down(down, facts.nodes.len()),
                start(down)
            );
            (HealthLevel::AtRisk, why)
        }
        (spare, [], _) => {
            let why = format!(
                "Everything works and is stored {copies} times; {} may fail without anyone noticing.{NOTHING_TO_DO}",
                nodes(spare)
            );
            (HealthLevel::Safe, why)
        }
        (spare, down, _) => {
            let why = format!(
                "Everything works and {} more may fail, though {}. {}.",
                nodes(spare),
                are_down(down, facts.nodes.len()),
                start(down)
            );
            (HealthLevel::Safe, why)
        }
    }
}

impl Facts<'_> {
    /// A shard that this node shall hold and has no vote in yet.
    fn is_coming(&self, group: &GroupStatus) -> bool {
        group.shard.is_some() && !group.voters.contains(&self.node)
    }

    fn is_up(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && node.up)
    }

    /// None of at least two others is up: those may well see each other.
    fn sees_nobody(&self) -> bool {
        self.nodes.len() > 2 && self.nodes.iter().all(|node| node.id == self.node || !node.up)
    }

    fn down(&self) -> Vec<&NodeStatus> {
        self.nodes.iter().filter(|node| !node.up && !node.newcomer).collect()
    }

    fn voters_up(&self, group: &GroupStatus) -> usize {
        group.voters.iter().filter(|voter| self.is_up(**voter)).count()
    }

    /// How many voters short of a majority.
    fn missing(&self, group: &GroupStatus) -> Option<usize> {
        majority(group).checked_sub(self.voters_up(group)).filter(|missing| *missing > 0)
    }

    /// How many more voters may fail.
    fn spare(&self, group: &GroupStatus) -> usize {
        self.voters_up(group).saturating_sub(majority(group))
    }

    /// A leader that is down has not been replaced yet, whatever the group remembers.
    fn is_led(&self, group: &GroupStatus) -> bool {
        group.leader.is_some_and(|leader| self.is_up(leader))
    }
}

/// A group without voters has not begun; it is not one that needs nobody.
fn majority(group: &GroupStatus) -> usize {
    group.voters.len() / 2 + 1
}

fn without_majority(facts: &Facts<'_>, missing: usize) -> String {
    let down = facts.down();
    if down.is_empty() {
        return "Messages wait: a part of the cluster has not started yet. If this stays so for a minute, read this \
                node's log."
            .to_owned();
    }
    format!(
        "Messages wait: {}, and they can't be stored safely without {missing} of them. {}; what was committed is safe.",
        are_down(&down, facts.nodes.len()),
        start(&down)
    )
}

fn without_leader(facts: &Facts<'_>, first: &GroupStatus, count: usize) -> String {
    let what = match (first.shard, count) {
        (Some(shard), 1) => format!("shard {shard} has no leader"),
        (None, 1) => "the meta group has no leader".to_owned(),
        (_, count) => format!("{count} of {} groups have no leader", facts.groups.len()),
    };
    format!(
        "Messages for some users wait: {what}, although enough nodes are up. An election takes a second or two; if this \
         stays so, see whether the nodes reach each other on their p2p addresses."
    )
}

fn nodes(count: usize) -> String {
    if count == 1 { "one node".to_owned() } else { format!("{count} nodes") }
}

fn are_down(down: &[&NodeStatus], all: usize) -> String {
    let verb = if down.len() == 1 { "is" } else { "are" };
    format!("{} of {all} nodes {verb} down ({})", down.len(), named(down, ", "))
}

fn start(down: &[&NodeStatus]) -> String {
    format!(
        "Start {} again, or see why this node can't reach {}",
        named(down, " and "),
        match down {
            [_] => "it",
            _ => "them",
        }
    )
}

fn named(nodes: &[&NodeStatus], between: &str) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_protocol::ShardId;

    /// `up` per node; `leaders` per group, the meta group first.
    fn check(up: &[bool], leaders: &[Option<u64>], level: HealthLevel, parts: &[&str]) {
        let names = ["attic", "cellar", "shed", "barn", "loft"];
        let nodes: Vec<NodeStatus> = up
            .iter()
            .zip(names)
            .zip(1..)
            .map(|((up, name), id)| NodeStatus {
                id: NodeId(id),
                name: name.to_owned(),
                client: format!("{name}:8443"),
                up: *up,
                newcomer: false,
                leads: 0,
            })
            .collect();
        let groups: Vec<GroupStatus> = leaders
            .iter()
            .enumerate()
            .map(|(at, leader)| GroupStatus {
                shard: at.checked_sub(1).map(|shard| ShardId(shard as u16)),
                leader: leader.map(NodeId),
                term: 1,
                last_index: 1,
                applied_index: 1,
                checkpoint_index: 1,
                voters: nodes.iter().map(|node| node.id).collect(),
            })
            .collect();
        expect(&nodes, &groups, level, parts);
    }

    fn expect(nodes: &[NodeStatus], groups: &[GroupStatus], level: HealthLevel, parts: &[&str]) {
        check_cuts(nodes, groups, &[], level, parts);
    }

    fn check_cuts(
        nodes: &[NodeStatus],
        groups: &[GroupStatus],
        cuts: &[NetworkCut],
        level: HealthLevel,
        parts: &[&str],
    ) {
        let health = assess(&Facts { node: NodeId(1), nodes, groups, cuts, disk: None });
        assert_eq!(health.level, level, "{}", health.sentence);
        for part in parts {
            assert!(health.sentence.contains(part), "{part:?} is not in {:?}", health.sentence);
        }
    }

    #[test]
    fn a_node_that_is_taken_in_says_how_far_it_is_and_frightens_nobody() {
        let node = |id: u64, newcomer: bool| NodeStatus {
            id: NodeId(id),
            name: format!("n{id}"),
            client: String::new(),
            up: !newcomer,
            newcomer,
            leads: 0,
        };
        let group = |shard: Option<u16>, voters: &[u64]| GroupStatus {
            shard: shard.map(ShardId),
            leader: Some(NodeId(2)),
            term: 1,
            last_index: 1,
            applied_index: 1,
            checkpoint_index: 1,
            voters: voters.iter().copied().map(NodeId).collect(),
        };
        let groups = [group(None, &[1, 2]), group(Some(0), &[1, 2]), group(Some(1), &[2]), group(Some(2), &[])];
        let parts = ["stored 2 times", "2 of 4 groups are still being copied"];
        expect(&[node(1, false), node(2, false)], &groups, HealthLevel::AtRisk, &parts);
        let parts = ["one copy of everything", "n2 was let in and has not been heard from"];
        expect(&[node(1, false), node(2, true)], &[lone(None), lone(Some(0))], HealthLevel::AtRisk, &parts);
    }

    fn lone(shard: Option<u16>) -> GroupStatus {
        GroupStatus {
            shard: shard.map(ShardId),
            leader: Some(NodeId(1)),
            term: 1,
            last_index: 1,
            applied_index: 1,
            checkpoint_index: 1,
            voters: vec![NodeId(1)],
        }
    }

    #[test]
    fn a_disk_in_trouble_is_said_with_what_it_means() {
        const MIB: u64 = 1024 * 1024;
        let fine =
            DiskStatus { free_bytes: 10 * MIB, reserve_bytes: 64 * MIB, full: false, slow: false, write_us: 600_000 };
        let node = NodeStatus {
            id: NodeId(1),
            name: "attic".to_owned(),
            client: String::new(),
            up: true,
            newcomer: false,
            leads: 1,
        };
        let say = |disk: DiskStatus, leader: u64| {
            let groups = [
                lone(None),
                GroupStatus { leader: Some(NodeId(leader)), voters: vec![NodeId(leader)], ..lone(Some(0)) },
            ];
            let nodes = [node.clone(), NodeStatus { id: NodeId(2), ..node.clone() }];
            assess(&Facts { node: NodeId(1), nodes: &nodes, groups: &groups, cuts: &[], disk: Some(disk) })
        };
        assert!(!say(fine, 1).sentence.contains("disk is"));
        let full = say(DiskStatus { full: true, ..fine }, 1);
        assert_eq!(full.level, HealthLevel::Stopped);
        assert!(
            full.sentence.contains("disk is full (10 MiB free)") && full.sentence.contains("with 80 MiB free"),
            "{}",
            full.sentence
        );
        assert_eq!(say(DiskStatus { full: true, ..fine }, 2).level, HealthLevel::AtRisk);
        let slow = say(DiskStatus { slow: true, ..fine }, 2);
        assert!(slow.sentence.contains("a write took 600 ms, so it leads nothing"), "{}", slow.sentence);
    }

    #[test]
    fn a_single_node_works_but_keeps_one_copy() {
        check(&[true], &[Some(1), Some(1)], HealthLevel::AtRisk, &["one copy", "Two more nodes"]);
    }

    #[test]
    fn two_nodes_can_not_do_without_one() {
        check(&[true, true], &[Some(1), Some(2)], HealthLevel::AtRisk, &["stored 2 times", "One more node"]);
        check(&[true, false], &[Some(1)], HealthLevel::Stopped, &["1 of 2 nodes is down (cellar)", "Start cellar"]);
    }

    #[test]
    fn three_nodes_that_are_up_are_safe() {
        check(
            &[true; 3],
            &[Some(1), Some(3)],
            HealthLevel::Safe,
            &["stored 3 times", "one node may fail", "Nothing to do"],
        );
    }

    #[test]
    fn one_of_three_down_is_a_risk() {
        let parts = ["1 of 3 nodes is down (shed)", "no further node may fail", "Start shed again"];
        check(&[true, true, false], &[Some(1), Some(2)], HealthLevel::AtRisk, &parts);
    }

    #[test]
    fn two_of_three_down_stop_everything_whatever_leader_is_remembered() {
        let parts = ["2 of 3 nodes are down (cellar, shed)", "without 1 of them", "Start cellar and shed", "is safe"];
        check(&[true, false, false], &[Some(1), Some(2)], HealthLevel::Stopped, &parts);
        check(&[true, false, false], &[None, None], HealthLevel::Stopped, &parts);
    }

    #[test]
    fn a_group_without_a_leader_is_named() {
        check(&[true; 3], &[Some(1), Some(2), None], HealthLevel::Stopped, &["shard 1 has no leader", "election"]);
        check(&[true; 3], &[None, Some(2)], HealthLevel::Stopped, &["the meta group has no leader"]);
        check(&[true; 3], &[Some(1), None, None], HealthLevel::Stopped, &["2 of 3 groups have no leader"]);
    }

    #[test]
    fn a_leader_that_is_down_leads_nothing() {
        check(&[true, true, false], &[Some(1), Some(3)], HealthLevel::Stopped, &["shard 0 has no leader"]);
    }

    #[test]
    fn five_nodes_bear_one_failure_safely() {
        let up = [true, true, true, true, false];
        check(&up, &[Some(1)], HealthLevel::Safe, &["one node more may fail", "1 of 5 nodes is down (loft)"]);
    }

    #[test]
    fn a_node_that_waits_for_its_cluster_says_so() {
        check(&[], &[], HealthLevel::Stopped, &["waits for a majority"]);
    }

    #[test]
    fn a_cut_between_two_nodes_is_named_by_everybody_and_is_a_risk() {
        let node = |id: u64, up| NodeStatus {
            id: NodeId(id),
            name: format!("n{id}"),
            client: String::new(),
            up,
            newcomer: false,
            leads: 0,
        };
        let voters: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let groups = [GroupStatus { voters, ..lone(None) }];
        let cuts = [NetworkCut { one: NodeId(2), other: NodeId(3) }];
        let all = [node(1, true), node(2, true), node(3, true)];
        let said = "n2 can't reach n3 though both are up";
        check_cuts(&all, &groups, &cuts, HealthLevel::AtRisk, &["Everything works", said, "cables, firewalls"]);
        let health = assess(&Facts { node: NodeId(1), nodes: &all, groups: &groups, cuts: &cuts, disk: None });
        assert!(!health.sentence.contains("Nothing to do"), "{}", health.sentence);
        let alone = [node(1, true), node(2, false), node(3, false)];
        expect(&alone, &groups, HealthLevel::Stopped, &["2 of 3 nodes are down", "it is this node that is cut off"]);
    }
}
