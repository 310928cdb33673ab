//! One node from start to exit: opens its disk, links up with its peers, becomes a member, opens its doors; and back, in the
//! order that loses nobody anything: leaderships are handed over, sessions told to go, what is under way is finished, the
//! last checkpoint written. A node whose disk is damaged leaves without writing and lives on in quarantine (`quarantined`).

mod addresses;
mod admin;
mod certificates;
mod founding;
mod members;
mod place;
mod quarantined;
mod scrub;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iris_p2p::{Identity, LinkConfig, Links};
use iris_store::warm::Engine;
use iris_store::{LogOptions, RaftLog, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Door, JoinToken};
use crate::auth::pki;
use crate::cluster::transport::over_links;
use crate::cluster::{Leaderships, Member, MemberKeys, MemberOptions, RaftTiming, RetentionSettings, peek};
use crate::config::Config;
use crate::disk::Disk;
use crate::edge::{Edge, EdgeCounters, EdgeOptions, EdgeParts};
use crate::quarantine::{Damage, DamageWatch, Damaged, Note};
use crate::routing::{Router, RouterParts};
use crate::supervise::Supervisor;
use crate::surroundings::Surroundings;
use crate::welcome;
use addresses::Addresses;
use place::Place;

/// The meta group's checkpoint, in the data folder.
const META_FILE: &str = "meta";

/// Longest the tasks may take to end once everything is drained.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Longest the log may take to write what it has.
const LOG_CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest a node waits for its shards to have leaders before it says that it is ready.
const LEADERS_DEADLINE: Duration = Duration::from_secs(5);

/// Longest a node that finds its disk damaged takes to hand over, and again to tell its sessions.
const ABANDON_DEADLINE: Duration = Duration::from_secs(2);

/// Longest a node that has to end waits for the word that its disk is damaged.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(200);

/// A signal this soon after the first is the same one.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_secs(1);

/// Runs a node until SIGINT or SIGTERM. `join` lets it into a cluster, if its data folder is of none yet.
///
/// # Errors
/// It could not start, or had to end: the sentence says why and what to do.
pub async fn run(config: Config, join: Option<JoinToken>, surroundings: Surroundings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = stop.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut signal = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signal().await;
        tracing::info!("stopping: handing over, finishing what is under way (a second signal ends at once)");
        signals.cancel();
        // One keypress may reach a process twice: from the terminal and from what started it.
        let first = tokio::time::Instant::now();
        while first.elapsed() < SECOND_SIGNAL_AFTER {
            signal().await;
        }
        tracing::warn!("ended at once; what was acked is safe");
        std::process::exit(1);
    });
    run_until(config, join, surroundings, stop).await
}

/// Runs a node until `stop` is cancelled.
///
/// # Errors
/// See [`run`].
pub async fn run_until(
    config: Config,
    join: Option<JoinToken>,
    surroundings: Surroundings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (data, mut join) = (&config.node.data, join);
    create_private_folder(data)?;
    crate::disk::make_room(data, config.store.reserve_bytes);
    loop {
        if let Some(note) = Note::load(data)? {
            match Box::pin(quarantined::stay(&config, &note, &surroundings, &stop)).await? {
                quarantined::Ended::Stopped => return Ok(()),
                quarantined::Ended::ComesBack => {}
            }
        }
        let Some(damage) = live(&config, join.take(), &surroundings, &stop).await? else { return Ok(()) };
        if Note::load(data)?.is_none() {
            quarantined::enter(&config, damage, &surroundings)?;
        }
    }
}

/// One life of a node: until it is stopped, or finds its disk damaged (C12).
async fn live(
    config: &Config,
    join: Option<JoinToken>,
    surroundings: &Surroundings,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Damage>> {
    let (supervisor, damage) = (Supervisor::new(), DamageWatch::default());
    let started = tokio::select! {
        started = Box::pin(Node::start(config, join, surroundings.clone(), &supervisor, &damage, stop)) => started,
        why = supervisor.fatal() => Err(anyhow::anyhow!("{why}")),
        found = damage.found() => Err(Damaged(found.what).into()),
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            let found = Damage::in_error(&error).or(last_word(&damage).await);
            supervisor.shut_down(STOP_DEADLINE).await;
            return match found {
                Some(found) => Ok(Some(found)),
                // Stopped before it was up: nothing was served, nothing is owed.
                None if stop.is_cancelled() => Ok(None),
                None => Err(error),
            };
        }
    };
    let found = tokio::select! {
        () = stop.cancelled() => return node.stop(&supervisor).await.map(|()| None),
        found = damage.found() => found,
        why = supervisor.fatal() => match last_word(&damage).await {
            Some(found) => found,
            None => anyhow::bail!("this node had to end: {why}"),
        },
    };
    // Noted before it leaves: a crash on the way out must not bring it back.
    quarantined::enter(config, found.clone(), surroundings)?;
    node.abandon(&supervisor).await;
    Ok(Some(found))
}

/// What was found, if something was: whoever meets damage may end before the watch hears of it.
async fn last_word(damage: &DamageWatch) -> Option<Damage> {
    tokio::time::timeout(LAST_WORD_WITHIN, damage.found()).await.ok()
}

/// A running node.
struct Node {
    member: Arc<Member>,
    leaderships: Arc<Leaderships>,
    edge: Arc<Edge>,
    log: RaftLog,
    /// Cancelled when the edge is to take no more connections.
    drain_edge: CancellationToken,
    drain_deadline: Duration,
}

impl Node {
    async fn start(
        config: &Config,
        join: Option<JoinToken>,
        surroundings: Surroundings,
        supervisor: &Supervisor,
        damage: &DamageWatch,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let data = &config.node.data;
        let begin = admission::begin(config, join)?;
        let admin_socket = crate::admin::bind(data)?;
        let listener = TcpListener::bind(&config.node.listen)
            .await
            .with_context(|| format!("can't listen for clients on {} (node.listen)", config.node.listen))?;

        let identity = Identity::load_or_create(&data.join("identity.key"))?;
        let mut link_config = link_config(config)?;
        link_config.book = members::load_book(data)?;
        let (links, inbound, task) = Links::start(identity, link_config, Vec::new()).await?;
        // Asked for only now that every port is this node's: a start that fails for one uses no token up.
        let own = Addresses::new(config, place::listed_as(&begin, config), listener.local_addr()?, links.clone())?;
        let place = tokio::select! {
            place = Place::find(begin, config, &own, &surroundings) => place?,
            () = stop.cancelled() => anyhow::bail!("stopped before it was let in"),
        };
        // The cluster as it was when this node stopped knows more than the configuration: those that joined, new addresses.
        let known =
            peek(&data.join(META_FILE))?.map(|state| state.nodes).filter(|nodes| nodes.contains_key(&place.node));
        let roster = watch::Sender::new(known.unwrap_or_else(|| place.members.clone()));
        let keys = MemberKeys::default();
        members::follow(supervisor, &roster, place.node, links.clone(), keys.clone());
        let task = Arc::new(Mutex::new(Some(task)));
        supervisor.spawn_critical("peer links", move |stop| async move {
            let Some(task) = task.lock().await.take() else { return Ok(()) };
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = task.run() => Ok(ended?),
            }
        });

        let log = surroundings.log_disk.open(LogOptions::bounded(data.join("log"), config.store.log_bytes_max))?;
        let watched = log.closed();
        supervisor.spawn_critical("log writer", |stop| async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = watched => Err(ended.map_or_else(|| anyhow::anyhow!("it ended"), Into::into)),
            }
        });
        let (watch, watched) = (damage.clone(), log.clone());
        supervisor.spawn("damage of the log", move |stop| {
            let (watch, watched) = (watch.clone(), watched.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watch.follow(&watched) => {}
                }
                Ok(())
            }
        });
        let folders = vec![data.clone(), data.join("log")];
        let disk = crate::disk::spawn(supervisor, folders, log.clone(), config.store.reserve_bytes);
        let (transport, acceptor) = over_links(links.clone(), inbound, keys.clone());
        let (described, warm) = (own.clone(), damage.over(iris_store::warm::open(engine(config)?, data)?));
        scrub::spawn(supervisor, warm.clone(), log.clone(), Duration::from_millis(config.store.scrub_ms));
        let member = Member::start(
            MemberOptions {
                node: place.node,
                describe: Arc::new(move || described.record()),
                roster,
                meta_path: data.join(META_FILE),
                log: log.clone(),
                warm,
                store: StoreOptions { hot_bytes_max: config.store.hot_bytes_max as usize, ..StoreOptions::default() },
                checkpoint_every: Duration::from_millis(config.store.checkpoint_ms),
                retention: RetentionSettings {
                    keep: Duration::from_millis(config.store.retention_ms),
                    device_expiry: Duration::from_millis(config.store.device_expiry_ms),
                },
                timing: RaftTiming {
                    heartbeat_ms: config.raft.heartbeat_ms,
                    election_ms_min: config.raft.election_ms_min,
                    election_ms_max: config.raft.election_ms_max,
                },
                transport: Arc::new(transport),
                acceptor: Box::new(acceptor),
                founding: place.founding.clone(),
                settled: place.is_settled(),
                snapshot_dir: data.join("snapshots"),
                log_bytes_max: config.store.log_bytes_max,
                disk: disk.clone(),
                surroundings: surroundings.clone(),
            },
            supervisor,
            stop,
        )
        .await?;
        let state = member.meta_view.borrow().clone().context("the cluster is not founded")?;
        place.settle(data, &state)?;
        members::keep_book(supervisor, &links, data);
        supervisor.keep(links.clone());
        Self::open_doors(
            config,
            surroundings,
            supervisor,
            Parts { member, log, disk, listener, admin_socket, own, links },
        )
        .await
    }

    async fn open_doors(
        config: &Config,
        surroundings: Surroundings,
        supervisor: &Supervisor,
        parts: Parts,
    ) -> anyhow::Result<Self> {
        let member = Arc::new(parts.member);
        let state = member.meta_view.borrow().clone().context("the cluster is not founded")?;
        let leaderships = Arc::new(Leaderships {
            node: member.node,
            shards: member.shards.clone(),
            meta: member.meta_view.clone(),
            clients: member.clients.clone(),
            transport: member.transport.clone(),
            partitions: member.partitions.clone(),
            disk: parts.disk.clone(),
            meta_raft: member.meta.clone(),
        });
        let balancing = leaderships.clone();
        supervisor.spawn("leader balance", move |stop| {
            let leaderships = balancing.clone();
            async move {
                leaderships.balance(&stop).await;
                Ok(())
            }
        });

        let router_parts = RouterParts {
            node: member.node,
            meta: member.meta_view.clone(),
            shards: member.shards.clone(),
            clients: member.clients.clone(),
            random: surroundings.random.clone(),
        };
        let (router, uplinks) = Router::new(router_parts, &state);
        let (following, shards) = (router.clone(), member.shards.clone());
        supervisor.spawn("routes", move |stop| {
            let (router, shards) = (following.clone(), shards.clone());
            async move {
                router.follow(shards, &stop).await;
                Ok(())
            }
        });
        for uplink in uplinks {
            let (name, uplink) = (uplink.name(), Arc::new(Mutex::new(uplink)));
            supervisor.spawn(name, move |stop| {
                let uplink = uplink.clone();
                async move {
                    uplink.lock().await.run(&stop).await;
                    Ok(())
                }
            });
        }

        // For clients that verify the server by a file (docs/protocol.md, Connection). Public.
        let ca_path = config.node.data.join("ca.pem");
        // Written once: a start on a full disk must not empty it.
        if std::fs::read(&ca_path).ok().as_deref() != Some(state.pki.ca_cert_pem.as_bytes()) {
            std::fs::write(&ca_path, &state.pki.ca_cert_pem)
                .with_context(|| format!("can't write {}", ca_path.display()))?;
        }
        let tls = Arc::new(pki::ServerTls::new(&state.pki)?);
        certificates::spawn(supervisor, tls.clone(), member.proposals.clone(), surroundings.clock.clone());
        let counters = Arc::new(EdgeCounters::default());
        let edge = Edge::new(EdgeParts {
            router,
            meta: member.meta_view.clone(),
            tls: tls.config(),
            options: edge_options(config),
            counters: counters.clone(),
            surroundings: surroundings.clone(),
            node: member.node,
            side_door: Some(Arc::new(Door::new(member.proposals.clone(), member.meta_view.clone()))),
        });
        let drain_edge = CancellationToken::new();
        let (serving, listener, drain) = (edge.clone(), Arc::new(parts.listener), drain_edge.clone());
        supervisor.spawn("client listener", move |_| {
            let (edge, listener, drain) = (serving.clone(), listener.clone(), drain.clone());
            async move { edge.run(&listener, &drain).await }
        });

        let source = Arc::new(admin::NodeAdmin {
            member: member.clone(),
            log: parts.log.clone(),
            disk: parts.disk,
            edge: counters,
            supervisor: supervisor.clone(),
            clock: surroundings.clock.clone(),
            own: parts.own,
            links: parts.links,
        });
        // "Ready" is said when it is so, or when waiting longer would not change it: the health sentence says the rest.
        member.shards.wait_for_leaders(LEADERS_DEADLINE).await;
        let report = crate::admin::AdminSource::status(&*source).await;
        let socket = Arc::new(Mutex::new(Some(parts.admin_socket)));
        supervisor.spawn("admin socket", move |stop| {
            let (socket, source) = (socket.clone(), source.clone());
            async move {
                match socket.lock().await.take() {
                    Some(socket) => crate::admin::serve(socket, source, stop).await,
                    None => anyhow::bail!("the admin socket was lost"),
                }
            }
        });
        let program = crate::system::program();
        // A closed standard output is no reason to stop.
        let _ = writeln!(
            std::io::stdout(),
            "{}",
            welcome::welcome(&report, &program, &config.node.data, config.is_default_data())
        );
        Ok(Self {
            member,
            leaderships,
            edge,
            log: parts.log,
            drain_edge,
            drain_deadline: Duration::from_millis(config.edge.drain_ms),
        })
    }

    /// Leaves because its disk is damaged (C12): leaderships go to the others, sessions are told where to go, and nothing is
    /// written any more. What is committed meanwhile is so on a majority, of which this disk may be one, as a disk may fail at
    /// any time; the others have it too.
    async fn abandon(self, supervisor: &Supervisor) {
        self.member.begin_draining();
        self.drain_edge.cancel();
        let handed_over = async { tokio::join!(self.leaderships.hand_over(), self.member.hand_over_meta()) };
        // Whoever does not take one over is elected.
        let _ = tokio::time::timeout(ABANDON_DEADLINE, handed_over).await;
        self.edge.drained(ABANDON_DEADLINE).await;
        self.member.abandon().await;
        if !supervisor.shut_down(STOP_DEADLINE).await {
            tracing::warn!("some tasks did not end in time; what was acked is safe");
        }
        self.log.shutdown();
        let _ = tokio::time::timeout(LOG_CLOSE_DEADLINE, self.log.closed()).await;
    }

    /// Leaves in order (B7).
    async fn stop(self, supervisor: &Supervisor) -> anyhow::Result<()> {
        self.member.begin_draining();
        self.drain_edge.cancel();
        let (kept, ()) = tokio::join!(self.leaderships.hand_over(), self.member.hand_over_meta());
        if kept > 0 && self.member.transport_has_peers() {
            tracing::warn!(kept, "some leaderships had nobody to go to");
        }
        self.edge.drained(self.drain_deadline).await;
        // Sessions have their answers; sessions of other nodes find the new leaders. Groups stop before the tasks that look after them.
        supervisor.expect_ends();
        let checkpointed = self.member.shut_down().await;
        if !supervisor.shut_down(STOP_DEADLINE).await {
            tracing::warn!("some tasks did not end in time; what was acked is safe");
        }
        self.log.shutdown();
        if let Ok(Some(error)) = tokio::time::timeout(LOG_CLOSE_DEADLINE, self.log.closed()).await {
            return Err(error.into());
        }
        checkpointed.context("the last checkpoint failed; nothing is lost, the next start replays the log")?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// What [`Node::start`] hands to [`Node::open_doors`].
struct Parts {
    member: Member,
    log: RaftLog,
    disk: Disk,
    listener: TcpListener,
    admin_socket: crate::admin::AdminListener,
    own: Addresses,
    links: Links,
}

fn engine(config: &Config) -> anyhow::Result<Engine> {
    config.store.engine.parse().map_err(|why| anyhow::anyhow!("store.engine: {why}"))
}

fn edge_options(config: &Config) -> EdgeOptions {
    EdgeOptions {
        messages_per_s: config.limits.messages_per_s,
        messages_burst: config.limits.messages_burst,
        connections_max: config.limits.connections_max,
        handshake: Duration::from_millis(config.edge.handshake_ms),
        login: Duration::from_millis(config.edge.login_ms),
        idle: Duration::from_millis(config.edge.idle_ms),
        write: Duration::from_millis(config.edge.write_ms),
        drain: Duration::from_millis(config.edge.drain_ms),
    }
}

fn link_config(config: &Config) -> anyhow::Result<LinkConfig> {
    let listen = config.node.p2p.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
    Ok(LinkConfig { listen: listen.context("node.p2p")?, mdns: config.node.mdns, ..LinkConfig::default() })
}

/// Only the node's own user may look into the data folder: it holds keys.
fn create_private_folder(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    iris_store::create_private_dir(path).with_context(|| format!("can't create the data folder {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("can't make the data folder {} private", path.display()))
}
