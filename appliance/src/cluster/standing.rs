//! How the cluster stands without a member that is in quarantine (C12): what the others say when it asks, and whether they can do
//! without it. Also who has asked lately: such a node has a live link and is of no use.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iris_protocol::NodeId;
use iris_protocol::versioned::Versioned;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;
use openraft::{Instant as _, Raft};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::handler::{META_GROUP, ShardGroups, shard_group};
use super::meta_machine::MetaView;
use super::neighbours::Members;
use super::raft_types::TypeConfig;

/// A leader must have been confirmed by a majority this lately to count: several heartbeats.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// A node counts as quarantined for so long after it said so; it says so every second.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// What a node in quarantine says when it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingCall {
    /// What is damaged there.
    pub what: String,
}

impl Versioned for StandingCall {
    const NAME: &'static str = "standing call";
    const VERSION: u8 = 1;
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The cluster's id; empty if this member does not know it yet.
    pub cluster: String,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
    /// Every member.
    pub members: Members,
    /// The asking node's id, if it is a member.
    pub you: Option<NodeId>,
    /// Groups, as numbered between nodes, that the asking node is in or shall be in.
    pub yours: Vec<u16>,
    /// Groups that the answering node leads, with a majority behind it just now. The asking node is none of that majority: it
    /// answers nobody.
    pub led: Vec<u16>,
}

impl Versioned for Standing {
    const NAME: &'static str = "standing";
    const VERSION: u8 = 1;
}

/// What this node says to `asker`.
pub(super) fn of<SM: RaftStateMachine<TypeConfig>>(
    asker: NodeId,
    view: &MetaView,
    meta: &Raft<TypeConfig, SM>,
    shards: &watch::Receiver<ShardGroups>,
) -> Standing {
    let mut led: Vec<u16> = is_confirmed(meta).then_some(META_GROUP).into_iter().collect();
    let running = shards.borrow().clone();
    let ready = running.values().filter(|group| group.leadership.borrow().ready && is_confirmed(&group.raft));
    led.extend(ready.map(|group| shard_group(group.shard)));
    led.sort_unstable();
    let Some(state) = view.borrow().clone() else {
        let (cluster, ca_pem, members) = (String::new(), String::new(), Members::new());
        return Standing { cluster, ca_pem, members, you: None, yours: Vec::new(), led };
    };
    let held = state.shards().filter(|(_, record)| record.is_on(asker)).map(|(shard, _)| shard_group(shard));
    Standing {
        cluster: state.cluster.clone(),
        ca_pem: state.pki.ca_cert_pem.clone(),
        members: state.nodes.clone(),
        you: state.nodes.contains_key(&asker).then_some(asker),
        yours: std::iter::once(META_GROUP).chain(held).collect(),
        led,
    }
}

fn is_confirmed<SM: RaftStateMachine<TypeConfig>>(raft: &Raft<TypeConfig, SM>) -> bool {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let leads = now.current_leader == Some(*raft.node_id());
    leads && now.last_quorum_acked.as_ref().is_some_and(|acked| acked.elapsed() <= CONFIRMED_WITHIN)
}

/// Whether the others can do without the asking node, by their answers: every group it is in is led by one of them that has a
/// majority behind it. Gives the member to ask for a new place, the meta group's leader, and what it said; else what is missing.
///
/// # Errors
/// Which groups have no majority among the others, in words for the operator.
pub fn healthy_without(answers: &[(NodeId, Standing)]) -> Result<(NodeId, &Standing), String> {
    let leader = answers.iter().find(|(_, answer)| answer.led.contains(&META_GROUP));
    let Some((leader, answer)) = leader else {
        let why = if answers.is_empty() { "no other node answers" } else { "the other nodes have no majority yet" };
        return Err(why.to_owned());
    };
    let led: BTreeSet<u16> = answers.iter().flat_map(|(_, answer)| answer.led.iter().copied()).collect();
    match answer.yours.iter().filter(|group| !led.contains(group)).count() {
        0 => Ok((*leader, answer)),
        1 => Err("one of its groups has no majority among the other nodes".to_owned()),
        missing => Err(format!("{missing} of its groups have no majority among the other nodes")),
    }
}

/// Members that said lately that they are in quarantine, and why. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct QuarantinedPeers(Arc<Mutex<HashMap<NodeId, (Instant, String)>>>);

impl QuarantinedPeers {
    pub(super) fn heard(&self, node: NodeId, what: String) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = heard.insert(node, (Instant::now(), what));
        if news.is_none_or(|(at, _)| at.elapsed() > HEARD_WITHIN)
            && let Some((_, what)) = heard.get(&node)
        {
            tracing::warn!(%node, what, "a member has found its own disk damaged and is in quarantine");
        }
    }

    /// What is damaged on a node, if it is in quarantine.
    #[must_use]
    pub fn what(&self, node: NodeId) -> Option<String> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&node).filter(|(at, _)| at.elapsed() <= HEARD_WITHIN).map(|(_, what)| what.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(yours: &[u16], led: &[u16]) -> Standing {
        Standing {
            cluster: "c".to_owned(),
            ca_pem: String::new(),
            members: Members::new(),
            you: Some(NodeId(1)),
            yours: yours.to_vec(),
            led: led.to_vec(),
        }
    }

    #[test]
    fn the_others_are_healthy_when_they_lead_everything() {
        let check = |answers: &[(u64, Standing)], expect: Result<u64, &str>| {
            let answers: Vec<_> = answers.iter().map(|(id, answer)| (NodeId(*id), answer.clone())).collect();
            let found = healthy_without(&answers).map(|(leader, _)| leader.0);
            assert_eq!(found.as_ref().copied().map_err(String::as_str), expect);
        };
        check(&[], Err("no other node answers"));
        check(&[(2, standing(&[0], &[]))], Err("the other nodes have no majority yet"));
        let mine = [0, 1, 2];
        check(&[(2, standing(&mine, &[1])), (3, standing(&mine, &[0, 2]))], Ok(3));
        let one = "one of its groups has no majority among the other nodes";
        check(&[(2, standing(&mine, &[1])), (3, standing(&mine, &[0]))], Err(one));
        // What the meta group's leader knows of the map counts, not an older one's.
        check(&[(2, standing(&[0, 1, 2, 3], &[1])), (3, standing(&[0, 1], &[0]))], Ok(3));
    }
}
