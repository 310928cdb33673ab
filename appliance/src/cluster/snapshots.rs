//! What openraft is told about snapshots while the log is whole: there are none, and none is needed, because every follower
//! can be brought up to date from the log (docs/decisions/0004-no-snapshots-while-the-log-is-whole.md). The policy is
//! `Never` and nothing purges, so these answers are never asked for in normal operation; if they are, they refuse loudly.

use std::io;

use openraft::RaftSnapshotBuilder;

use super::raft_types::TypeConfig;

pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type SnapshotOf = openraft::alias::SnapshotOf<TypeConfig, ()>;

/// The error for whoever asks for a snapshot.
pub(crate) fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this version of Iris never purges its log and so has no snapshots")
}

/// Builds nothing.
pub struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        Err(no_snapshots())
    }
}
