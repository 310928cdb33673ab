//! A world: machines that live in lockstep on one thread, step by step along one line of time, and what happens to them. Owns
//! who is alive; what is checked is the invariants' business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iris_appliance::blocking;
use iris_appliance::cluster::meta::admission::{SecretHash, TokenId};
use iris_appliance::cluster::meta::{DedupSettings, Leaf, MetaOutcome, MetaState, NodeRecord, Pki, Secret};
use iris_appliance::cluster::placement::{first_layout, first_vnodes};
use iris_appliance::cluster::{Member, MetaCall, testing};
use iris_appliance::surroundings::{RandomSource, Surroundings};
use iris_p2p::Identity;
use iris_protocol::{DeviceId, NodeId, UserId};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::time::Duration;

use super::book::Book;
use super::client::{self, Nodes, Parts, Sending};
use super::disk::{Disk, Loss};
use super::host::Host;
use super::net::{CLIENTS, HostId, Net, NodeAcceptor, NodeTransport};
use super::node::{self, Life, Place, Slot};
use super::plan::{Fault, Plan};
use super::time::{SimClock, Skew};
use super::trace::Trace;
use crate::seed::rng;

/// A machine for a node.
pub struct Machine {
    /// Its place in the cluster.
    pub place: Place,
    disk: Disk,
    host: Option<Host>,
    slot: Slot,
    skew: Skew,
    paused: bool,
}

impl Machine {
    /// The node on it, while it runs.
    #[must_use]
    pub fn member(&self) -> Option<Arc<Member>> {
        self.host.as_ref().filter(|_| !self.paused)?;
        self.slot.member()
    }
}

/// The world.
pub struct World {
    /// What will happen.
    pub plan: Plan,
    /// What clients know.
    pub book: Book,
    /// The machines, in the order they came.
    pub machines: Vec<Machine>,
    /// The time.
    pub now_ms: u64,
    net: Net,
    clients: Host,
    nodes: Nodes,
    trace: Trace,
    rng: StdRng,
    boots: u64,
    folder: PathBuf,
    /// Places that a node was given by the cluster, and that no machine has taken yet.
    admitted: Arc<std::sync::Mutex<Vec<Place>>>,
    joining: Vec<Joining>,
    tokens: u64,
}

/// A node that is to be let in.
#[derive(Clone)]
struct Joining {
    token: u64,
    record: NodeRecord,
    asked_at_ms: u64,
}

/// After this long another node is asked to let it in: the first may have died with the answer.
const ASK_AGAIN_MS: u64 = 10_000;

/// A node's own random source.
struct NodeRandom(std::sync::Mutex<StdRng>);

impl RandomSource for NodeRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next_u64()
    }
}

/// How long blocking work takes on any node.
fn blocking_times() -> blocking::Times {
    let draw = || Duration::from_millis(rand::rng().random_range(0..4));
    blocking::Times { before: draw(), after: draw() }
}

impl World {
    /// A world at its beginning; its disks lie in `folder`.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new(plan: Plan, folder: &Path, trace: Trace) -> anyhow::Result<Self> {
        blocking::in_place(blocking_times);
        let net = Net::new(plan.weather, rng(plan.seed, "net"), trace.clone());
        let clients = Host::boot(0)?;
        drop(net.boot(CLIENTS));
        let mut world = Self {
            book: Book::new(trace.clone()),
            machines: Vec::new(),
            now_ms: 0,
            net,
            clients,
            nodes: Nodes::default(),
            trace,
            rng: rng(plan.seed, "world"),
            boots: 0,
            folder: folder.to_owned(),
            admitted: Arc::default(),
            joining: Vec::new(),
            tokens: 0,
            plan,
        };
        let founders: Vec<NodeId> = (1..=world.plan.founders).map(NodeId).collect();
        let founding = founding(&founders, world.plan.shards);
        for node in founders {
            let record = founding.nodes[&node].clone();
            let members = founding.nodes.clone();
            world.add_machine(Place { node, record, members, founding: Some(founding.clone()) })?;
        }
        world.begin_clients();
        Ok(world)
    }

    fn add_machine(&mut self, place: Place) -> anyhow::Result<()> {
        let disk = Disk::new(self.folder.join(format!("n{}", place.node)))?;
        disk.set_fsync_ms(self.plan.fsync_ms);
        self.nodes.add(place.node);
        let (slot, skew) = (Slot::default(), Skew::default());
        self.machines.push(Machine { place, disk, host: None, slot, skew, paused: false });
        self.boot(self.machines.len() - 1)
    }

    fn boot(&mut self, which: usize) -> anyhow::Result<()> {
        self.boots += 1;
        let mut seeds = rng(self.plan.seed, &format!("boot {}", self.boots));
        let machine = &mut self.machines[which];
        if machine.host.is_some() {
            return Ok(());
        }
        let host = Host::boot(self.now_ms)?;
        let id = HostId::from(machine.place.node);
        let (from_peers, from_clients) = self.net.boot(id);
        let disk = Arc::new(machine.disk.mount(StdRng::seed_from_u64(seeds.next_u64())));
        machine.slot = Slot::default();
        machine.paused = false;
        host.spawn(node::live(Life {
            place: machine.place.clone(),
            settings: self.plan.settings.clone(),
            time: host.time(),
            transport: NodeTransport::new(self.net.clone(), id, host.time()),
            acceptor: NodeAcceptor::new(from_peers, host.time()),
            clients: from_clients,
            surroundings: Surroundings {
                clock: Arc::new(SimClock::new(host.time(), machine.skew.clone())),
                random: Arc::new(NodeRandom(StdRng::seed_from_u64(seeds.next_u64()).into())),
                log_disk: disk.clone(),
            },
            disk,
            folder: machine.disk.folder().to_owned(),
            slot: machine.slot.clone(),
        }));
        machine.host = Some(host);
        self.trace.note(self.now_ms, &format_args!("boot {}", id.0));
        Ok(())
    }

    fn crash(&mut self, which: usize, loss: Loss) -> anyhow::Result<()> {
        let machine = &mut self.machines[which];
        let Some(host) = machine.host.take() else { return Ok(()) };
        machine.disk.crash(loss, &mut self.rng)?;
        self.net.die(machine.place.node.into(), loss != Loss::Nothing);
        machine.slot = Slot::default();
        drop(host);
        Ok(())
    }

    fn pause(&mut self, which: usize, paused: bool) {
        let machine = &mut self.machines[which];
        if machine.host.is_none() || machine.paused == paused {
            return;
        }
        machine.paused = paused;
        self.net.pause(machine.place.node.into(), paused);
        if let Some(host) = machine.host.as_mut().filter(|_| !paused) {
            host.skip(self.now_ms);
        }
    }

    /// Everyone lives one step further.
    ///
    /// # Errors
    /// A node ended by itself: nothing it met here is a reason to.
    pub fn step(&mut self) -> anyhow::Result<()> {
        self.now_ms += self.plan.tick_ms;
        self.net.tick(self.now_ms);
        for machine in &mut self.machines {
            if let Some(host) = machine.host.as_mut().filter(|_| !machine.paused) {
                host.live(self.now_ms);
            }
        }
        self.clients.live(self.now_ms);
        for machine in &self.machines {
            if let Some(why) = machine.slot.ended() {
                anyhow::bail!("node {} ended by itself: {why}", machine.place.node);
            }
        }
        self.join_next()
    }

    /// Something happens.
    ///
    /// # Errors
    /// The system's.
    pub fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.trace.note(self.now_ms, &format_args!("{fault:?}"));
        let at = |node: u64| usize::try_from(node).unwrap_or(0) % self.machines.len();
        let id = |node: u64| HostId::from(self.machines[at(node)].place.node);
        match fault {
            Fault::Crash(node, loss) => self.crash(at(node), loss)?,
            Fault::CrashAll(loss) => (0..self.machines.len()).try_for_each(|node| self.crash(node, loss))?,
            Fault::Boot(node) => self.boot(at(node))?,
            Fault::Pause(node) => self.pause(at(node), true),
            Fault::Resume(node) => self.pause(at(node), false),
            Fault::Cut(from, to) => self.net.cut(id(from), id(to), true),
            Fault::Uncut(from, to) => self.net.cut(id(from), id(to), false),
            Fault::Isolate(node) => {
                for other in (0..self.machines.len() as u64).filter(|other| at(*other) != at(node)) {
                    self.net.cut(id(node), id(other), true);
                    self.net.cut(id(other), id(node), true);
                }
            }
            Fault::Heal => self.net.heal(),
            Fault::Slow(from, to, ms) => self.net.slow(id(from), id(to), ms),
            Fault::Clock(node, ms) => self.machines[at(node)].skew.set(ms),
            Fault::Disk(node, ms) => self.machines[at(node)].disk.set_fsync_ms(ms),
            Fault::Move(from, to) => self.give_away(at(from), self.machines[at(to)].place.node),
        }
        Ok(())
    }

    /// Ends every fault.
    ///
    /// # Errors
    /// The system's.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.net.heal();
        for which in 0..self.machines.len() {
            self.pause(which, false);
            self.boot(which)?;
            self.machines[which].disk.set_fsync_ms(4);
            // A cluster whose clock went back lets nobody in until it is right again.
            self.machines[which].skew.set(0);
        }
        Ok(())
    }

    /// What one node leads shall be led by another.
    pub fn give_away(&self, from: usize, to: NodeId) {
        let machine = &self.machines[from];
        if machine.place.node == to {
            return;
        }
        if let (Some(host), Some(member)) = (&machine.host, machine.member()) {
            host.spawn(async move { testing::give_away(&member, to).await });
        }
    }

    /// Begins something on the clients' machine.
    pub fn on_clients(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.clients.spawn(task);
    }

    /// What every client has.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            net: self.net.clone(),
            time: self.clients.time(),
            book: self.book.clone(),
            nodes: self.nodes.clone(),
            pace: self.plan.pace,
            trims: self.plan.trims,
        }
    }

    /// Everyone that is written to.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        (0..self.plan.users).filter_map(|user| UserId::new(format!("u{user}")).ok()).collect()
    }

    fn begin_clients(&self) {
        let users = self.users();
        for sender in 0..self.plan.senders {
            let Ok(name) = UserId::new(format!("s{sender}")) else { continue };
            let what = Sending {
                sender: name,
                recipients: users.clone(),
                every_ms: self.plan.every_ms.clone(),
                window: self.plan.window,
                body_len_max: self.plan.body_len_max,
                until_ms: self.plan.calm_again_ms,
            };
            self.on_clients(client::send(self.parts(), what, rng(self.plan.seed, &format!("sender {sender}"))));
        }
        for user in &users {
            let Ok(device) = DeviceId::new("d0") else { continue };
            let draw = rng(self.plan.seed, &format!("reader {user}"));
            self.on_clients(client::read(self.parts(), user.clone(), device, draw));
        }
        self.on_clients(client::probe(self.parts(), users, rng(self.plan.seed, "prober")));
    }

    /// Lets the next node in when its time has come, and gives it a machine once it was let in.
    fn join_next(&mut self) -> anyhow::Result<()> {
        let placed = std::mem::take(&mut *self.admitted.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for place in placed {
            self.joining.retain(|joining| joining.record.key != place.record.key);
            if self.machines.iter().any(|machine| machine.place.node == place.node) {
                continue;
            }
            self.trace.note(self.now_ms, &format_args!("joined {}", place.node));
            self.add_machine(place)?;
        }
        let due = self.plan.joins.iter().filter(|at_ms| **at_ms <= self.now_ms).count() as u64;
        if self.tokens < due {
            self.tokens += 1;
            let (token, record) = (self.tokens, record(&format!("joiner {}", self.tokens)));
            self.joining.push(Joining { token, record, asked_at_ms: 0 });
        }
        self.ask_for_the_joining();
        Ok(())
    }

    fn ask_for_the_joining(&mut self) {
        let running = self.machines.iter().filter_map(|machine| Some((machine.host.as_ref()?, machine.member()?)));
        let running: Vec<_> = running.collect();
        for joining in &mut self.joining {
            let again = joining.asked_at_ms == 0 || self.now_ms >= joining.asked_at_ms + ASK_AGAIN_MS;
            if again && !running.is_empty() {
                joining.asked_at_ms = self.now_ms;
                let (host, member) = &running[self.rng.random_range(0..running.len())];
                let (member, joining, admitted) = (member.clone(), joining.clone(), self.admitted.clone());
                host.spawn(async move { admit(&member, joining, &admitted).await });
            }
        }
    }

    /// Nodes that were to join and have not come yet: their token, or the node that had it, may have gone down with it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.machines.len() as u64 == self.plan.founders + self.plan.joins.len() as u64
    }
}

/// Lets a node in, as the admission does for a token's bearer; again and again until it is.
async fn admit(by: &Member, joining: Joining, admitted: &std::sync::Mutex<Vec<Place>>) {
    const DEADLINE: Duration = Duration::from_secs(5);
    let Joining { token, record, .. } = joining;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&token.to_be_bytes());
    let (id, secret) = (TokenId(token.to_be_bytes()), SecretHash::of(&bytes));
    loop {
        let issue = MetaCall::IssueToken { id, secret: secret.clone(), ttl_ms: 3_600_000 };
        let _ = by.proposals.ask(issue, DEADLINE).await;
        let join = MetaCall::Join { token: id, secret: secret.clone(), record: record.clone() };
        if let Ok(MetaOutcome::Joined(node)) = by.proposals.ask(join, DEADLINE).await {
            let state = by.meta_view.borrow().clone();
            let mut members = state.map(|state| state.nodes.clone()).unwrap_or_default();
            members.insert(node, record.clone());
            let place = Place { node, record, members, founding: None };
            admitted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(place);
            return;
        }
        crate::wait::let_pass(Duration::from_millis(200)).await;
    }
}

fn record(name: &str) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        key: Identity::ephemeral().peer_id(),
        p2p: Vec::new(),
        client: format!("{name}:8443"),
    }
}

/// A cluster without secrets: nobody in a world looks at certificates.
fn founding(nodes: &[NodeId], shards: u16) -> MetaState {
    MetaState {
        cluster: "sim".to_owned(),
        pki: Pki {
            ca_cert_pem: String::new(),
            ca_key_pem: Secret::new(String::new()),
            ca_until_ms: 0,
            leaf: Leaf { cert_pem: String::new(), names: Vec::new(), until_ms: 0 },
            leaf_key_pem: Secret::new(String::new()),
        },
        token_keys: Vec::new(),
        nodes: nodes.iter().map(|node| (*node, record(&format!("n{node}")))).collect::<BTreeMap<_, _>>(),
        shards: first_layout(nodes, shards),
        vnodes: first_vnodes(shards),
        dedup: DedupSettings { window_ms: 8 * 24 * 3_600_000, keys_max: 10_000_000 },
        admissions: Default::default(),
    }
}
