//! openraft's state machine for the meta group: the state whole in memory, published to the rest of the node through a watch,
//! and kept as one checked file. The file is written after every change, because changes are rare; it is only a shortcut for
//! restarts, so a crash before it is written loses nothing: the log still has the change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use iris_protocol::versioned;
use iris_store::{StoreError, read_checked, write_checked};
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::durable::Durable;
use super::meta::{Meta, MetaCommand, MetaState};
use super::raft_types::{Applied, LogId, StoredMembership, TypeConfig, decode, encode};
use super::snapshots::{Announcer, Outgoing, SnapshotData, SnapshotMeta, SnapshotOf, snapshot_meta};

/// Between attempts to install a snapshot that found no room.
const INSTALL_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Version of the checkpoint file.
const FILE_VERSION: u16 = 1;

/// What the rest of the node sees of the meta group: `None` until the cluster is founded.
pub type MetaView = watch::Receiver<Option<Arc<MetaState>>>;

/// The checkpoint file's content.
#[derive(Serialize, Deserialize)]
pub(super) struct Checkpoint {
    log_id: Option<LogId>,
    membership: StoredMembership,
    /// A versioned [`Meta`].
    #[serde(with = "serde_bytes")]
    meta: Vec<u8>,
}

impl Checkpoint {
    pub(super) fn new(log_id: Option<LogId>, membership: StoredMembership, meta: &Meta) -> Self {
        Self { log_id, membership, meta: versioned::encode(meta) }
    }

    pub(super) fn read(bytes: &[u8]) -> io::Result<(Option<LogId>, StoredMembership, Meta)> {
        let checkpoint: Self = decode("meta checkpoint", bytes).map_err(io::Error::other)?;
        let meta = versioned::decode(&checkpoint.meta).map_err(io::Error::other)?;
        Ok((checkpoint.log_id, checkpoint.membership, meta))
    }
}

/// The checkpoint's bytes, if there is one.
fn load(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_checked(path).map_err(io::Error::other)? {
        None => Ok(None),
        Some((FILE_VERSION, bytes)) => Ok(Some(bytes)),
        Some((other, _)) => Err(io::Error::other(format!(
            "{} has version {other}, this Iris reads {FILE_VERSION}: was it written by a newer one?",
            path.display()
        ))),
    }
}

/// The cluster as the checkpoint file of a stopped node knows it: what a start goes by before the meta group runs.
///
/// # Errors
/// The file is damaged, or of another version.
pub fn peek(path: &Path) -> io::Result<Option<MetaState>> {
    let Some(bytes) = load(path)? else { return Ok(None) };
    Ok(Checkpoint::read(&bytes)?.2.state)
}

/// The last log id in the checkpoint at `path`, for a check of it.
pub(super) fn checkpointed(path: &Path) -> io::Result<Option<LogId>> {
    let Some(bytes) = load(path)? else { return Ok(None) };
    Ok(Checkpoint::read(&bytes)?.0)
}

/// The meta group's state machine.
pub struct MetaMachine {
    path: PathBuf,
    applied: Option<LogId>,
    membership: StoredMembership,
    meta: Meta,
    /// What the checkpoint file holds, and so what a snapshot is; `None` before the first one.
    checkpointed: Option<Vec<u8>>,
    outgoing: Outgoing,
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
    pub fn open(path: PathBuf, outgoing: Outgoing, durable: Durable) -> io::Result<(Self, MetaView)> {
        let checkpointed = load(&path)?;
        let (applied, membership, meta) = match &checkpointed {
            None => (None, StoredMembership::default(), Meta::default()),
            Some(bytes) => Checkpoint::read(bytes)?,
        };
        let (publish, view) = watch::channel(meta.state.clone().map(Arc::new));
        Ok((Self { path, applied, membership, meta, checkpointed, outgoing, publish, durable }, view))
    }

    /// How far it is applied.
    #[must_use]
    pub fn applied_index(&self) -> Option<u64> {
        self.applied.map(|id| id.index)
    }

    /// Writes the file, or leaves it as it is for want of room: the log has the change, and keeps it until a file covers it.
    async fn checkpoint(&mut self) -> io::Result<()> {
        let checkpoint = Checkpoint::new(self.applied, self.membership.clone(), &self.meta);
        if let Err(error) = self.write(encode(&checkpoint)).await? {
            tracing::warn!(%error, "the meta group's checkpoint is put off");
        }
        Ok(())
    }

    /// Durable when it returns; the error within is one for want of room or files, and changed nothing.
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Result<(), StoreError>> {
        let (path, content) = (self.path.clone(), bytes.clone());
        let writing = crate::blocking::run(move || write_checked(&path, FILE_VERSION, &content));
        match writing.await.map_err(io::Error::other)? {
            Ok(()) => self.checkpointed = Some(bytes),
            Err(error) if error.is_want() => return Ok(Err(error)),
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(Ok(()))
    }

    fn checkpointed_meta(&self) -> io::Result<Option<SnapshotMeta>> {
        let Some(bytes) = &self.checkpointed else { return Ok(None) };
        let (last_log_id, last_membership, _) = Checkpoint::read(bytes)?;
        Ok(last_log_id.is_some().then_some(SnapshotMeta { last_log_id, last_membership }))
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

/// A state machine that has the meta state.
pub trait HasMetaState {
    /// The state as it is applied, once founded.
    fn state(&self) -> Option<&MetaState>;
}

impl HasMetaState for MetaMachine {
    fn state(&self) -> Option<&MetaState> {
        self.meta.state.as_ref()
    }
}

impl RaftStateMachine<TypeConfig> for MetaMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Announcer;

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

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Announcer> {
        Announcer::unless_there_is_none(self.checkpointed_meta(), force)
    }

    async fn get_snapshot_builder(&mut self) -> Announcer {
        Announcer(self.checkpointed_meta())
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::File(file) = snapshot else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        // The state is the only record.
        let read = crate::blocking::run(move || file.records().next());
        let record = read.await.map_err(io::Error::other)?.transpose().map_err(io::Error::other)?;
        let bytes = record.ok_or_else(|| io::Error::other("a meta snapshot without content"))?;
        let (applied, membership, meta) = Checkpoint::read(&bytes)?;
        while let Err(error) = self.write(bytes.to_vec()).await? {
            // What an error would do here, and why it can wait: as in a shard's machine.
            tracing::warn!(%error, "the meta group's snapshot can't be installed now; it is tried again");
            tokio::time::sleep(INSTALL_AGAIN_AFTER).await;
        }
        (self.applied, self.membership, self.meta) = (applied, membership, meta);
        self.publish.send_replace(self.meta.state.clone().map(Arc::new));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        if let Some(file) = self.outgoing.kept() {
            let meta = snapshot_meta(&file.manifest().mark)?;
            return Ok(meta.map(|meta| SnapshotOf { meta, snapshot: SnapshotData::File(file) }));
        }
        let (meta, bytes) = (self.checkpointed_meta()?, self.checkpointed.clone());
        Ok(meta.zip(bytes).map(|(meta, bytes)| SnapshotOf { meta, snapshot: SnapshotData::Meta(bytes) }))
    }
}
