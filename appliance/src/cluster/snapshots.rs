//! Snapshots as openraft sees them. A snapshot is the last checkpoint, nothing else: log id and membership of both are the same,
//! so purge, snapshot and restart meet at one index (docs/decisions). Building one costs nothing; it is copied into a file only
//! when a follower needs it, off the apply path. Owns what crosses openraft and the one file a group keeps for followers;
//! how it travels is [`super::bulk`]'s business.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iris_store::snapshot::{SnapshotFile, SnapshotWriter, Subject};
use iris_store::{AppliedMark, GroupLog, ShardSnapshot};
use openraft::RaftSnapshotBuilder;
use tokio::time::Instant;

use super::raft_types::{StoredMembership, TypeConfig, decode, encode};

pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type SnapshotOf = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// How long a group keeps its log for a follower that is being sent a snapshot, without hearing from it: a follower that comes
/// back within it goes on where it stopped.
const HOLD_UNHEARD_MAX: Duration = Duration::from_secs(10 * 60);

/// How long it keeps it in all: whatever goes wrong over there must not fill this disk.
const HOLD_MAX: Duration = Duration::from_secs(60 * 60);

/// How long it keeps it once a follower has the snapshot: what came meanwhile is still to be sent from the log.
const HOLD_AFTER: Duration = Duration::from_secs(60);

/// What openraft hands from a state machine to the network, and from the network to a state machine.
pub enum SnapshotData {
    /// It exists; that is all that was asked for.
    Announced,
    /// A shard's checkpoint, pinned.
    Shard(Box<ShardSnapshot>),
    /// The meta group's checkpoint.
    Meta(Vec<u8>),
    /// There is one, but it can't be had at this moment; why.
    NotNow(String),
    /// Copied into a file: being sent, or received whole.
    File(Arc<SnapshotFile>),
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Announced => "Announced",
            Self::Shard(_) => "Shard(..)",
            Self::Meta(_) => "Meta(..)",
            Self::NotNow(_) => "NotNow(..)",
            Self::File(_) => "File(..)",
        })
    }
}

impl SnapshotData {
    /// Copies it into a file in `dir`. Blocks on the disk.
    fn into_file(self, dir: &Path, mark: AppliedMark) -> io::Result<Arc<SnapshotFile>> {
        let file = match self {
            Self::File(file) => return Ok(file),
            Self::Announced => return Err(io::Error::other("this snapshot was only announced")),
            Self::NotNow(why) => return Err(io::Error::other(why)),
            Self::Shard(snapshot) => snapshot.export(dir).map_err(io::Error::other)?,
            Self::Meta(bytes) => {
                let mut writer = SnapshotWriter::create(dir, Subject::Meta, mark).map_err(io::Error::other)?;
                writer.record(&bytes).map_err(io::Error::other)?;
                writer.finish().map_err(io::Error::other)?
            }
        };
        Ok(Arc::new(file))
    }
}

/// openraft's words for a checkpoint; `None` before the first one.
pub(super) fn snapshot_meta(mark: &AppliedMark) -> io::Result<Option<SnapshotMeta>> {
    if mark.log_id.is_empty() {
        return Ok(None);
    }
    Ok(Some(SnapshotMeta {
        last_log_id: Some(decode("applied log id", &mark.log_id).map_err(io::Error::other)?),
        last_membership: membership(mark)?,
    }))
}

/// The checkpoint that openraft's words are of.
pub(super) fn mark_of(meta: &SnapshotMeta) -> AppliedMark {
    let (index, log_id) = meta.last_log_id.map_or((0, Bytes::new()), |id| (id.index, encode(&id).into()));
    AppliedMark { index, log_id, membership: encode(&meta.last_membership).into() }
}

/// The membership that holds at a mark.
pub(super) fn membership(mark: &AppliedMark) -> io::Result<StoredMembership> {
    if mark.membership.is_empty() {
        return Ok(StoredMembership::default());
    }
    decode("membership", &mark.membership).map_err(io::Error::other)
}

/// The file that a group keeps while followers need it. Cheap to clone; state machine, network and purge share it.
#[derive(Clone)]
pub struct Outgoing {
    log: GroupLog,
    dir: PathBuf,
    state: Arc<Mutex<State>>,
    /// One copy at a time; who comes second takes the first one's file.
    copying: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    file: Option<Arc<SnapshotFile>>,
    hold: Option<Hold>,
}

/// The log behind an index is kept.
#[derive(Clone, Copy)]
struct Hold {
    index: u64,
    /// Since it began.
    since: Instant,
    /// Unless something is heard.
    until: Instant,
}

impl Hold {
    fn on(index: u64) -> Self {
        let now = Instant::now();
        Self { index, since: now, until: now + HOLD_UNHEARD_MAX }
    }

    fn stands(&self) -> bool {
        Instant::now() < self.until && self.since.elapsed() < HOLD_MAX
    }
}

impl Outgoing {
    /// Nothing yet; files will be made in `dir`.
    pub(super) fn new(log: GroupLog, dir: PathBuf) -> Self {
        Self { log, dir, state: Arc::default(), copying: Arc::default() }
    }

    /// The kept file, if the log still reaches back to it: a follower that was cut off in the middle goes on with it.
    pub(super) fn kept(&self) -> Option<Arc<SnapshotFile>> {
        let mut state = self.lock();
        let file = state.file.clone()?;
        let reached = self.log.first_index().is_none_or(|first| first <= file.manifest().mark.index + 1);
        if reached && state.hold.is_some_and(|hold| hold.stands()) {
            return Some(file);
        }
        drop_file(&mut state);
        None
    }

    /// What was pinned, as a file.
    ///
    /// # Errors
    /// The disk's.
    pub(super) async fn file(&self, data: SnapshotData, mark: AppliedMark) -> io::Result<Arc<SnapshotFile>> {
        let _one = self.copying.lock().await;
        if let Some(kept) = self.kept().filter(|kept| kept.manifest().mark == mark) {
            return Ok(kept);
        }
        // From here on, so that the log still reaches back to it when the copy is made.
        drop_file(&mut self.lock());
        self.lock().hold = Some(Hold::on(mark.index));
        let dir = self.dir.clone();
        let file = crate::blocking::run(move || data.into_file(&dir, mark)).await.map_err(io::Error::other)??;
        self.lock().file = Some(file.clone());
        self.touch();
        Ok(file)
    }

    /// A follower was heard from.
    pub(super) fn touch(&self) {
        if let Some(hold) = &mut self.lock().hold {
            hold.until = Instant::now() + HOLD_UNHEARD_MAX;
        }
    }

    /// A follower has it whole.
    pub(super) fn done(&self) {
        let mut state = self.lock();
        drop_file(&mut state);
        if let Some(hold) = &mut state.hold {
            hold.until = Instant::now() + HOLD_AFTER;
        }
    }

    /// The file is no good.
    pub(super) fn forget(&self) {
        drop_file(&mut self.lock());
    }

    /// The log must be kept behind this index.
    pub(super) fn held_index(&self) -> Option<u64> {
        self.lock().hold.filter(Hold::stands).map(|hold| hold.index)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever still reads the file goes on doing so.
fn drop_file(state: &mut State) {
    if let Some(file) = state.file.take() {
        remove(&file);
    }
}

/// Removes a file that nobody needs any more. One that stays costs room until the next start, no more.
pub(super) fn remove(file: &SnapshotFile) {
    if let Err(error) = std::fs::remove_file(file.path()) {
        tracing::warn!(path = %file.path().display(), %error, "a snapshot that is not needed any more can't be removed");
    }
}

/// Answers openraft's question for a new snapshot with what the last checkpoint is.
pub struct Announcer(pub(super) io::Result<Option<SnapshotMeta>>);

impl Announcer {
    /// Puts it off while there is no checkpoint yet: an error would end the Raft core, and the node with it.
    pub(super) fn unless_there_is_none(meta: io::Result<Option<SnapshotMeta>>, force: bool) -> Option<Self> {
        (force || !matches!(meta, Ok(None))).then_some(Self(meta))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Announcer {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        let meta = std::mem::replace(&mut self.0, Ok(None))?;
        let meta = meta.ok_or_else(|| io::Error::other("there is no checkpoint to make a snapshot of"))?;
        Ok(SnapshotOf { meta, snapshot: SnapshotData::Announced })
    }
}
