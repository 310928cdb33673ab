//! What this node answers to its peers' calls: Raft's messages to the group they are for, edges' calls to the shard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_protocol::limits::BATCH_MESSAGES_MAX;
use iris_protocol::versioned;
use iris_protocol::{NodeId, ShardId};
use iris_store::snapshot::SnapshotFile;
use iris_store::{Item, decode_batch};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, Raft};
use tokio::sync::watch;

use super::beginning::Beginning;
use super::bulk::{Installer, Reception};
use super::group::ShardGroup;
use super::meta_machine::{HasMetaState, MetaView};
use super::neighbours::Known;
use super::partition_watch::Partitions;
use super::proposals;
use super::raft_types::{TypeConfig, Vote, decode, encode};
use super::raft_wire::decode_append;
use super::refused::Refused;
use super::rpc::{Method, RpcHandler};
use super::snapshots::{self, SnapshotData, SnapshotMeta, SnapshotOf};
use super::standing::{self, QuarantinedPeers, StandingCall};
use crate::disk::Disk;
use crate::routing::wire;
use crate::surroundings::Clock;

/// The meta group's number on the wire; shards follow.
pub const META_GROUP: u16 = 0;

/// What a node says to Raft's calls until it knows that it has forgotten nothing.
const MAY_HAVE_FORGOTTEN: &str = "it does not know yet whether its disk is new or was emptied";

/// Bytes of room for each byte of a snapshot that is taken in: the file, the rows it becomes, and the store's own log.
const ROOM_PER_BYTE: u64 = 3;

/// A shard's number on the wire.
#[must_use]
pub fn shard_group(shard: ShardId) -> u16 {
    shard.0 + 1
}

/// The shards of this node, once the cluster is founded.
pub type ShardGroups = Arc<HashMap<ShardId, ShardGroup>>;

/// Why the groups answer nobody.
const LEFT: &str = "this node has left its groups";

/// One lock a group.
pub(super) type Receptions = Mutex<HashMap<u16, Arc<tokio::sync::Mutex<()>>>>;

/// Answers peers.
pub struct PeerHandler<SM: RaftStateMachine<TypeConfig>> {
    /// The meta group.
    pub meta: Raft<TypeConfig, SM>,
    /// Its state.
    pub view: MetaView,
    /// The shards; empty until they are started.
    pub shards: watch::Receiver<ShardGroups>,
    /// Set while this node is going down: it takes no leadership back.
    pub draining: Arc<AtomicBool>,
    /// Set when this node's groups answer nobody any more.
    pub left: Arc<AtomicBool>,
    /// The time of what is proposed for others.
    pub clock: Arc<dyn Clock>,
    /// Members that said that they are in quarantine.
    pub(super) quarantined: QuarantinedPeers,
    /// Whether this node may take part in the meta group.
    pub(super) beginning: Arc<Beginning>,
    /// Told of every peer that calls; knows whom this node sees.
    pub(super) partitions: Arc<Partitions>,
    /// This node's disk.
    pub(super) disk: Disk,
    /// Held while a group's snapshot is received.
    pub(super) receptions: Receptions,
}

impl<SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>> Installer for PeerHandler<SM> {
    fn begin(&self, group: u16, bytes: u64) -> Result<(Vote, Reception), String> {
        let disk = self.disk.state();
        let needed = disk.reserve_bytes.saturating_add(bytes.saturating_mul(ROOM_PER_BYTE));
        if !disk.takes_messages() || disk.free_bytes < needed {
            let free = disk.free_bytes;
            return Err(format!("this node's disk is full: a snapshot needs {needed} bytes, {free} are free"));
        }
        let vote = match group {
            _ if self.left.load(Ordering::Acquire) => return Err(LEFT.to_owned()),
            META_GROUP if !self.beginning.is_open() => return Err(MAY_HAVE_FORGOTTEN.to_owned()),
            META_GROUP => self.meta.metrics().borrow_watched().vote,
            _ => self.shard(group)?.raft.metrics().borrow_watched().vote,
        };
        // Only groups that are here get this far, so there are as many as groups.
        let reception =
            self.receptions.lock().unwrap_or_else(PoisonError::into_inner).entry(group).or_default().clone();
        let begun = reception.try_lock_owned().map_err(|_| "a snapshot is being received already".to_owned())?;
        Ok((vote, begun))
    }

    fn install(
        &self,
        group: u16,
        vote: Vote,
        meta: SnapshotMeta,
        file: Arc<SnapshotFile>,
    ) -> BoxFuture<'_, Result<Vote, String>> {
        Box::pin(async move {
            let snapshot = SnapshotOf { meta, snapshot: SnapshotData::File(file.clone()) };
            let installed = match group {
                META_GROUP => self.meta.install_full_snapshot(vote, snapshot).await,
                _ => self.shard(group)?.raft.install_full_snapshot(vote, snapshot).await,
            };
            snapshots::remove(&file);
            installed.map(|response| response.vote).map_err(|fatal| fatal.to_string())
        })
    }
}

impl<SM: RaftStateMachine<TypeConfig> + HasMetaState> RpcHandler for PeerHandler<SM> {
    fn handle(&self, from: NodeId, method: Method, group: u16, payload: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            self.partitions.heard_from(from);
            match method {
                Method::AppendEntries | Method::Vote | Method::PreVote | Method::TransferLeader => {
                    if self.left.load(Ordering::Acquire) {
                        return Err(LEFT.to_owned());
                    }
                    if group == META_GROUP {
                        if !self.beginning.is_open() {
                            return Err(MAY_HAVE_FORGOTTEN.to_owned());
                        }
                        return raft_call(&self.meta, method, payload).await;
                    }
                    let shard = self.shard(group)?;
                    if method == Method::AppendEntries && !self.disk.state().takes_entries() {
                        refuse_entries(&payload)?;
                    }
                    raft_call(&shard.raft, method, payload).await
                }
                Method::Append | Method::Read | Method::Cursor => self.edge_call(method, ShardId(group), payload).await,
                Method::MetaCall => proposals::answer(&self.meta, &*self.clock, from, &payload).await,
                Method::Members => Ok(self.known_members()),
                Method::Standing => {
                    let call: StandingCall = versioned::decode(&payload).map_err(|error| error.to_string())?;
                    self.quarantined.heard(from, call.what);
                    Ok(versioned::encode(&standing::of(from, &self.view, &self.meta, &self.shards)).into())
                }
                Method::Beginning => {
                    self.beginning.asked_by(from);
                    Ok(self.known_members())
                }
                Method::Sight => Ok(versioned::encode(&self.partitions.sight()).into()),
                Method::WillLead => {
                    let draining = self.draining.load(Ordering::Relaxed);
                    Ok(encode(&(!draining && self.disk.state().may_lead())).into())
                }
            }
        })
    }
}

impl<SM: RaftStateMachine<TypeConfig>> PeerHandler<SM> {
    fn known_members(&self) -> Bytes {
        // The state first: it may only be newer than what is said of it, never older.
        let members = self.view.borrow().as_ref().map(|state| state.nodes.clone()).unwrap_or_default();
        let applied = self.meta.metrics().borrow_watched().last_applied.map_or(0, |id| id.index);
        versioned::encode(&Known { applied, members }).into()
    }

    fn shard(&self, group: u16) -> Result<ShardGroup, String> {
        let shard = ShardId(group.checked_sub(1).ok_or("the meta group is no shard")?);
        self.shards.borrow().get(&shard).cloned().ok_or_else(|| format!("shard {shard} has not started here"))
    }

    async fn edge_call(&self, method: Method, shard: ShardId, payload: Bytes) -> Result<Bytes, String> {
        let group = self.shards.borrow().get(&shard).cloned();
        let not_here = Refused::NotLeader { leader: None };
        Ok(match method {
            Method::Append => {
                let items = decode_batch(&payload).map_err(|error| error.to_string())?;
                if items.len() > BATCH_MESSAGES_MAX || !items.iter().all(Item::is_request) {
                    return Err(
                        "a batch of an edge holds at most 1,000 messages and cursors, and nothing else".to_owned()
                    );
                }
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

/// Heartbeats are heard as ever, so that the leader keeps its followers, and what a new leader begins with is written; entries are
/// sent again until there is room for them.
fn refuse_entries(payload: &Bytes) -> Result<(), String> {
    let request = decode_append(payload.clone()).map_err(|error| error.to_string())?;
    let brings = request.entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Normal(_)));
    if brings { Err("this node's disk is full: it takes no entries now".to_owned()) } else { Ok(()) }
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
