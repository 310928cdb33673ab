//! What this node answers to its peers' calls: Raft's messages to the group they are for, edges' calls to the shard.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_protocol::versioned;
use iris_protocol::{NodeId, ShardId};
use iris_store::decode_batch;
use openraft::Raft;
use openraft::storage::RaftStateMachine;
use tokio::sync::watch;

use super::group::ShardGroup;
use super::proposals;
use super::raft_types::{TypeConfig, decode, encode};
use super::raft_wire::decode_append;
use super::refused::Refused;
use super::rpc::{Method, RpcHandler};
use crate::routing::wire;
use crate::surroundings::Clock;

/// The meta group's number on the wire; shards follow.
pub const META_GROUP: u16 = 0;

/// A shard's number on the wire.
#[must_use]
pub fn shard_group(shard: ShardId) -> u16 {
    shard.0 + 1
}

/// The shards of this node, once the cluster is founded.
pub type ShardGroups = Arc<HashMap<ShardId, ShardGroup>>;

/// Answers peers.
pub struct PeerHandler<SM: RaftStateMachine<TypeConfig>> {
    /// The meta group.
    pub meta: Raft<TypeConfig, SM>,
    /// The shards; empty until they are started.
    pub shards: watch::Receiver<ShardGroups>,
    /// Set while this node is going down: it takes no leadership back.
    pub draining: Arc<AtomicBool>,
    /// The time of what is proposed for others.
    pub clock: Arc<dyn Clock>,
}

impl<SM: RaftStateMachine<TypeConfig>> RpcHandler for PeerHandler<SM> {
    fn handle(&self, from: NodeId, method: Method, group: u16, payload: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match method {
                Method::AppendEntries | Method::Vote | Method::PreVote | Method::TransferLeader => {
                    if group == META_GROUP {
                        return raft_call(&self.meta, method, payload).await;
                    }
                    let shard = self.shard(group)?;
                    raft_call(&shard.raft, method, payload).await
                }
                Method::Append | Method::Read | Method::Cursor => self.edge_call(method, ShardId(group), payload).await,
                Method::MetaCall => proposals::answer(&self.meta, &*self.clock, from, &payload).await,
                Method::WillLead => Ok(encode(&!self.draining.load(Ordering::Relaxed)).into()),
            }
        })
    }
}

impl<SM: RaftStateMachine<TypeConfig>> PeerHandler<SM> {
    fn shard(&self, group: u16) -> Result<ShardGroup, String> {
        let shard = ShardId(group - 1);
        self.shards.borrow().get(&shard).cloned().ok_or_else(|| format!("shard {shard} has not started here"))
    }

    async fn edge_call(&self, method: Method, shard: ShardId, payload: Bytes) -> Result<Bytes, String> {
        let group = self.shards.borrow().get(&shard).cloned();
        let not_here = Refused::NotLeader { leader: None };
        Ok(match method {
            Method::Append => {
                let items = decode_batch(&payload).map_err(|error| error.to_string())?;
                wire::encode_outcomes(match group {
                    Some(group) => group.append(items).await,
                    None => Err(not_here),
                })
            }
            Method::Read => {
                let call: wire::ReadCall = versioned::decode(&payload).map_err(|error| error.to_string())?;
                let (user, request) = call.into_request();
                wire::encode_page(match group {
                    Some(group) => group.read(&user, request).await,
                    None => Err(not_here),
                })
            }
            _ => {
                let call: wire::CursorCall = versioned::decode(&payload).map_err(|error| error.to_string())?;
                wire::encode_cursor(match group {
                    Some(group) => group.stored_cursor(&call.user, &call.device).await,
                    None => Err(not_here),
                })
            }
        })
    }
}

async fn raft_call<SM: RaftStateMachine<TypeConfig>>(
    raft: &Raft<TypeConfig, SM>,
    method: Method,
    payload: Bytes,
) -> Result<Bytes, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let answer = match method {
        Method::AppendEntries => {
            let request = decode_append(payload).map_err(|error| text(&error))?;
            encode(&raft.append_entries(request).await.map_err(|error| text(&error))?)
        }
        Method::Vote => {
            let request = decode("vote request", &payload).map_err(|error| text(&error))?;
            encode(&raft.vote(request).await.map_err(|error| text(&error))?)
        }
        Method::PreVote => {
            let request = decode("vote request", &payload).map_err(|error| text(&error))?;
            encode(&raft.pre_vote(request).await.map_err(|error| text(&error))?)
        }
        _ => {
            let request = decode("transfer request", &payload).map_err(|error| text(&error))?;
            encode(&raft.handle_transfer_leader(request).await.map_err(|error| text(&error))?)
        }
    };
    Ok(answer.into())
}
