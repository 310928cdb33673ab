//! How bytes reach another node: a trait with one real implementation, over the libp2p links of `iris_p2p`. A simulation
//! puts an in-memory one in its place. Knows which key a node has; does not know what the streams carry.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use iris_p2p::{Inbound, Links, PeerKey, StreamKind};
use iris_protocol::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to another node.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerIo for T {}

/// A boxed [`PeerIo`].
pub type PeerStream = Box<dyn PeerIo>;

/// What a stream is for: separate streams, so that pages on their way to a reader never delay Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Raft's own messages.
    Raft,
    /// Appends and other short calls between edges and shard leaders.
    Edge,
    /// Pages of inboxes: calls that may wait long for news, one for every follower of an inbox led elsewhere.
    Read,
    /// One snapshot on its way: a stream for each, not for calls.
    Bulk,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 4] = [Self::Raft, Self::Edge, Self::Read, Self::Bulk];

    /// Those that carry calls, on one long-lived stream a peer.
    pub const CALLS: [Self; 3] = [Self::Raft, Self::Edge, Self::Read];

    /// Calls that may be under way at once on this channel, on either side: beyond it, callers and the reading of requests wait.
    #[must_use]
    pub fn calls_max(self) -> usize {
        match self {
            // Raft has one or two per group under way, an edge one per shard.
            Self::Raft | Self::Edge => 1_024,
            // Twice the sessions a node has room for; a waiting one costs a task of some 2 KB.
            Self::Read => 36_000,
            // Carries none.
            Self::Bulk => 0,
        }
    }

    fn stream_kind(self) -> StreamKind {
        match self {
            Self::Raft => StreamKind(1),
            Self::Edge => StreamKind(2),
            Self::Read => StreamKind(3),
            Self::Bulk => StreamKind(4),
        }
    }
}

/// The other nodes, as seen from this one.
pub trait PeerTransport: Send + Sync + 'static {
    /// Opens a stream; fails at once when there is no live link.
    fn open(&self, node: NodeId, channel: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>>;

    /// Whether there is a live link.
    fn is_up(&self, node: NodeId) -> bool;
}

/// Streams that others open.
pub trait PeerAcceptor: Send + 'static {
    /// The next one; `None` when the links have ended.
    fn accept(&mut self) -> BoxFuture<'_, Option<(NodeId, Channel, PeerStream)>>;
}

/// Which key each member has; follows the cluster's members.
#[derive(Clone, Default)]
pub struct MemberKeys(Arc<ArcSwap<HashMap<NodeId, PeerKey>>>);

impl MemberKeys {
    /// Makes these the members.
    pub fn set(&self, keys: HashMap<NodeId, PeerKey>) {
        self.0.store(Arc::new(keys));
    }

    fn key(&self, node: NodeId) -> Option<PeerKey> {
        self.0.load().get(&node).copied()
    }

    fn node(&self, key: PeerKey) -> Option<NodeId> {
        self.0.load().iter().find(|(_, known)| **known == key).map(|(node, _)| *node)
    }
}

/// The real transport.
pub struct LinkTransport {
    links: Links,
    keys: MemberKeys,
}

/// The real acceptor.
pub struct LinkAcceptor {
    inbound: Inbound,
    keys: MemberKeys,
}

/// The real pair.
#[must_use]
pub fn over_links(links: Links, inbound: Inbound, keys: MemberKeys) -> (LinkTransport, LinkAcceptor) {
    (LinkTransport { links, keys: keys.clone() }, LinkAcceptor { inbound, keys })
}

impl PeerTransport for LinkTransport {
    fn open(&self, node: NodeId, channel: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>> {
        Box::pin(async move {
            let key = self.keys.key(node).ok_or_else(|| anyhow::anyhow!("node {node} is not a member"))?;
            let stream = self.links.open(key, channel.stream_kind()).await?;
            Ok(Box::new(stream) as PeerStream)
        })
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.keys.key(node).is_some_and(|key| self.links.is_up(key))
    }
}

impl PeerAcceptor for LinkAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Option<(NodeId, Channel, PeerStream)>> {
        Box::pin(async move {
            loop {
                let (key, kind, stream) = self.inbound.accept().await?;
                let channel = Channel::ALL.into_iter().find(|channel| channel.stream_kind() == kind);
                match (self.keys.node(key), channel) {
                    (Some(node), Some(channel)) => return Some((node, channel, Box::new(stream) as PeerStream)),
                    _ => tracing::warn!(%key, ?kind, "a peer opened a stream this version does not know; closed it"),
                }
            }
        })
    }
}
