//! One life of a node: the product's member, router and sessions, on a host's runtime, over the world's network and disk. All of
//! a node but its sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iris_appliance::auth::token::Login;
use iris_appliance::cluster::meta::NodeRecord;
use iris_appliance::cluster::{
    Leaderships, Member, MemberOptions, MetaState, PeerTransport, RaftTiming, RetentionSettings, peek,
};
use iris_appliance::disk::Disk;
use iris_appliance::edge::EdgeOptions;
use iris_appliance::edge::testing::Node as Sessions;
use iris_appliance::routing::{Router, RouterParts};
use iris_appliance::supervise::Supervisor;
use iris_appliance::surroundings::Surroundings;
use iris_protocol::{DeviceId, NodeId, UserId};
use iris_store::warm::Engine;
use iris_store::{LogOptions, RaftLog, StoreOptions};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::disk::Mounted;
use super::net::{Arrival, NodeAcceptor, NodeTransport};
use super::time::HostTime;

/// What a node is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Raft's clocks.
    pub timing: RaftTiming,
    /// Between checkpoints.
    pub checkpoint_every: Duration,
    /// How long what was received is kept.
    pub keep: Duration,
    /// Bytes of log kept: little makes snapshots common.
    pub log_bytes_max: u64,
    /// Bounds of memory.
    pub store: StoreOptions,
    /// The warm tier.
    pub engine: Engine,
}

/// How a node came to be one.
#[derive(Clone)]
pub struct Place {
    /// Its id.
    pub node: NodeId,
    /// What others know of it.
    pub record: NodeRecord,
    /// Who else there was.
    pub members: BTreeMap<NodeId, NodeRecord>,
    /// What the cluster was founded with, if this node was there.
    pub founding: Option<MetaState>,
}

/// What a node is started with.
pub struct Life {
    /// Who it is.
    pub place: Place,
    /// How it is configured.
    pub settings: Settings,
    /// Its host's clock.
    pub time: HostTime,
    /// To the others.
    pub transport: NodeTransport,
    /// From the others.
    pub acceptor: NodeAcceptor,
    /// From clients.
    pub clients: mpsc::Receiver<Arrival>,
    /// Wall clock, random source, and the log's disk.
    pub surroundings: Surroundings,
    /// The log's disk again, for its writer.
    pub disk: Arc<Mounted>,
    /// The data folder.
    pub folder: PathBuf,
    /// Where the world looks.
    pub slot: Slot,
}

/// What the world sees of a node's life. Cheap to clone.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Seen>>);

/// What is seen.
#[derive(Default)]
pub struct Seen {
    /// The node, once it runs.
    pub running: Option<Arc<Member>>,
    /// Why it ended, if it did so by itself.
    pub ended: Option<String>,
}

impl Slot {
    /// The node, once it runs.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running.clone()
    }

    /// Why it ended, if it did.
    pub fn ended(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended.clone()
    }

    fn set(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Lets in any name: `user/device`.
fn admit(token: &str) -> Option<Login> {
    let (user, device) = token.split_once('/')?;
    Some(Login { user: UserId::new(user).ok()?, device: Some(DeviceId::new(device).ok()?) })
}

/// No limit on rates, and deadlines as they are by default.
fn edge_options() -> EdgeOptions {
    EdgeOptions {
        messages_per_s: 0,
        messages_burst: 0,
        connections_max: 1_000,
        handshake: Duration::from_secs(10),
        login: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        write: Duration::from_secs(30),
        drain: Duration::from_secs(30),
    }
}

/// Lives until it ends by itself, which it should not.
pub async fn live(life: Life) {
    let (slot, supervisor) = (life.slot.clone(), Supervisor::new());
    let ended = tokio::select! {
        Err(error) = run(life, &supervisor) => format!("{error:#}"),
        why = supervisor.fatal() => why,
    };
    slot.set(|seen| seen.ended = Some(ended));
}

async fn run(life: Life, supervisor: &Supervisor) -> anyhow::Result<std::convert::Infallible> {
    let log = open_log(&life, supervisor)?;
    let transport: Arc<dyn PeerTransport> = Arc::new(life.transport);
    let (place, settings) = (life.place, life.settings);
    let meta_path = life.folder.join("meta");
    let known = peek(&meta_path)?.map(|state| state.nodes).filter(|nodes| nodes.contains_key(&place.node));
    let settled = known.is_some();
    let record = place.record.clone();
    let options = MemberOptions {
        node: place.node,
        describe: Arc::new(move || record.clone()),
        roster: watch::Sender::new(known.unwrap_or(place.members)),
        meta_path,
        log,
        warm: iris_store::warm::open(settings.engine, &life.folder)?,
        store: settings.store,
        checkpoint_every: settings.checkpoint_every,
        retention: RetentionSettings { keep: settings.keep, device_expiry: Duration::from_secs(30 * 24 * 3600) },
        timing: settings.timing,
        transport: transport.clone(),
        acceptor: Box::new(life.acceptor),
        surroundings: life.surroundings.clone(),
        founding: place.founding,
        settled,
        snapshot_dir: life.folder.join("snapshots"),
        log_bytes_max: settings.log_bytes_max,
        disk: Disk::default(),
    };
    let member = Arc::new(Member::start(options, supervisor, &CancellationToken::new()).await?);
    let router = route(&member, &life.surroundings, supervisor)?;
    balance(&member, transport, supervisor);
    life.slot.set(|seen| seen.running = Some(member));
    let sessions = Sessions::numbered(place.node, admit, router, edge_options(), life.surroundings);
    serve(Arc::new(sessions), life.clients, life.time).await;
    anyhow::bail!("the door was closed")
}

fn open_log(life: &Life, supervisor: &Supervisor) -> anyhow::Result<RaftLog> {
    let options = LogOptions::bounded(life.folder.join("log"), life.settings.log_bytes_max);
    let log = life.surroundings.log_disk.open(options)?;
    let writer = life.disk.writer();
    supervisor.spawn_critical("log writer", |_| async move {
        if let Some(writer) = writer {
            writer.run().await;
        }
        anyhow::bail!("it ended")
    });
    Ok(log)
}

fn route(member: &Arc<Member>, surroundings: &Surroundings, supervisor: &Supervisor) -> anyhow::Result<Router> {
    let state = member.meta_view.borrow().clone();
    let state = state.ok_or_else(|| anyhow::anyhow!("the cluster is not founded"))?;
    let parts = RouterParts {
        node: member.node,
        meta: member.meta_view.clone(),
        shards: member.shards.clone(),
        clients: member.clients.clone(),
        random: surroundings.random.clone(),
    };
    let (router, uplinks) = Router::new(parts, &state);
    for mut uplink in uplinks {
        supervisor.spawn_critical(uplink.name(), move |stop| async move {
            uplink.run(&stop).await;
            Ok(())
        });
    }
    let (following, shards) = (router.clone(), member.shards.clone());
    supervisor.spawn_critical("routes", move |stop| async move {
        following.follow(shards, &stop).await;
        Ok(())
    });
    Ok(router)
}

fn balance(member: &Arc<Member>, transport: Arc<dyn PeerTransport>, supervisor: &Supervisor) {
    let leaderships = Leaderships {
        node: member.node,
        shards: member.shards.clone(),
        meta: member.meta_view.clone(),
        clients: member.clients.clone(),
        transport,
        partitions: member.partitions.clone(),
        disk: Disk::default(),
        meta_raft: member.meta.clone(),
    };
    supervisor.spawn_critical("leader balance", move |stop| async move {
        leaderships.balance(&stop).await;
        Ok(())
    });
}

async fn serve(sessions: Arc<Sessions<Router>>, mut arrivals: mpsc::Receiver<Arrival>, time: HostTime) {
    while let Some(arrival) = arrivals.recv().await {
        let sessions = sessions.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(time.instant(arrival.at_ms)).await;
            sessions.serve(arrival.end.on(time)).await;
        });
    }
}
