//! Who is in the cluster, as far as this node knows: the meta state, or before there is one what this node was started with; and
//! members that this node has not heard of from the meta log, because it was away while they joined: one of them may lead by now,
//! and whoever lets nobody in but those it knows would never hear from it. While no leader of the meta group is known, this
//! node asks those that it is linked with who is there. They are members, so what they say is believed, until this
//! node's own state is as new as theirs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::NodeId;
use iris_protocol::versioned::{self, Versioned};
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handler::META_GROUP;
use super::meta::NodeRecord;
use super::meta_machine::MetaView;
use super::proposals::Proposals;
use super::rpc::Method;
use super::transport::{Channel, PeerTransport};

/// Between looks; an election takes less.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest a member may take to say who is there.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Members by number.
pub type Members = BTreeMap<NodeId, NodeRecord>;

/// What a member knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// How far it has applied the meta log.
    pub(super) applied: u64,
    /// The members as of then.
    pub(super) members: Members,
}

impl Versioned for Known {
    const NAME: &'static str = "known members";
    const VERSION: u8 = 1;
}

/// Keeps `roster` as it should be, until `stop`: the meta state's members as soon as this node is among them (a state that is
/// still being replayed may be older than this node), and those heard of meanwhile.
pub(super) async fn keep_roster(
    node: NodeId,
    mut view: MetaView,
    mut heard: watch::Receiver<Members>,
    roster: &watch::Sender<Members>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut base = roster.borrow().clone();
    loop {
        if let Some(state) = view.borrow_and_update().as_ref().filter(|state| state.nodes.contains_key(&node)) {
            base.clone_from(&state.nodes);
        }
        let mut members = heard.borrow_and_update().clone();
        // What the state says of a member counts.
        members.extend(base.clone());
        roster.send_if_modified(|now| {
            let changed = *now != members;
            *now = members;
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = view.changed() => changed?,
            changed = heard.changed() => changed?,
        }
    }
}

/// Asks around while no leader is known, and publishes what this node's own state lacks. Until `stop`.
pub(super) async fn ask_around(
    proposals: &Proposals,
    transport: &dyn PeerTransport,
    publish: &watch::Sender<Members>,
    stop: &CancellationToken,
) {
    let mut news_of = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let (led, applied) = {
            let metrics = proposals.meta.metrics();
            let now = metrics.borrow_watched();
            (now.current_leader.is_some(), now.last_applied.map(|id| id.index))
        };
        if news_of.is_some() && applied >= news_of {
            // From here on this node's own state says it.
            news_of = None;
            publish.send_replace(Members::new());
        }
        if led {
            continue;
        }
        let Some(newest) = newest(proposals, transport).await.filter(|known| Some(known.applied) > applied) else {
            continue;
        };
        let lacking: Members = {
            let known = proposals.roster.borrow();
            newest.members.into_iter().filter(|(node, _)| !known.contains_key(node)).collect()
        };
        if !lacking.is_empty() {
            tracing::info!(members = ?lacking.keys().collect::<Vec<_>>(), "heard of members that joined while this node was away");
            news_of = Some(newest.applied);
            publish.send_replace(lacking);
        }
    }
}

/// What the member that knows most says.
async fn newest(proposals: &Proposals, transport: &dyn PeerTransport) -> Option<Known> {
    let members: Vec<NodeId> = proposals.roster.borrow().keys().copied().collect();
    let up = members.into_iter().filter(|node| *node != proposals.node && transport.is_up(*node));
    let asked = up.map(|node| async move {
        let client = proposals.clients.get(node, Channel::Edge).ok()?;
        let answer = client.call(Method::Members, META_GROUP, Bytes::new(), ANSWER_DEADLINE).await.ok()?;
        versioned::decode::<Known>(&answer).ok()
    });
    let answers = futures::future::join_all(asked).await;
    answers.into_iter().flatten().max_by_key(|known| known.applied)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::placement::tests::{founded, record};

    fn members(ids: impl IntoIterator<Item = u64>) -> Members {
        ids.into_iter().map(|id| (NodeId(id), record(id))).collect()
    }

    /// Node 3 was let in by 2; the meta log it replays begins with the founders.
    #[tokio::test]
    async fn a_state_older_than_this_node_cuts_nobody_off_and_what_was_heard_is_added() {
        let (state, view) = watch::channel(None);
        let (say, heard) = watch::channel(Members::new());
        let roster = watch::Sender::new(members(1..=3));
        let mut seen = roster.subscribe();
        let stop = CancellationToken::new();
        let keeping = keep_roster(NodeId(3), view, heard, &roster, &stop);
        let telling = async {
            let ids = |now: &Members| now.keys().map(|node| node.0).collect::<Vec<_>>();
            state.send_replace(Some(Arc::new(founded(1, 1))));
            say.send_replace(members(4..=4));
            assert_eq!(ids(&seen.wait_for(|now| now.len() == 4).await.unwrap()), [1, 2, 3, 4]);
            let mut newer = founded(4, 1);
            newer.nodes.remove(&NodeId(2));
            state.send_replace(Some(Arc::new(newer)));
            say.send_replace(Members::new());
            assert_eq!(ids(&seen.wait_for(|now| now.len() == 3).await.unwrap()), [1, 3, 4], "one was removed");
            stop.cancel();
        };
        let (kept, ()) = tokio::join!(keeping, telling);
        kept.unwrap();
    }
}
