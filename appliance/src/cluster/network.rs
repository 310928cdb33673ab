//! openraft's network over [`super::rpc`]: one client per group and target, all groups of a pair of nodes sharing one stream.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::NodeId;
use iris_store::StoreError;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bulk;
use super::raft_types::{TypeConfig, Vote, decode, encode};
use super::raft_wire;
use super::rpc::{Method, RpcClients, RpcError};
use super::snapshots::{Outgoing, SnapshotData, SnapshotOf, mark_of};
use super::transport::{Channel, PeerTransport};

/// For requests that carry entries. openraft's own limit is made for heartbeats (a part of their interval): over a slow link, or
/// before a slow disk, the same entries would be sent again and again and their answers always come too late. A dead peer is
/// noticed by its link, long before this.
const ENTRIES_DEADLINE: Duration = Duration::from_secs(5);

/// Makes the clients of one group.
#[derive(Clone)]
pub struct GroupNetwork {
    /// The group's number on the wire.
    pub group: u16,
    /// Clients of all peers.
    pub clients: Arc<RpcClients>,
    /// Opens streams for snapshots.
    pub transport: Arc<dyn PeerTransport>,
    /// The snapshot that is on its way.
    pub outgoing: Outgoing,
}

/// One group's calls to one peer.
pub struct GroupPeer {
    group: u16,
    target: NodeId,
    clients: Arc<RpcClients>,
    transport: Arc<dyn PeerTransport>,
    outgoing: Outgoing,
}

impl RaftNetworkFactory<TypeConfig> for GroupNetwork {
    type Network = GroupPeer;

    async fn new_client(&mut self, target: NodeId, _node: &()) -> GroupPeer {
        GroupPeer {
            group: self.group,
            target,
            clients: self.clients.clone(),
            transport: self.transport.clone(),
            outgoing: self.outgoing.clone(),
        }
    }
}

type Error = RPCError<TypeConfig>;

fn unreachable(error: &(impl std::error::Error + 'static)) -> Error {
    RPCError::Unreachable(Unreachable::new(error))
}

impl GroupPeer {
    async fn call(&self, method: Method, payload: Bytes, deadline: Duration) -> Result<Bytes, Error> {
        let client = self.clients.get(self.target, Channel::Raft).map_err(|error| unreachable(&error))?;
        client.call(method, self.group, payload, deadline).await.map_err(|error| match error {
            // Retried at once: the peer may just be slow. Everything else backs off.
            RpcError::Deadline(_) => RPCError::Network(openraft::error::NetworkError::new(&error)),
            other => unreachable(&other),
        })
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        question: &Q,
        option: &RPCOption,
    ) -> Result<A, Error> {
        let answer = self.call(method, encode(question).into(), option.soft_ttl()).await?;
        decode("raft answer", &answer).map_err(|error| unreachable(&error))
    }
}

/// Whether it will be the same the next time.
fn is_damage(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>());
    matches!(inner, Some(StoreError::Corrupt { .. }))
}

impl GroupPeer {
    async fn send_snapshot(&self, vote: Vote, snapshot: SnapshotOf) -> io::Result<Vote> {
        let SnapshotOf { meta, snapshot } = snapshot;
        let file = self.outgoing.file(snapshot, mark_of(&meta)).await?;
        let stream = self.transport.open(self.target, Channel::Bulk).await.map_err(io::Error::other)?;
        tracing::info!(group = self.group, node = %self.target, bytes = file.manifest().bytes, "sending a snapshot");
        let vote = match bulk::send(stream, self.group, vote, &meta, &file, &self.outgoing).await {
            Ok(vote) => vote,
            Err(error) => {
                // The copy is damaged, not what it was made of: the next attempt makes another.
                if is_damage(&error) {
                    self.outgoing.forget();
                }
                return Err(error);
            }
        };
        tracing::info!(group = self.group, node = %self.target, "a snapshot is installed there");
        self.outgoing.done();
        Ok(vote)
    }
}

impl RaftNetworkV2<TypeConfig> for GroupPeer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        let deadline = if rpc.entries.is_empty() { option.soft_ttl() } else { ENTRIES_DEADLINE };
        let answer = self.call(Method::AppendEntries, raft_wire::encode_append(&rpc), deadline).await?;
        decode("append answer", &answer).map_err(|error| unreachable(&error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        self.ask(Method::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        self.ask(Method::PreVote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // Without a link, nothing needs to be copied.
        if !self.transport.is_up(self.target) {
            let error = RpcError::Unreachable(self.target);
            return Err(StreamingError::Unreachable(Unreachable::new(&error)));
        }
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) if is_damage(&error) => {
                    tracing::error!(group = self.group, node = %self.target, %error, "what this disk has of a group, or a copy of it, is damaged and can't be sent");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
                Err(error) => {
                    tracing::warn!(group = self.group, node = %self.target, %error, "a snapshot did not get through; it is tried again");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        self.ask(Method::TransferLeader, &req, &option).await
    }
}
