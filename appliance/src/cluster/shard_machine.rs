//! openraft's state machine over a shard's store: applies batches in order, wakes waiting readers, and holds apply back while
//! memory is full. A snapshot is the last checkpoint (see [`super::snapshots`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use iris_store::ShardStore;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend};

use super::checkpointer::CheckpointSignal;
use super::durable::Durable;
use super::raft_types::{Applied, LogId, StoredMembership, TypeConfig, decode, encode};
use super::snapshots::{Announcer, Outgoing, SnapshotData, SnapshotMeta, SnapshotOf, membership, snapshot_meta};
use super::waiters::Waiters;

/// Between attempts to install a snapshot that found no room or no file.
const INSTALL_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// One shard's state machine.
pub struct ShardMachine {
    /// The state itself, shared with readers.
    pub store: ShardStore,
    /// The snapshot that is on its way to a follower, if one is.
    pub outgoing: Outgoing,
    /// Readers to wake.
    pub waiters: Arc<Waiters>,
    /// Brings a checkpoint forward when memory is full.
    pub checkpoints: CheckpointSignal,
    /// How far the log is on this disk.
    pub durable: Durable,
    /// Bytes in memory at which a checkpoint is brought forward: before the bound at which leaders refuse.
    pub checkpoint_at_bytes: usize,
}

impl std::fmt::Debug for ShardMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardMachine").field("applied", &self.store.applied().index).finish_non_exhaustive()
    }
}

impl ShardMachine {
    fn apply_entry(
        &self,
        log_id: LogId,
        payload: EntryPayload<super::raft_types::Command, iris_protocol::NodeId, ()>,
    ) -> io::Result<Applied> {
        let mark: Bytes = encode(&log_id).into();
        match payload {
            EntryPayload::Blank => {
                self.store.apply_blank(log_id.index, mark);
                Ok(Applied::Nothing)
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(log_id), membership);
                self.store.apply_membership(log_id.index, mark, encode(&stored).into());
                Ok(Applied::Nothing)
            }
            EntryPayload::Normal(command) => {
                let reply = self.store.apply(log_id.index, mark, &command.0).map_err(io::Error::other)?;
                self.waiters.wake(&reply.touched);
                Ok(Applied::Shard(reply.outcomes))
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for ShardMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Announcer;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let mark = self.store.applied();
        if mark.index == 0 && mark.log_id.is_empty() {
            return Ok((None, StoredMembership::default()));
        }
        let log_id = decode("applied log id", &mark.log_id).map_err(io::Error::other)?;
        Ok((Some(log_id), membership(&mark)?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.durable.reached(entry.log_id.index).await?;
            while self.store.is_full() {
                self.checkpoints.bring_forward_and_wait().await;
            }
            let applied = self.apply_entry(entry.log_id, entry.payload)?;
            if let Some(responder) = responder {
                responder.send(applied);
            }
            if self.store.hot_bytes() >= self.checkpoint_at_bytes {
                self.checkpoints.bring_forward();
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Announcer> {
        Announcer::unless_there_is_none(snapshot_meta(&self.store.checkpointed()), force)
    }

    async fn get_snapshot_builder(&mut self) -> Announcer {
        Announcer(snapshot_meta(&self.store.checkpointed()))
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::File(file) = snapshot else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        loop {
            let (store, file) = (self.store.clone(), file.clone());
            let installing = crate::blocking::run(move || store.install(&file));
            match installing.await.map_err(io::Error::other)? {
                // openraft takes any error for the end of this node. The shard is as it was, so it can be tried again; the leader is
                // told meanwhile that this node is still at work, and gives up before long.
                Err(error) if error.is_want() => {
                    tracing::warn!(%error, "a snapshot can't be installed now; it is tried again");
                    tokio::time::sleep(INSTALL_AGAIN_AFTER).await;
                }
                installed => {
                    installed.map_err(io::Error::other)?;
                    break;
                }
            }
        }
        self.waiters.wake_all();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        if let Some(file) = self.outgoing.kept() {
            let meta = snapshot_meta(&file.manifest().mark)?;
            return Ok(meta.map(|meta| SnapshotOf { meta, snapshot: SnapshotData::File(file) }));
        }
        let store = self.store.clone();
        let pinning = crate::blocking::run(move || store.snapshot());
        let pinned = match pinning.await.map_err(io::Error::other)? {
            Ok(Some(pinned)) => pinned,
            Ok(None) => return Ok(None),
            // An error here would end this node, for a follower's sake; the network says it, and asks again.
            Err(error) if error.is_want() => {
                let meta = snapshot_meta(&self.store.checkpointed())?;
                return Ok(meta.map(|meta| SnapshotOf { meta, snapshot: SnapshotData::NotNow(error.to_string()) }));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let meta = snapshot_meta(pinned.mark())?;
        Ok(meta.map(|meta| SnapshotOf { meta, snapshot: SnapshotData::Shard(Box::new(pinned)) }))
    }
}
