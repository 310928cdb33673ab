//! How a cluster begins, and how a member makes itself known: the meta group is initialised with the static list of members,
//! its first leader proposes the founding state, and the first such proposal in the log counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::NodeId;
use iris_protocol::versioned::encode;
use openraft::error::ClientWriteError;
use tokio_util::sync::CancellationToken;

use super::handler::META_GROUP;
use super::member::MetaRaft;
use super::meta::{MetaCommand, MetaState, NodeRecord};
use super::meta_machine::MetaView;
use super::raft_types::Command;
use super::rpc::{Method, RpcClients};
use super::transport::Channel;
use crate::supervise::Supervisor;

/// Between attempts.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A member waits this long per member before it in the list, before it initialises a group that nobody has: the first
/// one does it at once, the others only if it is missing.
pub(super) const INITIALISE_AFTER: Duration = Duration::from_secs(2);

const PROPOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Initialises and founds, if nobody has.
pub(super) fn spawn(
    supervisor: &Supervisor,
    meta: &MetaRaft,
    view: &MetaView,
    members: &[NodeId],
    founding: MetaState,
) {
    let (meta, view, members) = (meta.clone(), view.clone(), members.to_vec());
    let founding = Arc::new(founding);
    supervisor.spawn("founding", move |stop| {
        let (meta, view, members, founding) = (meta.clone(), view.clone(), members.clone(), founding.clone());
        async move {
            if view.borrow().is_some() {
                return Ok(());
            }
            let rank = members.iter().position(|node| node == meta.node_id()).unwrap_or(0);
            initialise(&meta, &members, rank, &stop).await?;
            let command = Command(encode(&MetaCommand::Found(Box::new((*founding).clone()))).into());
            while view.borrow().is_none() && !stop.is_cancelled() {
                if meta.is_leader() {
                    match tokio::time::timeout(PROPOSE_DEADLINE, meta.client_write(command.clone())).await {
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

/// Waits for the founded state.
pub(super) async fn wait_until_founded(view: &MetaView, stop: &CancellationToken) -> anyhow::Result<Arc<MetaState>> {
    let mut view = view.clone();
    tokio::select! {
        () = stop.cancelled() => anyhow::bail!("stopped before a majority of the members was there to found the cluster"),
        founded = view.wait_for(Option::is_some) => founded?.clone().ok_or_else(|| anyhow::anyhow!("no meta state")),
    }
}

/// Keeps this node's record in meta as its configuration has it, asking the meta group's leader, whoever that is.
pub(super) fn spawn_description(
    supervisor: &Supervisor,
    meta: &MetaRaft,
    view: &MetaView,
    node: NodeId,
    record: NodeRecord,
    clients: Arc<RpcClients>,
) {
    let (meta, view) = (meta.clone(), view.clone());
    supervisor.spawn("description", move |stop| {
        let (meta, mut view, record, clients) = (meta.clone(), view.clone(), record.clone(), clients.clone());
        async move {
            let command: Bytes = encode(&MetaCommand::Describe(node, record.clone())).into();
            loop {
                let known =
                    view.borrow_and_update().as_ref().is_some_and(|state| state.nodes.get(&node) == Some(&record));
                if known {
                    return Ok(());
                }
                if let Err(error) = propose(&meta, &clients, command.clone()).await {
                    tracing::debug!(%error, "could not describe this node yet");
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(TRY_AGAIN) => {}
                }
            }
        }
    });
}

async fn propose(meta: &MetaRaft, clients: &RpcClients, command: Bytes) -> anyhow::Result<()> {
    let leader = match tokio::time::timeout(PROPOSE_DEADLINE, meta.client_write(Command(command.clone()))).await? {
        Ok(_) => return Ok(()),
        Err(openraft::error::RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => forward.leader_id,
        Err(error) => return Err(error.into()),
    };
    let leader = leader.ok_or_else(|| anyhow::anyhow!("the meta group has no leader"))?;
    clients.get(leader, Channel::Edge)?.call(Method::Describe, META_GROUP, command, PROPOSE_DEADLINE).await?;
    Ok(())
}
