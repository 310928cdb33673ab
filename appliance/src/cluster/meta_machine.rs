//! openraft's state machine for the meta group: the state whole in memory, published to the rest of the node through a watch,
//! and kept as one checked file. The file is written after every change, because changes are rare; it is only a shortcut for
//! restarts, so a crash before it is written loses nothing: the log still has the change.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use iris_protocol::versioned;
use iris_store::{read_checked, write_checked};
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::durable::Durable;
use super::meta::{Meta, MetaCommand, MetaState};
use super::raft_types::{Applied, LogId, StoredMembership, TypeConfig, decode, encode};
use super::snapshots::{NoSnapshots, SnapshotMeta, SnapshotOf, no_snapshots};

/// Version of the checkpoint file.
const FILE_VERSION: u16 = 1;

/// What the rest of the node sees of the meta group: `None` until the cluster is founded.
pub type MetaView = watch::Receiver<Option<Arc<MetaState>>>;

/// The checkpoint file's content.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    log_id: Option<LogId>,
    membership: StoredMembership,
    /// A versioned [`Meta`].
    #[serde(with = "serde_bytes")]
    meta: Vec<u8>,
}

/// The meta group's state machine.
pub struct MetaMachine {
    path: PathBuf,
    applied: Option<LogId>,
    membership: StoredMembership,
    meta: Meta,
    publish: watch::Sender<Option<Arc<MetaState>>>,
    durable: Durable,
}

impl std::fmt::Debug for MetaMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaMachine").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl MetaMachine {
    /// Opens the checkpoint, if there is one.
    ///
    /// # Errors
    /// The file is there but damaged, or of another version: it says which, and nothing is overwritten.
    pub fn open(path: PathBuf, durable: Durable) -> io::Result<(Self, MetaView)> {
        let (applied, membership, meta) = match read_checked(&path).map_err(io::Error::other)? {
            None => (None, StoredMembership::default(), Meta::default()),
            Some((FILE_VERSION, bytes)) => {
                let checkpoint: Checkpoint = decode("meta checkpoint", &bytes).map_err(io::Error::other)?;
                let meta = versioned::decode(&checkpoint.meta).map_err(io::Error::other)?;
                (checkpoint.log_id, checkpoint.membership, meta)
            }
            Some((other, _)) => {
                return Err(io::Error::other(format!(
                    "{} has version {other}, this Iris reads {FILE_VERSION}: was it written by a newer one?",
                    path.display()
                )));
            }
        };
        let (publish, view) = watch::channel(meta.state.clone().map(Arc::new));
        Ok((Self { path, applied, membership, meta, publish, durable }, view))
    }

    async fn checkpoint(&self) -> io::Result<()> {
        let checkpoint = Checkpoint {
            log_id: self.applied,
            membership: self.membership.clone(),
            meta: versioned::encode(&self.meta),
        };
        let (path, bytes) = (self.path.clone(), encode(&checkpoint));
        tokio::task::spawn_blocking(move || write_checked(&path, FILE_VERSION, &bytes))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }

    fn apply_entry(
        &mut self,
        payload: EntryPayload<super::raft_types::Command, iris_protocol::NodeId, ()>,
        log_id: LogId,
    ) -> io::Result<(Applied, bool)> {
        self.applied = Some(log_id);
        Ok(match payload {
            EntryPayload::Blank => (Applied::Nothing, false),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                (Applied::Nothing, true)
            }
            EntryPayload::Normal(command) => {
                let command: MetaCommand = versioned::decode(&command.0).map_err(io::Error::other)?;
                let outcome = self.meta.apply(command);
                let changed = outcome.has_changed();
                (Applied::Meta(outcome), changed)
            }
        })
    }
}

impl RaftStateMachine<TypeConfig> for MetaMachine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.durable.reached(entry.log_id.index).await?;
            let (applied, changed) = self.apply_entry(entry.payload, entry.log_id)?;
            if changed {
                self.checkpoint().await?;
                self.publish.send_replace(self.meta.state.clone().map(Arc::new));
            }
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _snapshot: ()) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        Ok(None)
    }
}
