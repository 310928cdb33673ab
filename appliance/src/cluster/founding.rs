//! How a cluster begins, and how a member makes itself known: the meta group is initialised with the static list of members,
//! its first leader proposes the founding state, and the first such proposal in the log counts.

use std::sync::Arc;
use std::time::Duration;

use iris_protocol::NodeId;
use iris_protocol::versioned::encode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::member::{DescribeSelf, MetaRaft};
use super::meta::{MetaCommand, MetaState, NodeRecord};
use super::meta_machine::MetaView;
use super::proposals::{MetaCall, Proposals};
use super::raft_types::Command;
use crate::supervise::Supervisor;

/// Between attempts.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A member waits this long per member before it in the list, before it initialises a group that nobody has: the first
/// one does it at once, the others only if it is missing.
pub(super) const INITIALISE_AFTER: Duration = Duration::from_secs(2);

const FOUND_DEADLINE: Duration = Duration::from_secs(5);

/// Longest one try to describe this node may go on; then it is tried again with what is so by then.
const DESCRIBE_DEADLINE: Duration = Duration::from_secs(10);

/// Between looks at this node's own addresses.
const LOOK_AT_SELF_EVERY: Duration = Duration::from_secs(5);

/// A change of this node's addresses has to stand for so long before it is told: an interface that comes and goes must not write
/// the meta log full, and its old address is no worse meanwhile than none.
const STANDS_FOR: Duration = Duration::from_secs(5);

/// Initialises and founds, if nobody has.
pub(super) fn spawn(supervisor: &Supervisor, meta: &MetaRaft, view: &MetaView, founding: MetaState) {
    let (meta, view, founding) = (meta.clone(), view.clone(), Arc::new(founding));
    supervisor.spawn("founding", move |stop| {
        let (meta, view, founding) = (meta.clone(), view.clone(), founding.clone());
        async move {
            if view.borrow().is_some() {
                return Ok(());
            }
            let members: Vec<NodeId> = founding.nodes.keys().copied().collect();
            let rank = members.iter().position(|node| node == meta.node_id()).unwrap_or(0);
            initialise(&meta, &members, rank, &stop).await?;
            let command = Command(encode(&MetaCommand::Found(Box::new((*founding).clone()))).into());
            while view.borrow().is_none() && !stop.is_cancelled() {
                if meta.is_leader() {
                    match tokio::time::timeout(FOUND_DEADLINE, meta.client_write(command.clone())).await {
                        Ok(Ok(_)) => tracing::info!(cluster = %founding.cluster, "the cluster is founded"),
                        Ok(Err(error)) => tracing::debug!(%error, "could not found the cluster yet"),
                        Err(_) => tracing::debug!("could not found the cluster in time"),
                    }
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
            Ok(())
        }
    });
}

/// Gives a group its first membership, unless it has one by the time it is this member's turn.
pub(super) async fn initialise<SM: openraft::storage::RaftStateMachine<super::raft_types::TypeConfig>>(
    raft: &openraft::Raft<super::raft_types::TypeConfig, SM>,
    members: &[NodeId],
    rank: usize,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let turn = INITIALISE_AFTER * u32::try_from(rank).unwrap_or(u32::MAX);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = tokio::time::sleep(turn) => {}
    }
    if raft.is_initialized().await? {
        return Ok(());
    }
    let members: std::collections::BTreeMap<NodeId, ()> = members.iter().map(|node| (*node, ())).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Somebody was faster.
        Err(_) if raft.is_initialized().await? => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits for a founded state that this node is in: one that is still being replayed may be older than this node.
pub(super) async fn wait_until_founded(
    node: NodeId,
    view: &MetaView,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<MetaState>> {
    let mut view = view.clone();
    let has_us = |state: &Option<Arc<MetaState>>| state.as_ref().is_some_and(|state| state.nodes.contains_key(&node));
    tokio::select! {
        () = stop.cancelled() => anyhow::bail!("stopped before a majority of the members was there to found the cluster"),
        founded = view.wait_for(has_us) => founded?.clone().ok_or_else(|| anyhow::anyhow!("no meta state")),
    }
}

/// Keeps this node's record in meta as it is now: its name as configured, its addresses as it listens. A node that was just let
/// in says so once in any case: only then the others give it something to hold.
pub(super) fn spawn_description(supervisor: &Supervisor, proposals: Arc<Proposals>, describe: DescribeSelf) {
    supervisor.spawn("description", move |stop| {
        let (proposals, describe) = (proposals.clone(), describe.clone());
        async move {
            let mut view = proposals.view.clone();
            let mut description = Description::default();
            loop {
                let record = describe();
                if description.is_to_be_said(&record, Instant::now())
                    && is_news(view.borrow_and_update().as_deref(), &proposals, &record)
                {
                    match proposals.ask(MetaCall::Describe(record.clone()), DESCRIBE_DEADLINE).await {
                        Ok(_) => {
                            warn_of_name(view.borrow().as_deref(), &proposals, &record);
                            description.said = Some(record);
                        }
                        Err(error) => tracing::debug!(%error, "could not describe this node yet"),
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    // Interfaces come and go without a word.
                    () = tokio::time::sleep(LOOK_AT_SELF_EVERY) => {}
                    // The state's publisher goes only when the node does.
                    changed = view.changed() => if changed.is_err() { return Ok(()) },
                }
            }
        }
    });
}

/// What was said of this node, and what is to be said next.
#[derive(Default)]
struct Description {
    said: Option<NodeRecord>,
    /// What it is now, and since when.
    stands: Option<(NodeRecord, Instant)>,
}

impl Description {
    /// The first one is: the others wait for it.
    fn is_to_be_said(&mut self, record: &NodeRecord, now: Instant) -> bool {
        if self.stands.as_ref().is_none_or(|(stands, _)| stands != record) {
            self.stands = Some((record.clone(), now));
        }
        let stood = self.stands.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= STANDS_FOR);
        self.said.as_ref().is_none_or(|said| said != record && stood)
    }
}

fn is_news(state: Option<&MetaState>, proposals: &Proposals, record: &NodeRecord) -> bool {
    state.is_none_or(|state| {
        state.nodes.get(&proposals.node) != Some(record) || state.admissions.is_newcomer(proposals.node)
    })
}

fn warn_of_name(state: Option<&MetaState>, proposals: &Proposals, record: &NodeRecord) {
    let others = state.into_iter().flat_map(|state| &state.nodes).filter(|(node, _)| **node != proposals.node);
    if let Some((node, _)) = others.into_iter().find(|(_, other)| other.name == record.name) {
        tracing::warn!(%node, name = record.name, "another member has the name this node is to have (node.name); it keeps its old one");
    }
}

/// The members that a configuration names must be members of the cluster whose state is here, by id and key: the list founds a
/// cluster and changes none. Those that joined since, or were removed, are not asked of it.
pub(super) fn check_members(configured: &MetaState, founded: &MetaState) -> anyhow::Result<()> {
    let is_other = |(id, node): &(&NodeId, &NodeRecord)| match founded.nodes.get(id) {
        Some(known) => known.key != node.key,
        None => !founded.admissions.has_given(**id),
    };
    let shown = |nodes: &mut dyn Iterator<Item = (&NodeId, &NodeRecord)>| {
        nodes.map(|(id, node)| format!("{id} ({})", node.key)).collect::<Vec<_>>().join(", ")
    };
    let others = shown(&mut configured.nodes.iter().filter(is_other));
    anyhow::ensure!(
        others.is_empty(),
        "the configuration's members can't change the members of a cluster that is founded: they name {others}, and this data folder's cluster \
         has {}. Put the list back as it was, let new machines join (`iris join-token`), or start this node with another data folder",
        shown(&mut founded.nodes.iter())
    );
    if configured.shards.len() != founded.shards.len() || configured.dedup != founded.dedup {
        tracing::warn!(
            "shards.count and the store's dedup settings were fixed when the cluster was founded; the configuration's are not used"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_description_is_said_at_once_and_a_later_one_when_it_stands() {
        let record = |client: &str| NodeRecord {
            name: "nas".to_owned(),
            key: iris_p2p::Identity::ephemeral().peer_id(),
            p2p: Vec::new(),
            client: client.to_owned(),
        };
        let (home, away) = (record("192.0.2.1:1"), record("192.0.2.2:1"));
        let mut description = Description::default();
        let now = Instant::now();
        assert!(description.is_to_be_said(&home, now), "at once");
        assert!(description.is_to_be_said(&home, now), "again, as nobody heard it");
        description.said = Some(home.clone());
        // An interface that comes and goes: each look finds something else.
        for look in 1..20 {
            let now = now + look * (STANDS_FOR - Duration::from_secs(1));
            let seen = if look % 2 == 0 { &home } else { &away };
            assert!(!description.is_to_be_said(seen, now), "look {look}");
        }
        let later = now + 100 * STANDS_FOR;
        assert!(!description.is_to_be_said(&home, later) && !description.is_to_be_said(&away, later));
        assert!(description.is_to_be_said(&away, later + STANDS_FOR));
    }
}
