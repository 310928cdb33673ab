//! The swarm's behaviour: the gate, and discovery where it is wanted. Owns no rule, it joins the two.
//!
//! Written out instead of derived: the derived one would wrap every connection's handler, and the other part's default
//! deadline of 10 s for opening a stream would replace ours.

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::behaviour::{HeartbeatOpened, LinkBehaviour};
use crate::discovery::{Discovery, Sighting};
use crate::handler::Handler;

#[derive(Debug)]
pub(crate) enum Event {
    Heartbeat(HeartbeatOpened),
    Sighted(Vec<Sighting>),
}

pub(crate) struct NodeBehaviour {
    pub(crate) gate: LinkBehaviour,
    /// In a box: most nodes of a test and all behind a router have none, and it is large.
    pub(crate) discovery: Option<Box<Discovery>>,
}

impl NetworkBehaviour for NodeBehaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.gate.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.gate.handle_established_inbound_connection(connection, peer, local, remote)
    }

    // The dialled addresses come from the address book alone, so discovery is not asked for more.

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.gate.handle_established_outbound_connection(connection, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.gate.on_swarm_event(event);
        if let Some(discovery) = &mut self.discovery {
            discovery.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: <Handler as ConnectionHandler>::ToBehaviour,
    ) {
        self.gate.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        if let Poll::Ready(event) = self.gate.poll(cx) {
            return Poll::Ready(event.map_out(Event::Heartbeat));
        }
        if let Some(discovery) = &mut self.discovery
            && let Poll::Ready(sightings) = discovery.poll(cx)
        {
            return Poll::Ready(ToSwarm::GenerateEvent(Event::Sighted(sightings)));
        }
        Poll::Pending
    }
}
