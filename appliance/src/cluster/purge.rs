//! Drops the part of a group's log that nobody needs: what the checkpoint has, less what is kept so that a follower which was
//! away for a while is brought up to date from the log instead of by a snapshot. Never beyond a durable checkpoint.

use std::time::Duration;

use iris_store::GroupLog;
use openraft::Raft;
use openraft::storage::RaftStateMachine;

use super::group::ShardGroup;
use super::raft_types::TypeConfig;
use super::snapshots::Outgoing;

/// Longest the Raft core may take to take note of a checkpoint, which it does behind what it applies; else the next round
/// purges. Short, because the checkpointer waits.
const ANNOUNCE_DEADLINE: Duration = Duration::from_millis(500);

/// Entries of the meta group kept: some hundred bytes each, save for the rare large one.
const META_ENTRIES_KEPT: u64 = 1_000;

/// Purges a shard's log, keeping `keep_bytes` of it behind the checkpoint.
pub(super) async fn behind_checkpoint(group: &ShardGroup, keep_bytes: u64) {
    let Some(upto) = group.log.index_behind(keep_bytes) else { return };
    let checkpoint = group.store.checkpointed();
    // When it is full, apply waits for the next checkpoint, and the core behind it.
    if checkpoint.log_id.is_empty() || group.store.is_full() {
        return;
    }
    purge(&group.raft, &group.log, &group.outgoing, upto.min(checkpoint.index)).await;
}

/// Purges the meta group's log, whose checkpoint stands at `checkpointed`.
pub(super) async fn meta<SM: RaftStateMachine<TypeConfig>>(
    raft: &Raft<TypeConfig, SM>,
    log: &GroupLog,
    outgoing: &Outgoing,
) {
    let last = log.last_index().unwrap_or(0);
    // Twice as many: so that it is done once in a while, not with every entry.
    if log.first_index().is_some_and(|first| last - first >= 2 * META_ENTRIES_KEPT) {
        purge(raft, log, outgoing, last - META_ENTRIES_KEPT).await;
    }
}

/// Purges up to an index that a durable checkpoint covers.
pub(super) async fn purge<SM: RaftStateMachine<TypeConfig>>(
    raft: &Raft<TypeConfig, SM>,
    log: &GroupLog,
    outgoing: &Outgoing,
    upto: u64,
) {
    let upto = outgoing.held_index().map_or(upto, |held| upto.min(held));
    if log.first_index().is_none_or(|first| upto < first) {
        return;
    }
    // openraft purges only what a snapshot covers, and a checkpoint is one as soon as it knows of it.
    let announced = async {
        raft.trigger().snapshot().await.ok()?;
        let known = raft.wait(Some(ANNOUNCE_DEADLINE));
        let covers = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.snapshot.is_some_and(|snapshot| snapshot.index >= upto)
        };
        known.metrics(covers, "a snapshot that covers what is purged").await.ok()
    };
    // Neither is an error worth a word: the core is stopping, or the next round does it.
    if announced.await.is_some() {
        let _ = raft.trigger().purge_log(upto).await;
    }
}
