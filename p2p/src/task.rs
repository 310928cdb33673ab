//! The loop that keeps the links: drives the swarm, feeds every member's state machine and does what it says. Owns the
//! sockets and the heartbeats' tasks; moves none of the streams' data.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, Stream, Swarm};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use crate::addressing::{now_ms, without_key};
use crate::backoff::Backoff;
use crate::behaviour::{HeartbeatOpened, Line, LinkBehaviour, MemberMap, decides};
use crate::discovery::Discovery;
use crate::handler::OpenRequest;
use crate::heartbeat::{self, Pulse, Timing};
use crate::hello::Purpose;
use crate::inbound::InboundQueue;
use crate::links::Published;
use crate::node_behaviour::{Event, NodeBehaviour};
use crate::peer::{Action, Peer, Role, Windows};
use crate::{
    AddressBook, DownCause, Identity, LinkConfig, PeerAddr, PeerKey, PeerState, PeerStates, StartError, transport,
};

/// First answers of heartbeats on their way to the loop; each connection sends one.
const CONFIRMED_QUEUE_MAX: usize = 64;

/// Why the links ended.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// A listener is gone; without it others can't reach this node. Start the links again.
    #[error("the listener on {addrs} ended: {reason}; start the links again")]
    ListenerEnded {
        /// Where it listened.
        addrs: String,
        /// What the system said.
        reason: String,
    },
}

/// Where the loop tells what it knows.
pub(crate) struct Outlet {
    pub(crate) published: Arc<Published>,
    pub(crate) states: watch::Sender<PeerStates>,
    pub(crate) book: watch::Sender<Arc<AddressBook>>,
}

/// Drives the links. Dropping it closes every connection.
pub struct LinksTask {
    pub(crate) swarm: Swarm<NodeBehaviour>,
    local: PeerKey,
    pub(crate) config: LinkConfig,
    members: watch::Receiver<MemberMap>,
    /// The members as the state machines know them.
    pub(crate) known: MemberMap,
    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    /// Where members may be; holds none but members.
    pub(crate) book: AddressBook,
    /// Where the standing connections that this node dialled lead.
    pub(crate) dialled: HashMap<ConnectionId, PeerAddr>,
    /// Addresses at which a member was looked for and another node found.
    pub(crate) avoided: HashMap<PeerKey, HashSet<Multiaddr>>,
    pub(crate) outlet: Outlet,
    pub(crate) listening: HashMap<ListenerId, Vec<PeerAddr>>,
    pub(crate) work: JoinSet<Done>,
    heartbeats: HashMap<ConnectionId, AbortHandle>,
    confirmed_sender: mpsc::Sender<(PeerKey, ConnectionId)>,
    confirmed: mpsc::Receiver<(PeerKey, ConnectionId)>,
}

/// How a task that the loop started ended.
pub(crate) enum Done {
    Heartbeat(PeerKey, ConnectionId, DownCause),
    Resolved(PeerKey, Vec<Multiaddr>),
}

pub(crate) async fn start(
    identity: &Identity,
    config: LinkConfig,
    members: watch::Receiver<MemberMap>,
    queue: InboundQueue,
    outlet: Outlet,
) -> Result<LinksTask, StartError> {
    let local = identity.peer_id();
    let transport =
        transport::build(identity.keypair(), &config).map_err(|error| StartError::Encryption(error.to_string()))?;
    let behaviour = NodeBehaviour {
        gate: LinkBehaviour::new(local, members.clone(), queue, config.open_timeout),
        discovery: discovery(local, &config, &members),
    };
    let swarm = Swarm::new(transport, behaviour, local.id(), swarm_config());
    let (confirmed_sender, confirmed) = mpsc::channel(CONFIRMED_QUEUE_MAX);
    let mut task = LinksTask {
        swarm,
        local,
        book: config.book.clone().reopened(now_ms()),
        config,
        members,
        known: MemberMap::default(),
        peers: BTreeMap::new(),
        dialled: HashMap::new(),
        avoided: HashMap::new(),
        outlet,
        listening: HashMap::new(),
        work: JoinSet::new(),
        heartbeats: HashMap::new(),
        confirmed_sender,
        confirmed,
    };
    task.listen().await?;
    task.sync_members();
    task.publish();
    task.publish_book();
    Ok(task)
}

impl LinksTask {
    /// Keeps the links until the last [`crate::Links`] is dropped.
    pub async fn run(mut self) -> Result<(), LinksError> {
        loop {
            let now = Instant::now();
            for (key, actions) in self.due(now) {
                self.perform(key, actions);
            }
            self.publish();
            self.publish_book();
            // Without a deadline the branch below is off, so its far moment does not matter.
            let deadline = self.peers.values().filter_map(Peer::next_deadline).min();
            let wake = sleep_until(deadline.unwrap_or(now).into());
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event)?,
                Some((key, id)) = self.confirmed.recv() => self.on_confirmed(key, id),
                Some(done) = self.work.join_next() => {
                    // An error is a heartbeat that was aborted because its connection is gone.
                    if let Ok(done) = done {
                        self.on_done(done);
                    }
                }
                changed = self.members.changed() => match changed {
                    Ok(()) => self.sync_members(),
                    Err(_) => return Ok(()),
                },
                () = wake, if deadline.is_some() => {}
            }
        }
    }

    fn due(&mut self, now: Instant) -> Vec<(PeerKey, Vec<Action>)> {
        self.peers.iter_mut().map(|(key, peer)| (*key, peer.tick(now))).collect()
    }

    pub(crate) fn on_swarm_event(&mut self, event: SwarmEvent<Event>) -> Result<(), LinksError> {
        match event {
            SwarmEvent::Behaviour(Event::Heartbeat(HeartbeatOpened { peer, connection, stream })) => {
                self.on_greeted(peer, connection, stream);
            }
            SwarmEvent::Behaviour(Event::Sighted(sightings)) => self.on_sighted(sightings),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.publish_connections();
                if endpoint.is_dialer() {
                    let addr = PeerAddr::from_multiaddr(without_key(endpoint.get_remote_address()));
                    self.dialled.insert(connection_id, addr);
                }
                self.on_established(PeerKey::from_id(peer_id), connection_id, endpoint.is_dialer());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.publish_connections();
                self.dialled.remove(&connection_id);
                tracing::debug!(peer = %peer_id, %connection_id, ?cause, "connection closed");
                self.on_lost(PeerKey::from_id(peer_id), connection_id, DownCause::Closed);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer_id), error, .. } => {
                self.on_dial_failed(PeerKey::from_id(peer_id), &error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening.entry(listener_id).or_default().push(PeerAddr::from_multiaddr(address));
                self.publish_listening();
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => {
                let expired = PeerAddr::from_multiaddr(address);
                self.listening.entry(listener_id).or_default().retain(|addr| *addr != expired);
                self.publish_listening();
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                let addrs = addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>().join(", ");
                let reason = reason.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                return Err(LinksError::ListenerEnded { addrs, reason });
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a connection could not be accepted; is the limit of open files reached?");
            }
            _ => {}
        }
        Ok(())
    }

    fn on_established(&mut self, key: PeerKey, id: ConnectionId, by_us: bool) {
        // The gate may have read a newer member set than this loop has.
        self.sync_members();
        let line = self.swarm.behaviour_mut().gate.take_line(id);
        match (self.peers.get_mut(&key), line) {
            (Some(peer), Some(line)) => {
                let actions = peer.established(id, by_us, line, Instant::now());
                self.perform(key, actions);
            }
            _ => {
                self.swarm.close_connection(id);
            }
        }
    }

    fn on_greeted(&mut self, key: PeerKey, id: ConnectionId, stream: Stream) {
        let Some(pulse) = self.peers.get_mut(&key).and_then(|peer| peer.greeted(id)) else {
            self.swarm.close_connection(id);
            return;
        };
        self.start_heartbeat(key, id, pulse, async move { Ok(stream) });
    }

    fn on_confirmed(&mut self, key: PeerKey, id: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&key) {
            let actions = peer.confirmed(id, Instant::now());
            self.note_good(key, id);
            self.perform(key, actions);
        }
    }

    fn on_lost(&mut self, key: PeerKey, id: ConnectionId, cause: DownCause) {
        self.forget_heartbeat(id);
        if let Some(peer) = self.peers.get_mut(&key) {
            let actions = peer.lost(id, cause, Instant::now());
            self.perform(key, actions);
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Heartbeat(key, id, cause) => {
                self.swarm.close_connection(id);
                self.on_lost(key, id, cause);
            }
            // It may have been removed while its name was looked up.
            Done::Resolved(key, addrs) if self.peers.contains_key(&key) => self.dial(key, addrs),
            Done::Resolved(..) => {}
        }
    }

    fn perform(&mut self, key: PeerKey, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Dial => self.start_dial(key),
                Action::Close(id) => {
                    self.forget_heartbeat(id);
                    self.swarm.close_connection(id);
                }
                Action::Greet(id, line, pulse) => self.start_heartbeat(key, id, pulse, open_heartbeat(line)),
            }
        }
    }

    fn start_heartbeat<F>(&mut self, key: PeerKey, id: ConnectionId, pulse: Arc<Pulse>, stream: F)
    where
        F: Future<Output = Result<Stream, DownCause>> + Send + 'static,
    {
        let timing = Timing { interval: self.config.heartbeat_interval, silent_after: self.config.silent_after };
        let confirmed = self.confirmed_sender.clone();
        let beating = async move {
            let stream = match stream.await {
                Ok(stream) => stream,
                Err(cause) => return Done::Heartbeat(key, id, cause),
            };
            let (up, is_up) = oneshot::channel();
            let announce = async {
                if is_up.await.is_ok() {
                    let _ = confirmed.send((key, id)).await;
                }
            };
            let (cause, ()) = tokio::join!(heartbeat::run(stream, timing, pulse, up), announce);
            Done::Heartbeat(key, id, cause)
        };
        let handle = self.work.spawn(beating);
        if let Some(older) = self.heartbeats.insert(id, handle) {
            older.abort();
        }
    }

    fn forget_heartbeat(&mut self, id: ConnectionId) {
        if let Some(heartbeat) = self.heartbeats.remove(&id) {
            heartbeat.abort();
        }
    }

    /// Brings the state machines in line with the newest member set.
    fn sync_members(&mut self) {
        let members = Arc::clone(&self.members.borrow_and_update());
        if Arc::ptr_eq(&members, &self.known) {
            return;
        }
        let now = Instant::now();
        let removed: Vec<_> = self.peers.keys().filter(|key| !members.contains_key(key)).copied().collect();
        for key in removed {
            self.remove_peer(key);
        }
        for (key, addrs) in members.iter() {
            if self.known.get(key) == Some(addrs) {
                continue;
            }
            let has_addrs = self.describe(*key, addrs);
            match self.peers.get_mut(key) {
                Some(peer) => {
                    self.avoided.remove(key);
                    peer.addrs_changed(has_addrs, now);
                }
                None => {
                    let peer = self.new_peer(*key, has_addrs, now);
                    self.peers.insert(*key, peer);
                }
            }
        }
        self.book.retain(|key| members.contains_key(&key));
        self.known = members;
    }

    fn new_peer(&self, key: PeerKey, has_addrs: bool, now: Instant) -> Peer {
        let role = if decides(self.local, key) { Role::Decides } else { Role::Follows };
        let windows = Windows { standby: self.config.standby_window(), confirm: self.config.silent_after };
        let backoff = Backoff::new(self.config.redial_min, self.config.redial_max, rand::random());
        Peer::new(role, windows, backoff, has_addrs, now)
    }

    fn remove_peer(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        for id in peer.connection_ids() {
            self.forget_heartbeat(id);
        }
        self.avoided.remove(&key);
        // All of them, those still in their handshake as well.
        let _ = self.swarm.disconnect_peer_id(key.id());
        tracing::info!(peer = %key, "peer is no member any more");
    }

    fn publish_connections(&self) {
        let counts = self.swarm.behaviour().gate.connection_counts();
        self.outlet.published.connections.store(Arc::new(counts));
    }

    /// Tells the handles what changed, and the log what an operator wants to know.
    fn publish(&self) {
        let states: BTreeMap<PeerKey, PeerState> = self.peers.iter().map(|(key, peer)| (*key, peer.state())).collect();
        let states = PeerStates::new(states);
        if *self.outlet.states.borrow() == states {
            return;
        }
        let line = |(key, peer): (&PeerKey, &Peer)| peer.line().map(|line| (*key, line.clone()));
        let live: HashMap<PeerKey, Line> = self.peers.iter().filter_map(line).collect();
        // First the table, then the news: whoever hears "up" can open a stream.
        self.outlet.published.live.store(Arc::new(live));
        let before = self.outlet.states.send_replace(states.clone());
        for (key, state) in states.iter() {
            match state {
                PeerState::Up { .. } if !before.is_up(key) => tracing::info!(peer = %key, "peer up"),
                PeerState::Down { cause, .. } if before.is_up(key) => tracing::warn!(peer = %key, %cause, "peer down"),
                _ => {}
            }
        }
    }
}

impl Drop for LinksTask {
    fn drop(&mut self) {
        let since = Instant::now();
        let down = PeerState::Down { since, cause: DownCause::Closed };
        self.outlet.published.live.store(Arc::default());
        self.outlet.published.connections.store(Arc::default());
        self.outlet.states.send_replace(PeerStates::new(self.peers.keys().map(|key| (*key, down)).collect()));
    }
}

/// mDNS is a help, not a need: a machine without multicast still dials what it knows.
fn discovery(local: PeerKey, config: &LinkConfig, members: &watch::Receiver<MemberMap>) -> Option<Box<Discovery>> {
    if !config.discovers() {
        return None;
    }
    Discovery::new(local, members.clone())
        .inspect_err(|error| tracing::warn!(%error, "mDNS is not available; members are found by their addresses only"))
        .ok()
        .map(Box::new)
}

fn swarm_config() -> libp2p::swarm::Config {
    // Lazy: the protocol's name travels with the hello, which saves a round trip for every stream opened.
    libp2p::swarm::Config::with_tokio_executor().with_substream_upgrade_protocol_override(upgrade::Version::V1Lazy)
}

async fn open_heartbeat(line: Line) -> Result<Stream, DownCause> {
    let (reply, answer) = oneshot::channel();
    let request = OpenRequest { purpose: Purpose::Heartbeat, reply };
    // The connection bounds both waits: it ends the negotiation at its deadline, or it ends itself.
    line.requests.send(request).await.map_err(|_| DownCause::Closed)?;
    match answer.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(_)) => Err(DownCause::NotConfirmed),
        Err(_) => Err(DownCause::Closed),
    }
}
