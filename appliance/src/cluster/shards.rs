//! Starts this node's shards: state, log, Raft core, batcher and leadership of each, and the one checkpointer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iris_protocol::{NodeId, ShardId};
use iris_store::{GroupId, RaftLog, ShardStore, StoreOptions, WarmStore};
use openraft::Raft;
use tokio::sync::{Mutex, mpsc, watch};

use super::batcher::{self, BatchCounters};
use super::checkpointer::{CheckpointSignal, Checkpointer};
use super::founding::initialise;
use super::group::{Leadership, ShardGroup, follow_leadership};
use super::handler::{ShardGroups, shard_group};
use super::log_store::LogStore;
use super::member::{RaftTiming, raft_config, watch_core};
use super::meta::{MetaState, ShardRecord};
use super::network::GroupNetwork;
use super::rpc::RpcClients;
use super::shard_machine::ShardMachine;
use super::waiters::Waiters;
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
    pub(super) timing: RaftTiming,
    pub(super) clients: Arc<RpcClients>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<BatchCounters>,
}

/// The running shards of this node.
pub struct Shards {
    /// By number.
    pub by_id: ShardGroups,
}

impl Shards {
    /// The shards in order of their numbers.
    #[must_use]
    pub fn in_order(&self) -> Vec<ShardGroup> {
        let mut groups: Vec<ShardGroup> = self.by_id.values().cloned().collect();
        groups.sort_by_key(|group| group.shard);
        groups
    }

    /// Their stores.
    #[must_use]
    pub fn stores(&self) -> Vec<ShardStore> {
        self.in_order().into_iter().map(|group| group.store).collect()
    }

    /// Waits until every shard has a leader that serves it, here or elsewhere, or until time is up.
    pub async fn wait_for_leaders(&self, time: Duration) {
        let led = self.by_id.values().map(|group| {
            let (mut leadership, me) = (group.leadership.clone(), *group.raft.node_id());
            async move {
                let served = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me || now.ready));
                served.await.is_ok()
            }
        });
        let _ = tokio::time::timeout(time, futures::future::join_all(led)).await;
    }

    pub(super) async fn start(
        options: ShardsOptions,
        state: &MetaState,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let (checkpointer, signal) = Checkpointer::new(options.checkpoint_every);
        let mut by_id = HashMap::new();
        for (shard, record) in state.shards().filter(|(_, record)| record.replicas.contains(&options.node)) {
            by_id.insert(shard, start_shard(&options, shard, record, &signal, supervisor).await?);
        }
        let shards = Self { by_id: Arc::new(by_id) };
        let stores = shards.stores();
        supervisor.spawn_critical("checkpointer", move |stop| async move { checkpointer.run(&stores, &stop).await });
        Ok(shards)
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
    let store = tokio::task::spawn_blocking(move || ShardStore::open(warm, shard, store_options)).await??;
    let waiters = Arc::new(Waiters::default());
    let (log, durable) = LogStore::open(options.log.group(region(shard)))?;
    let (checkpoints, checkpoint_at_bytes) = (checkpoints.clone(), options.store.hot_bytes_max / CHECKPOINT_AT_PART);
    let machine =
        ShardMachine { store: store.clone(), waiters: waiters.clone(), checkpoints, durable, checkpoint_at_bytes };
    let network = GroupNetwork { group: shard_group(shard), clients: options.clients.clone() };
    let config = raft_config(&format!("shard {shard}"), options.timing)?;
    let raft = Raft::new(options.node, config, network, log, machine).await?;
    watch_core(supervisor, format!("shard {shard}"), &raft);

    let (publish, leadership) = watch::channel(Leadership::default());
    let (appends, requests) = mpsc::channel(batcher::REQUESTS_MAX);
    let group = ShardGroup { shard, raft: raft.clone(), store, waiters: waiters.clone(), appends, leadership };

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
    let (replicas, rank) =
        (record.replicas.clone(), record.replicas.iter().position(|replica| *replica == node).unwrap_or(0));
    supervisor.spawn(format!("first membership of shard {shard}"), move |stop| {
        let (raft, replicas) = (raft.clone(), replicas.clone());
        async move { initialise(&raft, &replicas, rank, &stop).await }
    });
    Ok(group)
}
