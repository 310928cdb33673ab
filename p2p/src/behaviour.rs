//! The gate, and the birth of connections. Owns who may connect and how many at a time, and gives every admitted connection
//! its handler. Which connection of a pair is kept, and when to dial, is `peer`'s decision.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandlerInEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::{CONNECTIONS_PER_PEER_MAX, OPEN_QUEUE_MAX, PENDING_INBOUND_MAX, STREAMS_PER_DIRECTION_MAX};
use crate::handler::{Handler, OpenRequest, Reception};
use crate::inbound::InboundQueue;
use crate::{PeerAddr, PeerKey};

/// The admitted keys and where to find them; shared by the gate and the links' task.
pub(crate) type MemberMap = Arc<BTreeMap<PeerKey, Vec<PeerAddr>>>;

/// How to ask an established connection for streams.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) requests: mpsc::Sender<OpenRequest>,
    /// Places for streams that this node opens.
    pub(crate) places: Arc<Semaphore>,
}

/// The peer opened its heartbeat on this connection.
#[derive(Debug)]
pub(crate) struct HeartbeatOpened {
    pub(crate) peer: PeerKey,
    pub(crate) connection: ConnectionId,
    pub(crate) stream: Stream,
}

#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0} is not a member")]
    NotAMember(PeerKey),
    #[error("{0} already holds the most connections a member may have")]
    TooManyConnections(PeerKey),
    #[error("too many inbound connections are in their handshake")]
    TooManyPending,
}

pub(crate) struct LinkBehaviour {
    local: PeerKey,
    members: watch::Receiver<MemberMap>,
    queue: InboundQueue,
    open_timeout: Duration,
    pending_inbound: HashSet<ConnectionId>,
    established: HashMap<PeerId, usize>,
    /// Lines of connections that the links' task has not seen yet.
    lines: HashMap<ConnectionId, Line>,
    /// At most one a connection: see `Handler::heartbeat`.
    events: VecDeque<HeartbeatOpened>,
    waker: Option<Waker>,
}

impl LinkBehaviour {
    pub(crate) fn new(
        local: PeerKey,
        members: watch::Receiver<MemberMap>,
        queue: InboundQueue,
        open_timeout: Duration,
    ) -> LinkBehaviour {
        LinkBehaviour {
            local,
            members,
            queue,
            open_timeout,
            pending_inbound: HashSet::new(),
            established: HashMap::new(),
            lines: HashMap::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// The line of a connection that was just established; each is there once.
    pub(crate) fn take_line(&mut self, connection: ConnectionId) -> Option<Line> {
        self.lines.remove(&connection)
    }

    /// Connections that stand, by peer; those that are closing count until they are closed.
    pub(crate) fn connection_counts(&self) -> HashMap<PeerKey, usize> {
        self.established.iter().map(|(peer, count)| (PeerKey::from_id(*peer), *count)).collect()
    }

    fn admit(&mut self, connection: ConnectionId, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let key = PeerKey::from_id(peer);
        if !self.members.borrow().contains_key(&key) {
            tracing::debug!(peer = %key, "connection of a stranger refused");
            return Err(ConnectionDenied::new(Denied::NotAMember(key)));
        }
        if self.established.get(&peer).is_some_and(|count| *count >= CONNECTIONS_PER_PEER_MAX) {
            return Err(ConnectionDenied::new(Denied::TooManyConnections(key)));
        }
        let (sender, receiver) = mpsc::channel(OPEN_QUEUE_MAX);
        let places = || Arc::new(Semaphore::new(STREAMS_PER_DIRECTION_MAX));
        self.lines.insert(connection, Line { requests: sender, places: places() });
        let reception = Reception {
            peer: key,
            queue: self.queue.clone(),
            places: places(),
            takes_heartbeat: !decides(self.local, key),
        };
        Ok(Handler::new(reception, receiver, self.open_timeout))
    }
}

/// Whether `local` settles which connection it and `peer` keep: the lower key does.
pub(crate) fn decides(local: PeerKey, peer: PeerKey) -> bool {
    local < peer
}

impl NetworkBehaviour for LinkBehaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = HeartbeatOpened;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.pending_inbound.len() >= PENDING_INBOUND_MAX {
            return Err(ConnectionDenied::new(Denied::TooManyPending));
        }
        self.pending_inbound.insert(connection);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.pending_inbound.remove(&connection);
        self.admit(connection, peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.admit(connection, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending_inbound.remove(&connection_id);
            }
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                *self.established.entry(peer_id).or_default() += 1;
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                self.lines.remove(&connection_id);
                match remaining_established {
                    0 => self.established.remove(&peer_id),
                    count => self.established.insert(peer_id, count),
                };
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        self.events.push_back(HeartbeatOpened { peer: PeerKey::from_id(peer), connection, stream });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<HeartbeatOpened, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, inbound};

    fn gate(members: &[PeerKey]) -> (watch::Sender<MemberMap>, LinkBehaviour) {
        let map = |members: &[PeerKey]| Arc::new(members.iter().map(|key| (*key, Vec::new())).collect());
        let (sender, receiver) = watch::channel(map(members));
        let (queue, _) = inbound::queue(1);
        (sender, LinkBehaviour::new(Identity::ephemeral().peer_id(), receiver, queue, Duration::from_secs(1)))
    }

    /// Whether the gate opens, inbound and outbound.
    fn admits(gate: &mut LinkBehaviour, peer: PeerKey) -> (bool, bool) {
        let (addr, id) = (Multiaddr::empty(), ConnectionId::new_unchecked(1));
        let inbound = gate.handle_established_inbound_connection(id, peer.id(), &addr, &addr);
        let outbound =
            gate.handle_established_outbound_connection(id, peer.id(), &addr, Endpoint::Dialer, PortUse::New);
        (inbound.is_ok(), outbound.is_ok())
    }

    #[test]
    fn only_members_pass_and_only_as_long_as_they_are() {
        let (member, stranger) = (Identity::ephemeral().peer_id(), Identity::ephemeral().peer_id());
        let (members, mut gate) = gate(&[member]);
        assert_eq!(admits(&mut gate, member), (true, true));
        assert_eq!(admits(&mut gate, stranger), (false, false));
        members.send_replace(MemberMap::default());
        assert_eq!(admits(&mut gate, member), (false, false));
    }

    #[test]
    fn strangers_in_their_handshake_are_limited() {
        let (_members, mut gate) = gate(&[]);
        let addr = Multiaddr::empty();
        let mut pending = |n| gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(n), &addr, &addr);
        for n in 0..PENDING_INBOUND_MAX {
            assert!(pending(n).is_ok());
        }
        assert!(pending(PENDING_INBOUND_MAX).is_err());
        let stranger = Identity::ephemeral().peer_id();
        let first = ConnectionId::new_unchecked(0);
        assert!(gate.handle_established_inbound_connection(first, stranger.id(), &addr, &addr).is_err());
        assert!(gate.handle_pending_inbound_connection(first, &addr, &addr).is_ok(), "a place is free again");
    }
}
