//! openraft's own storage conformance suite, run on our log with the state machine of a shard and of the meta group. Left out
//! are its tests that build or install snapshots, which there are none of (see [`super::snapshots`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use iris_protocol::ShardId;
use iris_store::{GroupId, LogOptions, RaftLog, ShardStore, StoreOptions, Warm};
use openraft::StorageError;
use openraft::storage::RaftStateMachine;
use openraft::testing::log::{StoreBuilder, Suite};

use super::checkpointer::Checkpointer;
use super::durable::{Durable, durable};
use super::log_store::LogStore;
use super::meta_machine::MetaMachine;
use super::raft_types::TypeConfig;
use super::shard_machine::ShardMachine;
use super::snapshots::Outgoing;
use super::waiters::Waiters;

struct OnDisk;

/// Keeps the folder and the log's writer alive for one test.
struct Guard(#[allow(dead_code)] tempfile::TempDir, RaftLog);

impl Drop for Guard {
    fn drop(&mut self) {
        self.1.shutdown();
    }
}

/// The suite applies entries that it never wrote to the log.
fn all() -> Durable {
    let (mark, durable) = durable(u64::MAX);
    std::mem::forget(mark);
    durable
}

fn open_log() -> (Guard, LogStore) {
    let dir = tempfile::tempdir().unwrap();
    let log = RaftLog::open(LogOptions::new(dir.path().join("log"))).unwrap();
    let (store, _) = LogStore::open(log.group(GroupId(5))).unwrap();
    (Guard(dir, log), store)
}

fn outgoing(guard: &Guard) -> Outgoing {
    Outgoing::new(guard.1.group(GroupId(5)), guard.0.path().join("snapshots"))
}

impl StoreBuilder<TypeConfig, LogStore, ShardMachine, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, LogStore, ShardMachine), StorageError<TypeConfig>> {
        let (guard, log) = open_log();
        let warm = Warm::open(&guard.0.path().join("warm.db")).unwrap();
        let store = ShardStore::open(Arc::new(warm), ShardId(0), StoreOptions::default()).unwrap();
        let checkpoints = Checkpointer::new(Duration::from_secs(1), 0).1;
        let outgoing = outgoing(&guard);
        Ok((
            guard,
            log,
            ShardMachine {
                store,
                outgoing,
                waiters: Arc::new(Waiters::default()),
                checkpoints,
                durable: all(),
                checkpoint_at_bytes: usize::MAX,
            },
        ))
    }
}

impl StoreBuilder<TypeConfig, LogStore, MetaMachine, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, LogStore, MetaMachine), StorageError<TypeConfig>> {
        let (guard, log) = open_log();
        let (machine, _) = MetaMachine::open(guard.0.path().join("meta"), outgoing(&guard), all()).unwrap();
        Ok((guard, log, machine))
    }
}

async fn run_suite<SM>()
where
    SM: RaftStateMachine<TypeConfig> + std::fmt::Debug,
    OnDisk: StoreBuilder<TypeConfig, LogStore, SM, Guard>,
{
    macro_rules! run {
        ($($test:ident)*) => {$(
            let (_guard, log, machine) = StoreBuilder::<_, _, SM, _>::build(&OnDisk).await.unwrap();
            let result: io::Result<()> = Suite::<TypeConfig, LogStore, SM, OnDisk, Guard>::$test(log, machine).await;
            result.unwrap_or_else(|error| panic!("{}: {error}", stringify!($test)));
        )*};
    }
    run! {
        last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step
        get_membership_initial get_membership_from_log_and_empty_sm get_membership_from_empty_log_and_sm
        get_membership_from_log_le_sm_last_applied get_membership_from_log_gt_sm_last_applied_1
        get_membership_from_log_gt_sm_last_applied_2 get_initial_state_without_init get_initial_state_with_state

         get_initial_state_last_log_gt_sm
         get_initial_state_inverted_log_order get_initial_state_conflict_at_same_index
         get_initial_state_re_apply_committed save_vote get_log_entries
        limited_get_log_entries leader_bounded_stream entries_stream try_get_log_entry log_reader_reads_new_entries
        initial_logs get_log_state get_log_id last_id_in_log last_applied_state purge_logs_upto_0 purge_logs_upto_5
        purge_logs_upto_20 delete_logs_after_11 delete_logs_after_5 delete_logs_after_0 delete_logs_after_none
        append_to_log apply_single apply_multiple
    }
}

#[tokio::test]
async fn a_shards_storage_conforms() {
    run_suite::<ShardMachine>().await;
}

#[tokio::test]
async fn the_meta_groups_storage_conforms() {
    run_suite::<MetaMachine>().await;
}
