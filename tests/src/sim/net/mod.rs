//! The network of a world: byte streams between hosts, with latency, and links that can be cut in one direction or both. A link
//! behaves as the real ones do: what is cut is held back, not lost; after some silence both sides take the link for dead and
//! every stream on it breaks; once healed it comes up again a moment later.

mod doubling;
mod pipe;
mod transport;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use iris_appliance::cluster::Channel;
use iris_protocol::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::time::HostTime;
use super::trace::Trace;
use pipe::Flow;
pub use pipe::PipeEnd;
pub use transport::{NodeAcceptor, NodeTransport};

/// A host's number: nodes have their id's, the clients' machine is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u64);

/// The machine all clients run on.
pub const CLIENTS: HostId = HostId(0);

impl From<NodeId> for HostId {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

/// A silence after which a link is taken for dead; the real links' heartbeats take as long.
const DEAD_AFTER_MS: u64 = 2_500;

/// Between a heal and the new link.
const REDIAL_MS: std::ops::Range<u64> = 100..1_000;

/// Connections that may wait at one host's door.
const DOOR_LEN_MAX: usize = 256;

/// How slow the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shortest way of a byte; not under the world's tick, or an answer could come before its question.
    pub latency_min_ms: u64,
    /// What comes on top, at most.
    pub jitter_ms: u64,
    /// Of a thousand requests between nodes, so many arrive twice.
    pub doubled_per_mille: u32,
}

/// A stream that somebody opened.
pub struct Arrival {
    /// Who did.
    pub from: HostId,
    /// What for; nothing for a client's.
    pub channel: Option<Channel>,
    /// When it is heard of.
    pub at_ms: u64,
    /// The far end.
    pub end: PipeEnd,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

struct State {
    weather: Weather,
    rng: StdRng,
    trace: Trace,
    hosts: BTreeMap<HostId, HostState>,
    /// Directions that let nothing through.
    cut: std::collections::BTreeSet<(HostId, HostId)>,
    /// Extra latency of slow directions.
    slow: BTreeMap<(HostId, HostId), u64>,
    links: BTreeMap<(HostId, HostId), Link>,
    next_pipe: u64,
}

#[derive(Default)]
struct HostState {
    alive: bool,
    /// Lost its power, or was stopped: says nothing, not even that it is gone.
    silent: bool,
    peers: Option<mpsc::Sender<Arrival>>,
    clients: Option<mpsc::Sender<Arrival>>,
}

#[derive(Default)]
struct Link {
    up: bool,
    /// Since when it is otherwise than `up` says.
    differs_since: Option<u64>,
    redial_ms: u64,
    flows: Vec<(u64, Weak<Mutex<Flow>>)>,
}

/// A pair in order.
fn pair(one: HostId, other: HostId) -> (HostId, HostId) {
    (one.min(other), one.max(other))
}

impl Net {
    /// A network without hosts.
    pub fn new(weather: Weather, rng: StdRng, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            weather,
            rng,
            trace,
            hosts: BTreeMap::new(),
            cut: Default::default(),
            slow: BTreeMap::new(),
            links: BTreeMap::new(),
            next_pipe: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host comes up; whoever had streams to what it was before learns that they are broken.
    pub fn boot(&self, host: HostId) -> (mpsc::Receiver<Arrival>, mpsc::Receiver<Arrival>) {
        self.break_links(host);
        let (peers, from_peers) = mpsc::channel(DOOR_LEN_MAX);
        let (clients, from_clients) = mpsc::channel(DOOR_LEN_MAX);
        let new = HostState { alive: true, silent: false, peers: Some(peers), clients: Some(clients) };
        self.state().hosts.insert(host, new);
        (from_peers, from_clients)
    }

    /// A host dies; `silently` if its power goes: then the others only stop hearing from it.
    pub fn die(&self, host: HostId, silently: bool) {
        if let Some(state) = self.state().hosts.get_mut(&host) {
            *state = HostState { alive: false, silent: silently, peers: None, clients: None };
        }
        if !silently {
            self.break_links(host);
        }
    }

    /// A host is stopped, or goes on.
    pub fn pause(&self, host: HostId, paused: bool) {
        if let Some(state) = self.state().hosts.get_mut(&host) {
            state.silent = paused;
        }
    }

    /// Lets nothing through in one direction, or everything again.
    pub fn cut(&self, from: HostId, to: HostId, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
        let wakers = state.wakers_of(pair(from, to));
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes a direction slower.
    pub fn slow(&self, from: HostId, to: HostId, extra_ms: u64) {
        self.state().slow.insert((from, to), extra_ms);
    }

    /// Everything gets through again.
    pub fn heal(&self) {
        let cut: Vec<_> = self.state().cut.iter().copied().collect();
        for (from, to) in cut {
            self.cut(from, to, false);
        }
        self.state().slow.clear();
    }

    /// Links notice, each in its time, what has become of them.
    pub fn tick(&self, now_ms: u64) {
        let mut state = self.state();
        let hosts: Vec<HostId> = state.hosts.keys().copied().collect();
        let mut broken = Vec::new();
        for (at, one) in hosts.iter().enumerate() {
            for other in &hosts[at + 1..] {
                if state.link_tick((*one, *other), now_ms) {
                    broken.push((*one, *other));
                }
            }
        }
        drop(state);
        for link in broken {
            self.break_link(link);
        }
    }

    fn break_links(&self, host: HostId) {
        let links: Vec<_> = self.state().links.keys().copied().filter(|(a, b)| *a == host || *b == host).collect();
        for link in links {
            self.break_link(link);
        }
    }

    fn break_link(&self, link: (HostId, HostId)) {
        let mut state = self.state();
        let redial_ms = state.rng.random_range(REDIAL_MS);
        let Some(link) = state.links.get_mut(&link) else { return };
        link.up = false;
        link.differs_since = None;
        link.redial_ms = redial_ms;
        let flows = std::mem::take(&mut link.flows);
        drop(state);
        for (_, flow) in flows {
            let Some(flow) = flow.upgrade() else { continue };
            let wakers = pipe::lock(&flow).break_off();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Opens a stream: the near end, or nothing if there is no link.
    fn connect(&self, from: HostId, to: HostId, channel: Option<Channel>, time: HostTime) -> Option<PipeEnd> {
        let mut state = self.state();
        if !state.links.get(&pair(from, to))?.up {
            return None;
        }
        let door = state.hosts.get(&to)?;
        let door = if channel.is_some() { door.peers.clone() } else { door.clients.clone() }?;
        let id = state.next_pipe;
        state.next_pipe += 1;
        let (near, far) = PipeEnd::pair(self, id, (from, to), channel == Some(Channel::Raft));
        let flows = near.flows();
        let link = state.links.get_mut(&pair(from, to))?;
        link.flows.retain(|(_, flow)| flow.strong_count() > 0);
        link.flows.extend(flows.into_iter().map(|flow| (id, flow)));
        let at_ms = time.now_ms() + state.latency(from, to);
        drop(state);
        door.try_send(Arrival { from, channel, at_ms, end: far }).ok()?;
        Some(near.on(time))
    }

    /// A client's connection to a node.
    pub fn connect_client(&self, to: HostId, time: HostTime) -> Option<PipeEnd> {
        self.connect(CLIENTS, to, None, time)
    }

    fn is_up(&self, one: HostId, other: HostId) -> bool {
        self.state().links.get(&pair(one, other)).is_some_and(|link| link.up)
    }
}

impl State {
    fn latency(&mut self, from: HostId, to: HostId) -> u64 {
        let Weather { latency_min_ms, jitter_ms, .. } = self.weather;
        let extra = self.slow.get(&(from, to)).copied().unwrap_or(0);
        latency_min_ms + self.rng.random_range(0..=jitter_ms + extra)
    }

    /// Nothing gets through in this direction.
    fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.cut.contains(&(from, to)) || self.hosts.get(&from).is_some_and(|host| host.silent && !host.alive)
    }

    /// `true` if the link breaks now.
    fn link_tick(&mut self, (one, other): (HostId, HostId), now_ms: u64) -> bool {
        let lives = |host: &HostId| self.hosts.get(host).is_some_and(|host| host.alive && !host.silent);
        let healthy = lives(&one) && lives(&other) && !self.is_cut(one, other) && !self.is_cut(other, one);
        let link = self.links.entry((one, other)).or_default();
        if link.up == healthy {
            link.differs_since = None;
            return false;
        }
        let since = *link.differs_since.get_or_insert(now_ms);
        let lasted_ms = now_ms - since;
        if healthy && lasted_ms >= link.redial_ms {
            link.up = true;
            link.differs_since = None;
            self.trace.note(now_ms, &format_args!("link {} {} up", one.0, other.0));
        }
        !healthy && lasted_ms >= DEAD_AFTER_MS
    }

    fn wakers_of(&self, link: (HostId, HostId)) -> Vec<Waker> {
        let flows = self.links.get(&link).into_iter().flat_map(|link| &link.flows);
        flows.filter_map(|(_, flow)| flow.upgrade().and_then(|flow| pipe::lock(&flow).take_reader())).collect()
    }
}
