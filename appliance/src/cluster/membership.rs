//! Brings a Raft group's membership in line with what the meta state wants, one change at a time: a new replica follows as a
//! learner, and votes once it has caught up. Each change is one entry of the group's own log, and what is next depends only on
//! what the log says, so a leader that dies in the middle is followed by one that goes on from there.

use std::collections::BTreeSet;
use std::time::Duration;

use iris_protocol::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;
use openraft::{ChangeMembers, Instant as _, Raft};
use tokio_util::sync::CancellationToken;

use super::group::ShardGroup;
use super::meta::MetaState;
use super::placement::meta_voters;
use super::proposals::{MetaCall, Proposals};
use super::raft_types::TypeConfig;
use super::transport::PeerTransport;

/// Between looks. Also how soon a learner that has caught up is promoted.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest one change may take; then it is looked at again. Dropping the wait loses nothing: the log tells how far it came.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest a report may take; then the voters are looked at again.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// A learner this many entries behind has caught up: it will have the rest before a client's next batch is answered, and with a
/// stream of writes nobody is ever at zero.
const LAG_MAX: u64 = 64;

/// A learner must have answered its leader this lately to become a voter: several heartbeats.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Who shall be in a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) voters: BTreeSet<NodeId>,
    /// Followers without a vote.
    pub(super) learners: BTreeSet<NodeId>,
    /// Those that are members of the cluster no more: whatever they were in the group, they never answer again (C12).
    pub(super) gone: BTreeSet<NodeId>,
}

/// Who is in a group, as its log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Present {
    /// More than one set while a change of voters is under way.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    pub(super) learners: BTreeSet<NodeId>,
    /// Where this membership stands in the log.
    pub(super) at: u64,
}

/// One change of a group's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    AddLearner(NodeId),
    SetVoters(BTreeSet<NodeId>),
    RemoveLearner(NodeId),
}

/// The next change, or none: all is as wanted, or a learner has not caught up yet.
pub(super) fn next_change(now: &Present, wanted: &Wanted, caught_up: impl Fn(NodeId) -> bool) -> Option<Change> {
    let voters = match now.voters.as_slice() {
        [voters] => voters,
        // A leader died between the two halves of a change of voters: the second half first.
        [.., last] => return Some(Change::SetVoters(last.clone())),
        [] => return None,
    };
    let is_in = |node: &NodeId| voters.contains(node) || now.learners.contains(node);
    if let Some(new) = wanted.voters.iter().chain(&wanted.learners).find(|node| !is_in(node)) {
        return Some(Change::AddLearner(*new));
    }
    if let Some(gone) = now.learners.iter().find(|node| wanted.gone.contains(node)) {
        return Some(Change::RemoveLearner(*gone));
    }
    // One at a time: with each that votes, one more must be up for a write to be committed. For the same reason a new one takes
    // the place of one that is gone in the same change, and one that is gone stays a voter as long as its successor learns: the
    // others are a majority with it as well as without.
    let gone = voters.iter().find(|node| wanted.gone.contains(node));
    let ready = wanted.voters.difference(voters).find(|node| caught_up(**node));
    let awaited = wanted.voters.iter().any(|node| !voters.contains(node));
    if ready.is_none() && (gone.is_none() || awaited) {
        return None;
    }
    Some(Change::SetVoters(voters.iter().filter(|node| Some(*node) != gone).chain(ready).copied().collect()))
}

/// Everybody in a group who is a member of the cluster no more.
fn gone(now: &Present, state: &MetaState) -> BTreeSet<NodeId> {
    let all = now.voters.iter().flatten().chain(&now.learners);
    all.filter(|node| !state.nodes.contains_key(node)).copied().collect()
}

/// Keeps a shard's group in line with the map while this node leads it, and reports its voters, until `stop`.
pub(super) async fn keep_shard(
    group: &ShardGroup,
    proposals: &Proposals,
    transport: &dyn PeerTransport,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut leadership = group.leadership.clone();
    loop {
        let ready = leadership.borrow_and_update().ready;
        if !ready {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = leadership.changed() => changed?,
            }
            continue;
        }
        let state = proposals.view.borrow().clone();
        let record = state.and_then(|state| Some((state.shards.get(usize::from(group.shard.0)).cloned()?, state)));
        if let Some((record, state)) = record {
            let now = present(&group.raft);
            let is_member = |node: &NodeId| state.nodes.contains_key(node);
            let voters = record.replicas.iter().copied().filter(is_member).collect();
            // As long as the map names one that is gone, its successor is still to be named.
            let mut gone = gone(&now, &state);
            gone.retain(|node| !record.replicas.contains(node));
            let wanted = Wanted { voters, learners: BTreeSet::new(), gone };
            let change = next_change(&now, &wanted, |node| caught_up(&group.raft, transport, node));
            match (change, now.voters.as_slice()) {
                (Some(change), _) => make(&format!("shard {}", group.shard), &group.raft, change).await?,
                (None, [voters]) if now.at > record.voters_at => {
                    let voters = voters.iter().copied().collect();
                    let report = MetaCall::Placed { shard: group.shard, voters, at: now.at };
                    if let Err(error) = proposals.ask(report, REPORT_DEADLINE).await {
                        tracing::debug!(shard = %group.shard, %error, "could not report the shard's voters yet");
                    }
                }
                (None, _) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Brings the meta group one change nearer to having every member in it. For its leader.
pub(super) async fn tend_meta(
    proposals: &Proposals,
    transport: &dyn PeerTransport,
    state: &MetaState,
) -> anyhow::Result<()> {
    let now = present(&proposals.meta);
    let voting: Vec<NodeId> = now.voters.iter().flatten().copied().collect();
    let voters: BTreeSet<NodeId> = meta_voters(state.settled_nodes(), &voting).into_iter().collect();
    let learners = state.settled_nodes().filter(|node| !voters.contains(node)).collect();
    let gone = gone(&now, state);
    match next_change(&now, &Wanted { voters, learners, gone }, |node| caught_up(&proposals.meta, transport, node)) {
        Some(change) => make("meta", &proposals.meta, change).await,
        None => Ok(()),
    }
}

fn present<SM: RaftStateMachine<TypeConfig>>(raft: &Raft<TypeConfig, SM>) -> Present {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let stored = &now.membership_config;
    Present {
        voters: stored.membership().get_joint_config().clone(),
        learners: stored.membership().learner_ids().collect(),
        at: stored.log_id().map_or(0, |id| id.index),
    }
}

/// Whether a learner has what it needs to vote, and is there: what it had when it was last heard of says nothing of that, and a
/// group that waits for a voter which is gone can commit nothing, not even that it goes without it.
fn caught_up<SM: RaftStateMachine<TypeConfig>>(
    raft: &Raft<TypeConfig, SM>,
    transport: &dyn PeerTransport,
    node: NodeId,
) -> bool {
    let answers = {
        let metrics = raft.metrics();
        let now = metrics.borrow_watched();
        let acked = now.heartbeat.as_ref().and_then(|acked| acked.get(&node).copied().flatten());
        acked.is_some_and(|acked| acked.elapsed() <= ANSWERED_WITHIN)
    };
    answers && transport.is_up(node) && lag(raft, node).is_some_and(|lag| lag <= LAG_MAX)
}

/// Entries a member lacks; `None` if this node does not lead or has not heard from it.
pub(super) fn lag<SM: RaftStateMachine<TypeConfig>>(raft: &Raft<TypeConfig, SM>, node: NodeId) -> Option<u64> {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let matched = now.replication.as_ref()?.get(&node)?.as_ref()?.index;
    Some(now.last_log_index.unwrap_or(0).saturating_sub(matched))
}

/// Makes one change. One that is refused or takes too long is looked at again later; only a dead core is an error.
async fn make<SM: RaftStateMachine<TypeConfig>>(
    name: &str,
    raft: &Raft<TypeConfig, SM>,
    change: Change,
) -> anyhow::Result<()> {
    tracing::info!(group = name, ?change, "changing a group's membership");
    let changing = async {
        match &change {
            Change::AddLearner(node) => raft.add_learner(*node, (), false).await,
            Change::RemoveLearner(node) => {
                raft.change_membership(ChangeMembers::RemoveNodes([*node].into()), false).await
            }
            Change::SetVoters(voters) => {
                raft.change_membership(ChangeMembers::ReplaceAllVoters(voters.clone()), false).await
            }
        }
    };
    match tokio::time::timeout(CHANGE_DEADLINE, changing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(openraft::error::RaftError::Fatal(fatal))) => anyhow::bail!("the Raft core has ended: {fatal}"),
        Ok(Err(error)) => {
            tracing::debug!(group = name, %error, "a change of membership was refused");
            Ok(())
        }
        Err(_) => {
            tracing::warn!(group = name, ?change, "a change of membership is not committed yet; it goes on");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn now(voters: &[&[u64]], learners: &[u64]) -> Present {
        Present { voters: voters.iter().map(|ids| set(ids)).collect(), learners: set(learners), at: 7 }
    }

    fn next(now: &Present, voters: &[u64], caught_up: &[u64]) -> Option<Change> {
        let wanted = Wanted { voters: set(voters), ..Wanted::default() };
        next_change(now, &wanted, |node| caught_up.contains(&node.0))
    }

    #[test]
    fn one_that_is_gone_makes_room_when_its_successor_has_caught_up() {
        let wanted = |voters: &[u64]| Wanted { voters: set(voters), learners: BTreeSet::new(), gone: set(&[1, 7]) };
        let next = |now: &Present, voters: &[u64], ready: bool| next_change(now, &wanted(voters), |_| ready);
        let begun = now(&[&[1, 2, 3]], &[]);
        assert_eq!(next(&begun, &[2, 3, 4], false), Some(Change::AddLearner(NodeId(4))));
        let learning = now(&[&[1, 2, 3]], &[4]);
        assert_eq!(next(&learning, &[2, 3, 4], false), None, "nobody votes who has not caught up");
        assert_eq!(next(&learning, &[2, 3, 4], true), Some(Change::SetVoters(set(&[2, 3, 4]))), "never four voters");
        // Nobody takes its place: the group does better without it.
        assert_eq!(next(&begun, &[2, 3], false), Some(Change::SetVoters(set(&[2, 3]))));
        assert_eq!(next(&now(&[&[2, 3]], &[7]), &[2, 3], false), Some(Change::RemoveLearner(NodeId(7))));
        // A member that is not wanted is not taken out by this.
        assert_eq!(next(&now(&[&[2, 3, 4]], &[]), &[2, 3], false), None);
    }

    #[test]
    fn a_replica_learns_before_it_votes() {
        assert_eq!(next(&now(&[&[1]], &[]), &[1, 2], &[]), Some(Change::AddLearner(NodeId(2))));
        assert_eq!(next(&now(&[&[1]], &[2]), &[1, 2], &[]), None, "it has not caught up");
        assert_eq!(next(&now(&[&[1]], &[2]), &[1, 2], &[2]), Some(Change::SetVoters(set(&[1, 2]))));
        assert_eq!(next(&now(&[&[1, 2]], &[]), &[1, 2], &[2]), None);
    }

    #[test]
    fn half_a_change_is_completed_first() {
        let half = now(&[&[1], &[1, 2]], &[3]);
        assert_eq!(next(&half, &[1, 2, 3], &[3]), Some(Change::SetVoters(set(&[1, 2]))));
    }

    #[test]
    fn a_group_without_a_membership_is_left_alone() {
        assert_eq!(next(&now(&[], &[]), &[1], &[1]), None);
    }

    proptest! {
        /// From any membership, in whatever order learners catch up, the changes end where they should, and no voter is added that had not caught up.
        #[test]
        fn changes_end_where_they_should(wanted in prop::collection::btree_set(1u64..9, 1..6), start in 1u64..9, slow in 0usize..8) {
            let wanted = Wanted { voters: wanted.into_iter().map(NodeId).collect(), learners: set(&[9]), gone: set(&[20, 21]) };
            let mut now = now(&[&[start, 20]], &[21]);
            let mut patience = slow;
            for _ in 0..100 {
                match next_change(&now, &wanted, |_| patience == 0) {
                    Some(Change::AddLearner(node)) => { now.learners.insert(node); }
                    Some(Change::RemoveLearner(node)) => { now.learners.remove(&node); }
                    Some(Change::SetVoters(voters)) => {
                        let more = voters.difference(&now.voters[0]).count();
                        prop_assert!(more == 0 || patience == 0);
                        prop_assert!(more <= 1);
                        now.learners.retain(|node| !voters.contains(node));
                        now.voters = vec![voters];
                    }
                    None if patience > 0 => patience -= 1,
                    None => break,
                }
            }
            prop_assert!(now.voters[0].is_superset(&wanted.voters) && now.learners == set(&[9]));
            prop_assert!(!now.voters[0].contains(&NodeId(20)), "whoever is gone");
        }
    }
}
