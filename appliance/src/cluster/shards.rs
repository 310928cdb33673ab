//! Starts this node's shards, at the start and whenever the meta state gives it another: state, log, Raft core, batcher,
//! leadership and membership of each, and the one checkpointer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iris_protocol::{NodeId, ShardId};
use iris_store::{GroupId, RaftLog, ShardStore, StoreOptions, WarmStore};
use openraft::Raft;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::batcher::{self, BatchCounters};
use super::checkpointer::{CheckpointSignal, Checkpointer};
use super::founding::initialise;
use super::group::{Leadership, ShardGroup, follow_leadership};
use super::handler::{ShardGroups, shard_group};
use super::log_store::LogStore;
use super::member::{RaftTiming, raft_config, watch_core};
use super::membership;
use super::meta::{MetaState, ShardRecord};
use super::meta_machine::MetaView;
use super::network::GroupNetwork;
use super::proposals::Proposals;
use super::retention::{self, RetentionSettings};
use super::shard_machine::ShardMachine;
use super::snapshots::Outgoing;
use super::transport::PeerTransport;
use super::waiters::Waiters;
use crate::disk::Disk;
use crate::supervise::Supervisor;
use crate::surroundings::Clock;

/// A checkpoint is brought forward when memory is filled to this part of its bound (a half): the other half takes what is
/// applied while it is written.
const CHECKPOINT_AT_PART: usize = 2;

/// A shard's region in the log.
pub(super) fn region(shard: ShardId) -> GroupId {
    GroupId(100 + u64::from(shard.0))
}

/// What shards are started with.
pub(super) struct ShardsOptions {
    pub(super) node: NodeId,
    pub(super) log: RaftLog,
    pub(super) warm: Arc<dyn WarmStore>,
    pub(super) store: StoreOptions,
    pub(super) checkpoint_every: Duration,
    pub(super) retention: RetentionSettings,
    pub(super) timing: RaftTiming,
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<BatchCounters>,
    /// The meta state, and the way to report to it.
    pub(super) proposals: Arc<Proposals>,
    /// Where snapshots are written while they travel.
    pub(super) snapshot_dir: PathBuf,
    /// This node's disk.
    pub(super) disk: Disk,
    /// Bytes of log kept behind the checkpoints, all shards together.
    pub(super) log_bytes_max: u64,
}

/// The running shards of this node; more may come. Cheap to clone.
#[derive(Clone)]
pub struct Shards(watch::Receiver<ShardGroups>);

impl Shards {
    pub(super) fn new(running: watch::Receiver<ShardGroups>) -> Self {
        Self(running)
    }

    /// By number, as they are now.
    #[must_use]
    pub fn by_id(&self) -> ShardGroups {
        self.0.borrow().clone()
    }

    /// The shards in order of their numbers.
    #[must_use]
    pub fn in_order(&self) -> Vec<ShardGroup> {
        let mut groups: Vec<ShardGroup> = self.by_id().values().cloned().collect();
        groups.sort_by_key(|group| group.shard);
        groups
    }

    /// Waits until there are others than when this handle last looked.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody starts shards any more: the node is stopping.
            std::future::pending().await
        }
    }

    /// Waits until every shard has a leader that serves it, here or elsewhere, or until time is up.
    pub async fn wait_for_leaders(&self, time: Duration) {
        let groups = self.in_order();
        let led = groups.iter().map(|group| {
            let (mut leadership, me) = (group.leadership.clone(), *group.raft.node_id());
            async move {
                let served = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me || now.ready));
                served.await.is_ok()
            }
        });
        let _ = tokio::time::timeout(time, futures::future::join_all(led)).await;
    }
}

/// Starts the shards that the meta state wants on this node.
pub(super) struct ShardKeeper {
    options: ShardsOptions,
    checkpoints: CheckpointSignal,
    supervisor: Supervisor,
    running: watch::Sender<ShardGroups>,
}

impl ShardKeeper {
    /// A keeper without shards, and the one checkpointer of all it will start. Those that run are published in `running`.
    pub(super) fn new(options: ShardsOptions, supervisor: &Supervisor, running: watch::Sender<ShardGroups>) -> Self {
        let (checkpointer, checkpoints) = Checkpointer::new(options.checkpoint_every, options.log_bytes_max);
        let shards = Shards::new(running.subscribe());
        supervisor.spawn_critical("checkpointer", move |stop| async move { checkpointer.run(&shards, &stop).await });
        Self { options, checkpoints, supervisor: supervisor.clone(), running }
    }

    /// Starts those that don't run yet.
    ///
    /// # Errors
    /// The disk, or what is on it.
    pub(super) async fn start_wanted(&self, state: &MetaState) -> anyhow::Result<()> {
        for (shard, record) in state.shards().filter(|(_, record)| record.is_on(self.options.node)) {
            if self.running.borrow().contains_key(&shard) {
                continue;
            }
            let group = start_shard(&self.options, shard, record, &self.checkpoints, &self.supervisor).await?;
            self.running.send_modify(|running| {
                let mut more = HashMap::clone(running);
                more.insert(shard, group);
                *running = Arc::new(more);
            });
        }
        Ok(())
    }

    /// Follows the meta state until `stop`.
    ///
    /// # Errors
    /// As [`Self::start_wanted`]: a node that can't hold what it should must not look as if it did.
    pub(super) async fn run(self, mut meta: MetaView, stop: &CancellationToken) -> anyhow::Result<()> {
        loop {
            let state = meta.borrow_and_update().clone();
            if let Some(state) = state {
                self.start_wanted(&state).await?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = meta.changed() => changed?,
            }
        }
    }
}

async fn start_shard(
    options: &ShardsOptions,
    shard: ShardId,
    record: &ShardRecord,
    checkpoints: &CheckpointSignal,
    supervisor: &Supervisor,
) -> anyhow::Result<ShardGroup> {
    let (warm, store_options) = (options.warm.clone(), options.store.clone());
    let store = crate::blocking::run(move || ShardStore::open(warm, shard, store_options)).await??;
    let waiters = Arc::new(Waiters::default());
    let (log, durable) = LogStore::open(options.log.group(region(shard)))?;
    let applied = Some(store.applied()).filter(|mark| !mark.log_id.is_empty()).map(|mark| mark.index);
    log.check_reaches(applied, &format!("shard {shard}"))?;
    let outgoing = Outgoing::new(options.log.group(region(shard)), options.snapshot_dir.clone());
    let (checkpoints, checkpoint_at_bytes) = (checkpoints.clone(), options.store.hot_bytes_max / CHECKPOINT_AT_PART);
    let machine = ShardMachine {
        store: store.clone(),
        outgoing: outgoing.clone(),
        waiters: waiters.clone(),
        checkpoints,
        durable,
        checkpoint_at_bytes,
    };
    let network = GroupNetwork {
        group: shard_group(shard),
        clients: options.proposals.clients.clone(),
        transport: options.transport.clone(),
        outgoing: outgoing.clone(),
    };
    let config = raft_config(&format!("shard {shard}"), options.timing)?;
    let raft = Raft::new(options.node, config, network, log, machine).await?;
    watch_core(supervisor, format!("shard {shard}"), &raft);

    let (publish, leadership) = watch::channel(Leadership::default());
    let (appends, requests) = mpsc::channel(batcher::REQUESTS_MAX);
    let group = ShardGroup {
        shard,
        raft: raft.clone(),
        store,
        log: options.log.group(region(shard)),
        outgoing,
        waiters: waiters.clone(),
        appends,
        leadership,
        disk: options.disk.clone(),
        clock: options.clock.clone(),
        refresh_after: options.retention.refresh_after(),
    };

    let node = options.node;
    supervisor.spawn_critical(format!("leadership of shard {shard}"), {
        let raft = raft.clone();
        move |stop| async move { follow_leadership(node, raft, waiters, publish, &stop).await }
    });
    let requests = Arc::new(Mutex::new(requests));
    let (for_batcher, clock, counters) = (group.clone(), options.clock.clone(), options.counters.clone());
    supervisor.spawn(format!("batcher of shard {shard}"), move |stop| {
        let (group, requests, clock, counters) =
            (for_batcher.clone(), requests.clone(), clock.clone(), counters.clone());
        async move {
            batcher::run(group, &mut *requests.lock().await, clock, counters, &stop).await;
            Ok(())
        }
    });
    let (for_retention, clock, settings) = (group.clone(), options.clock.clone(), options.retention);
    supervisor.spawn(format!("retention of shard {shard}"), move |stop| {
        let (group, clock) = (for_retention.clone(), clock.clone());
        async move { retention::run(group, clock, settings, &stop).await }
    });
    // A replica that came later is taken in by the shard's leader; a membership of its own making would be another group.
    if let Some(rank) = record.founders.iter().position(|founder| *founder == node) {
        let founders = record.founders.clone();
        supervisor.spawn(format!("first membership of shard {shard}"), move |stop| {
            let (raft, founders) = (raft.clone(), founders.clone());
            async move { initialise(&raft, &founders, rank, &stop).await }
        });
    }
    let (for_changes, proposals, transport) = (group.clone(), options.proposals.clone(), options.transport.clone());
    supervisor.spawn(format!("membership of shard {shard}"), move |stop| {
        let (group, proposals, transport) = (for_changes.clone(), proposals.clone(), transport.clone());
        async move { membership::keep_shard(&group, &proposals, &*transport, &stop).await }
    });
    Ok(group)
}
