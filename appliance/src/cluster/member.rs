//! This node as a member: its log, its links' calls, the meta group, and from the founded meta state its shards. Starts them
//! in the order in which they need each other and hands everything that runs to the supervisor.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iris_protocol::NodeId;
use iris_store::{GroupId, RaftLog, StoreOptions, WarmStore};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::batcher::BatchCounters;
use super::beginning::Beginning;
use super::checkpointer::Round;
use super::controller;
use super::founding;
use super::handler::{META_GROUP, PeerHandler, Receptions, ShardGroups};
use super::inbound;
use super::log_store::LogStore;
use super::meta::{MetaState, NodeRecord};
use super::meta_machine::{MetaMachine, MetaView};
use super::neighbours::{self, Members};
use super::network::GroupNetwork;
use super::partition_watch::Partitions;
use super::proposals::Proposals;
use super::purge;
use super::raft_types::TypeConfig;
use super::retention::RetentionSettings;
use super::rpc::{self, RpcClients};
use super::shards::{self, ShardKeeper, Shards};
use super::snapshots::Outgoing;
use super::standing::QuarantinedPeers;
use super::transport::{PeerAcceptor, PeerTransport};
use crate::disk::Disk;
use crate::supervise::Supervisor;
use crate::surroundings::Surroundings;

/// The meta group's region in the log; shards are at [`shards::region`].
pub(super) const META_REGION: GroupId = GroupId(1);

/// Entries per append request; [`super::log_store`] bounds their bytes.
const PAYLOAD_ENTRIES_MAX: u64 = 256;

/// Longest a Raft core may take to stop.
const CORE_STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Between looks at the meta group's log, which grows by some entries a day.
const PURGE_META_EVERY: Duration = Duration::from_secs(10);

/// Longest the meta group may take to have another leader when this node goes.
const HAND_OVER_META_DEADLINE: Duration = Duration::from_secs(2);

/// The meta group's Raft handle.
pub type MetaRaft = Raft<TypeConfig, MetaMachine>;

/// Raft's clocks, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct RaftTiming {
    /// Between heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a follower stands for election.
    pub election_ms_min: u64,
    /// Longest.
    pub election_ms_max: u64,
}

/// What a member is started with.
pub struct MemberOptions {
    /// This node's id.
    pub node: NodeId,
    /// This node as the others should know it.
    pub describe: DescribeSelf,
    /// Who is in the cluster, this node included: at first as known from the last run, the configuration, or the node that took
    /// this one in; kept up to date from then on.
    pub roster: watch::Sender<Members>,
    /// Where the meta checkpoint lies.
    pub meta_path: PathBuf,
    /// The open log.
    pub log: RaftLog,
    /// The open warm store.
    pub warm: Arc<dyn WarmStore>,
    /// Bounds of the shards' memory.
    pub store: StoreOptions,
    /// Between checkpoints.
    pub checkpoint_every: Duration,
    /// How long things are kept.
    pub retention: RetentionSettings,
    /// Raft's clocks.
    pub timing: RaftTiming,
    /// To the others.
    pub transport: Arc<dyn PeerTransport>,
    /// From the others.
    pub acceptor: Box<dyn PeerAcceptor>,
    /// Clock and random source.
    pub surroundings: Surroundings,
    /// What this node would found the cluster with, if it has to; none if it was let into one that is founded.
    pub founding: Option<MetaState>,
    /// Whether this node has held the meta state before: then its log must be there.
    pub settled: bool,
    /// Where snapshots are written while they travel.
    pub snapshot_dir: PathBuf,
    /// Bytes of log kept behind the checkpoints.
    pub log_bytes_max: u64,
    /// This node's disk.
    pub disk: Disk,
}

/// Says what a node is called and where it is reached, as of now.
pub type DescribeSelf = Arc<dyn Fn() -> NodeRecord + Send + Sync>;

/// A running member.
pub struct Member {
    /// This node's id.
    pub node: NodeId,
    /// The meta group.
    pub meta: MetaRaft,
    /// The meta group's state.
    pub meta_view: MetaView,
    /// Calls to the others.
    pub clients: Arc<RpcClients>,
    /// The way to the meta group's leader.
    pub proposals: Arc<Proposals>,
    /// Who is up.
    pub transport: Arc<dyn PeerTransport>,
    /// The shards held here.
    pub shards: Shards,
    /// What the batchers count.
    pub batches: Arc<BatchCounters>,
    /// Members that are in quarantine.
    pub quarantined: QuarantinedPeers,
    /// What is known of the network between the members.
    pub partitions: Arc<Partitions>,
    draining: Arc<AtomicBool>,
    /// Set when this node's groups answer nobody any more.
    left: Arc<AtomicBool>,
}

impl Member {
    /// Starts everything; returns once the cluster is founded, or has taken this node in, and this node's shards run. Founding
    /// takes a majority of the members, so a lone first node of three waits here.
    ///
    /// # Errors
    /// The disk, or what is on it, or `stop`.
    pub async fn start(
        options: MemberOptions,
        supervisor: &Supervisor,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let clients = Arc::new(RpcClients::default());

        // Halves of copies that this node was making or taking in when it died.
        iris_store::snapshot::clear_old(&options.snapshot_dir, &[])?;
        let meta_log = options.log.group(META_REGION);
        let (log, durable) = LogStore::open(meta_log.clone())?;
        let outgoing = Outgoing::new(meta_log.clone(), options.snapshot_dir.clone());
        let (machine, meta_view) = MetaMachine::open(options.meta_path.clone(), outgoing.clone(), durable)?;
        log.check_reaches(machine.applied_index(), "the meta group")?;
        // Before anything of Raft runs: groups with other members would take each other's entries for their own.
        if let Some(state) = meta_view.borrow().as_ref() {
            options.founding.iter().try_for_each(|configured| founding::check_members(configured, state))?;
        }
        let network = GroupNetwork {
            group: META_GROUP,
            clients: clients.clone(),
            transport: options.transport.clone(),
            outgoing: outgoing.clone(),
        };
        let config = raft_config("meta", options.timing)?;
        let meta = Raft::new(options.node, config, network, log, machine).await?;
        watch_core(supervisor, "meta".to_owned(), &meta);
        // A node that forgot its votes and entries must not go on under its old id.
        anyhow::ensure!(
            !options.settled || meta.is_initialized().await?,
            "this data folder belongs to node {}, but its log is gone: restore the folder, or start with an empty one and join as a new node \
             (`iris join-token` on another machine, `iris up --join` here)",
            options.node
        );

        let running = watch::Sender::new(ShardGroups::default());
        let shards = Shards::new(running.subscribe());
        let (draining, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let clock = options.surroundings.clock.clone();
        // Whoever was let in, or holds the state, has nothing to find out.
        let knows = options.founding.is_none() || meta_view.borrow().is_some();
        let beginning = Arc::new(if knows { Beginning::known() } else { Beginning::unknown() });
        let partitions = Arc::new(Partitions::new(
            options.node,
            options.surroundings.random.next_u64(),
            options.roster.subscribe(),
            clients.clone(),
            options.transport.clone(),
        ));
        let quarantined = QuarantinedPeers::default();
        let handler = PeerHandler {
            meta: meta.clone(),
            view: meta_view.clone(),
            shards: running.subscribe(),
            draining: draining.clone(),
            left: left.clone(),
            clock: clock.clone(),
            beginning: beginning.clone(),
            partitions: partitions.clone(),
            quarantined: quarantined.clone(),
            disk: options.disk.clone(),
            receptions: Receptions::default(),
        };
        let snapshot_dir = options.snapshot_dir.clone();
        inbound::serve(supervisor, options.acceptor, Arc::new(handler), snapshot_dir.clone());

        let proposals = Arc::new(Proposals {
            node: options.node,
            meta: meta.clone(),
            view: meta_view.clone(),
            roster: options.roster.subscribe(),
            clients: clients.clone(),
            clock,
        });
        follow_members(supervisor, &proposals, &options.transport);
        keep_roster(supervisor, &proposals, &options.transport, options.roster);
        let state = match options.founding {
            Some(configured) => {
                if !beginning.is_open() {
                    let mut others: BTreeSet<NodeId> = configured.nodes.keys().copied().collect();
                    others.remove(&options.node);
                    let has_log = meta.is_initialized().await?;
                    beginning.find_out(options.node, &others, has_log, &clients, stop).await?;
                }
                founding::spawn(supervisor, &meta, &meta_view, configured.clone());
                let state = founding::wait_until_founded(options.node, &meta_view, stop).await?;
                founding::check_members(&configured, &state)?;
                founding::spawn_description(supervisor, proposals.clone(), options.describe);
                state
            }
            // Let in, and in the meta group only once it has been heard from.
            None => {
                founding::spawn_description(supervisor, proposals.clone(), options.describe);
                if meta_view.borrow().is_none() {
                    tracing::info!(node = %options.node, "a member; waiting until the others send the cluster's state");
                }
                founding::wait_until_founded(options.node, &meta_view, stop).await?
            }
        };

        let batches = Arc::new(BatchCounters::default());
        let keeper = ShardKeeper::new(
            shards::ShardsOptions {
                node: options.node,
                log: options.log,
                warm: options.warm,
                // What applying depends on is the cluster's, not this node's (A3).
                store: StoreOptions {
                    dedup_window: Duration::from_millis(state.dedup.window_ms),
                    dedup_keys_max: usize::try_from(state.dedup.keys_max).unwrap_or(usize::MAX),
                    ..options.store
                },
                checkpoint_every: options.checkpoint_every,
                retention: options.retention,
                timing: options.timing,
                transport: options.transport.clone(),
                clock: options.surroundings.clock.clone(),
                counters: batches.clone(),
                proposals: proposals.clone(),
                snapshot_dir,
                disk: options.disk.clone(),
                log_bytes_max: options.log_bytes_max,
            },
            supervisor,
            running,
        );
        keeper.start_wanted(&state).await?;
        let view = meta_view.clone();
        supervisor.spawn_critical("shards", move |stop| async move { keeper.run(view, &stop).await });
        let (log, raft) = (meta_log, meta.clone());
        supervisor.spawn("meta log", move |stop| {
            let (log, raft, outgoing) = (log.clone(), raft.clone(), outgoing.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(PURGE_META_EVERY) => purge::meta(&raft, &log, &outgoing).await,
                    }
                }
            }
        });
        let (for_controller, transport, cuts) = (proposals.clone(), options.transport.clone(), partitions.clone());
        supervisor.spawn("controller", move |stop| {
            let (proposals, transport, cuts) = (for_controller.clone(), transport.clone(), cuts.clone());
            async move { controller::run(&proposals, &*transport, &cuts, &stop).await }
        });
        let watched = partitions.clone();
        supervisor.spawn("partitions", move |stop| {
            let partitions = watched.clone();
            async move {
                partitions.watch(&stop).await;
                Ok(())
            }
        });
        Ok(Self {
            node: options.node,
            meta,
            meta_view,
            clients,
            proposals,
            transport: options.transport,
            shards,
            batches,
            quarantined,
            partitions,
            draining,
            left,
        })
    }

    /// Whether any other member is up.
    #[must_use]
    pub fn transport_has_peers(&self) -> bool {
        let state = self.meta_view.borrow();
        state.iter().flat_map(|state| state.nodes.keys()).any(|node| *node != self.node && self.transport.is_up(*node))
    }

    /// Hands the meta group's leadership over, if it is here and another member is up; gives up after a moment.
    pub async fn hand_over_meta(&self) {
        let others: Vec<NodeId> =
            self.meta.voter_ids().filter(|voter| *voter != self.node && self.transport.is_up(*voter)).collect();
        let Some(to) = others.first().filter(|_| self.meta.is_leader()) else { return };
        if let Err(fatal) = self.meta.trigger().transfer_leader(*to).await {
            tracing::warn!(%fatal, "could not hand the meta group's leadership over");
            return;
        }
        let me = self.node;
        let moved = self.meta.wait(Some(HAND_OVER_META_DEADLINE));
        let _ = moved.metrics(|now| now.current_leader.is_some_and(|leader| leader != me), "another meta leader").await;
    }

    /// From now on this node takes no leadership back.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Stops the groups as they are, writing nothing: what this disk holds is in doubt (C12).
    /// From the first moment on no call of the others' groups is answered, whatever still runs.
    pub async fn abandon(&self) {
        self.left.store(true, Ordering::Release);
        // A core may be stuck in what is damaged; the runtime leaves it behind.
        self.stop_cores().await;
    }

    /// Stops all Raft cores side by side; false if one did not in time.
    async fn stop_cores(&self) -> bool {
        let shards = self.shards.in_order();
        let shards = futures::future::join_all(shards.iter().map(|group| stopped_in_time(&group.raft)));
        let (shards, meta) = tokio::join!(shards, stopped_in_time(&self.meta));
        meta && shards.into_iter().all(|stopped| stopped)
    }

    /// Stops the groups after a last checkpoint. What was acked is in the log whether or not this succeeds.
    ///
    /// # Errors
    /// The checkpoint failed.
    pub async fn shut_down(&self) -> anyhow::Result<()> {
        let groups = self.shards.in_order();
        let checkpointed = super::checkpointer::checkpoint_all(&groups).await;
        if !self.stop_cores().await {
            tracing::warn!("a Raft core did not stop cleanly");
        }
        if let Round::PutOff(why) = checkpointed? {
            tracing::warn!(%why, "there was no room for the last checkpoint; the next start replays the log");
        }
        Ok(())
    }
}

async fn stopped_in_time<SM: openraft::storage::RaftStateMachine<TypeConfig>>(raft: &Raft<TypeConfig, SM>) -> bool {
    matches!(tokio::time::timeout(CORE_STOP_DEADLINE, raft.shutdown()).await, Ok(Ok(())))
}

/// openraft's settings for one group. `enable_leader_restore` stays off: with it a restarted leader answered stale reads
/// (docs/decisions/0002-openraft.md). Snapshots and purges are asked for after checkpoints, never by a policy.
pub(super) fn raft_config(name: &str, timing: RaftTiming) -> anyhow::Result<Arc<Config>> {
    let config = Config {
        cluster_name: name.to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_ms_min,
        election_timeout_max: timing.election_ms_max,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        // A follower however far behind is brought up to date from the log, as long as that reaches back to it: sending what
        // it lacks is cheaper than sending everything.
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    Ok(Arc::new(config.validate()?))
}

/// The process ends when a Raft core does: nothing restarts one in place (C9).
pub(super) fn watch_core<SM: openraft::storage::RaftStateMachine<TypeConfig>>(
    supervisor: &Supervisor,
    name: String,
    raft: &Raft<TypeConfig, SM>,
) {
    let mut metrics = raft.metrics();
    supervisor.spawn_critical(format!("raft core of {name}"), move |stop| async move {
        loop {
            let failed = metrics.borrow_watched().running_state.clone().err();
            if let Some(fatal) = failed {
                anyhow::bail!("{fatal}");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = metrics.changed() => changed.map_err(|_| anyhow::anyhow!("it ended"))?,
            }
        }
    });
}

/// Runs the tasks that carry calls to peers.
pub(super) fn serve_calls(supervisor: &Supervisor, transport: &Arc<dyn PeerTransport>, tasks: Vec<rpc::ClientTask>) {
    for task in tasks {
        let (name, task, transport) = (task.name(), Arc::new(Mutex::new(task)), transport.clone());
        supervisor.spawn(name, move |stop| {
            let (task, transport) = (task.clone(), transport.clone());
            async move {
                task.lock().await.run(transport, &stop).await;
                Ok(())
            }
        });
    }
}

/// Keeps the calls' peers in line with the cluster's members.
fn follow_members(supervisor: &Supervisor, proposals: &Arc<Proposals>, transport: &Arc<dyn PeerTransport>) {
    let (proposals, transport, tasks) = (proposals.clone(), transport.clone(), supervisor.clone());
    supervisor.spawn("members", move |stop| {
        let (proposals, transport, tasks) = (proposals.clone(), transport.clone(), tasks.clone());
        async move {
            let mut roster = proposals.roster.clone();
            loop {
                let mut peers: BTreeSet<NodeId> = roster.borrow_and_update().keys().copied().collect();
                peers.remove(&proposals.node);
                serve_calls(&tasks, &transport, proposals.clients.set_peers(&peers));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = roster.changed() => changed?,
                }
            }
        }
    });
}

/// Keeps the roster in line with the meta state and with what others say.
fn keep_roster(
    supervisor: &Supervisor,
    proposals: &Arc<Proposals>,
    transport: &Arc<dyn PeerTransport>,
    roster: watch::Sender<Members>,
) {
    let (heard, roster) = (Arc::new(watch::Sender::new(Members::new())), Arc::new(roster));
    let (view, node, listening) = (proposals.view.clone(), proposals.node, heard.clone());
    supervisor.spawn("roster", move |stop| {
        let (view, listening, roster) = (view.clone(), listening.subscribe(), roster.clone());
        async move { neighbours::keep_roster(node, view, listening, &roster, &stop).await }
    });
    let (proposals, transport) = (proposals.clone(), transport.clone());
    supervisor.spawn("neighbours", move |stop| {
        let (proposals, transport, heard) = (proposals.clone(), transport.clone(), heard.clone());
        async move {
            neighbours::ask_around(&proposals, &*transport, &heard, &stop).await;
            Ok(())
        }
    });
}
