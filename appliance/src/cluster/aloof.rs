//! A member that takes no part: it has links with the others and answers none of their calls, it only asks how they stand and for
//! a new place (C12). It runs no Raft group, so it votes for nobody and acknowledges nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_protocol::NodeId;
use iris_protocol::versioned;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::handler::META_GROUP;
use super::member::serve_calls;
use super::meta::{MetaOutcome, NodeRecord};
use super::proposals::{MetaCall, MetaReply};
use super::rpc::{self, Method, RpcClients, RpcHandler};
use super::standing::{Standing, StandingCall};
use super::transport::{Channel, PeerAcceptor, PeerTransport};
use crate::supervise::Supervisor;

/// Longest a member may take to say how it stands.
const STANDING_DEADLINE: Duration = Duration::from_secs(2);

/// Longest the meta group may take to give a place: a commit, over an election at worst.
const PLACE_DEADLINE: Duration = Duration::from_secs(6);

/// Streams of peers answered at once; each member has three.
const STREAMS_MAX: usize = 128;

/// This node among its fellow members.
pub struct Aloof {
    clients: Arc<RpcClients>,
    transport: Arc<dyn PeerTransport>,
    supervisor: Supervisor,
}

impl Aloof {
    /// Refuses whatever others ask, until the supervisor stops it.
    #[must_use]
    pub fn start(supervisor: &Supervisor, transport: Arc<dyn PeerTransport>, acceptor: Box<dyn PeerAcceptor>) -> Self {
        let acceptor = Arc::new(Mutex::new(acceptor));
        supervisor.spawn("peer streams", move |stop| {
            let acceptor = acceptor.clone();
            async move {
                let (mut acceptor, mut streams) = (acceptor.lock().await, JoinSet::new());
                loop {
                    let accepted = tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        accepted = acceptor.accept() => accepted,
                    };
                    let Some((node, channel, stream)) = accepted else { return Ok(()) };
                    while streams.try_join_next().is_some() {}
                    if channel != Channel::Bulk && streams.len() < STREAMS_MAX {
                        streams.spawn(rpc::serve(node, channel, stream, Arc::new(Refuser)));
                    }
                }
            }
        });
        Self { clients: Arc::default(), transport, supervisor: supervisor.clone() }
    }

    /// Whom to ask from now on.
    pub fn set_others(&self, others: &BTreeSet<NodeId>) {
        serve_calls(&self.supervisor, &self.transport, self.clients.set_peers(others));
    }

    /// How each of these that answers stands.
    pub async fn ask(&self, others: &BTreeSet<NodeId>, what: &str) -> Vec<(NodeId, Standing)> {
        let call: Bytes = versioned::encode(&StandingCall { what: what.to_owned() }).into();
        let asked = others.iter().map(|node| {
            let call = call.clone();
            async move {
                let client = self.clients.get(*node, Channel::Edge).ok()?;
                let answer = client.call(Method::Standing, META_GROUP, call, STANDING_DEADLINE).await.ok()?;
                Some((*node, versioned::decode(&answer).ok()?))
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks the meta group's leader for the place of a new node in this one's stead. May be asked again: the same key gets the
    /// same place.
    ///
    /// # Errors
    /// Why there is none yet.
    pub async fn ask_for_place(&self, leader: NodeId, record: NodeRecord) -> Result<NodeId, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let client = self.clients.get(leader, Channel::Edge).map_err(|error| text(&error))?;
        let call = versioned::encode(&MetaCall::Replace(record)).into();
        let answer = client.call(Method::MetaCall, META_GROUP, call, PLACE_DEADLINE).await;
        let MetaReply(reply) =
            versioned::decode(&answer.map_err(|error| text(&error))?).map_err(|error| text(&error))?;
        match reply.map_err(|error| text(&error))? {
            MetaOutcome::Joined(node) => Ok(node),
            other => Err(format!("the cluster gave this node no new place ({other:?})")),
        }
    }
}

struct Refuser;

impl RpcHandler for Refuser {
    fn handle(&self, _: NodeId, _: Method, _: u16, _: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(std::future::ready(Err("this node is in quarantine: its data are damaged".to_owned())))
    }
}
