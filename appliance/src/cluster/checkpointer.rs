//! When a shard's state goes to disk: every few seconds, at once when memory is full, and at a graceful stop. One supervised
//! task per node walks its shards, so that they don't compete for the disk, and purges the log behind what it wrote.

use std::sync::Arc;
use std::time::Duration;

use iris_store::StoreError;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::group::ShardGroup;
use super::purge;
use super::shards::Shards;

/// Longest wait of a full shard's apply before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How an apply that is out of memory asks for a checkpoint and waits for it.
#[derive(Clone)]
pub struct CheckpointSignal {
    wanted: Arc<Notify>,
    done: watch::Receiver<u64>,
}

impl CheckpointSignal {
    /// Asks for a checkpoint now.
    pub fn bring_forward(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a checkpoint and waits until a round of them has ended.
    pub async fn bring_forward_and_wait(&self) {
        let mut done = self.done.clone();
        done.mark_unchanged();
        self.bring_forward();
        // A closed channel means that the node is stopping; the caller's loop ends with its task.
        let _ = tokio::time::timeout(LOOK_AGAIN, done.changed()).await;
    }
}

/// The node's one checkpointing task.
pub struct Checkpointer {
    interval: Duration,
    log_bytes_max: u64,
    wanted: Arc<Notify>,
    rounds: watch::Sender<u64>,
}

impl Checkpointer {
    /// A checkpointer and the signal that shards use to bring it forward. All shards together keep `log_bytes_max` of log
    /// behind their checkpoints.
    #[must_use]
    pub fn new(interval: Duration, log_bytes_max: u64) -> (Self, CheckpointSignal) {
        let (rounds, done) = watch::channel(0);
        let wanted = Arc::new(Notify::new());
        (Self { interval, log_bytes_max, wanted: wanted.clone(), rounds }, CheckpointSignal { wanted, done })
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// A checkpoint failed, and not for want of room: the disk is broken. The node must not go on as if it had a checkpoint.
    pub async fn run(&self, shards: &Shards, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut put_off = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(self.interval) => {}
            }
            let groups = shards.in_order();
            match checkpoint_all(&groups).await? {
                Round::Done => {
                    put_off = false;
                    self.rounds.send_modify(|round| *round += 1);
                }
                // Nothing is lost: the log keeps what is not in a checkpoint. Who waits for one asks again by itself, after a while.
                Round::PutOff(why) => {
                    if !put_off {
                        tracing::warn!(%why, "checkpoints wait until there is room");
                    }
                    put_off = true;
                }
            }
            for group in &groups {
                purge::behind_checkpoint(group, self.log_bytes_max / groups.len() as u64).await;
            }
        }
    }
}

/// How a round of checkpoints ended.
#[derive(Debug)]
pub enum Round {
    /// All are written.
    Done,
    /// At least one found no room, and left everything as it was.
    PutOff(StoreError),
}

/// One checkpoint of every shard, one after the other. One that finds no room does not keep the others from theirs: a small one
/// may fit, and the log behind it goes.
///
/// # Errors
/// The first that failed otherwise.
pub async fn checkpoint_all(groups: &[ShardGroup]) -> anyhow::Result<Round> {
    let mut round = Round::Done;
    for group in groups {
        let store = group.store.clone();
        match crate::blocking::run(move || store.checkpoint()).await? {
            Ok(_) => {}
            Err(error) if error.is_want() => round = Round::PutOff(error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(round)
}
