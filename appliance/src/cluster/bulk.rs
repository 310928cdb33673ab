//! Sends a snapshot to a follower and takes one in: a stream of its own for each, in checksummed chunks under a small window, so
//! that Raft's messages on the same link hardly notice. Every step has a deadline; after a break the follower says how far it
//! came, and the leader goes on from there if it still has that file.
//!
//! On the wire, each with its length as u32 before it: `Offer`, answered by `Reply::From`; then the chunks as they lie in the
//! file, each answered by `Reply::Took`; at the end `Reply::Installed`. `Reply::Working` may come at any time.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use iris_protocol::versioned::{self, Versioned};
use iris_store::snapshot::{CHUNK_LEN_MAX, SnapshotFile, SnapshotManifest, SnapshotReceiver};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raft_types::{LogId, StoredMembership, Vote};
use super::snapshots::{Outgoing, SnapshotMeta};
use super::transport::PeerStream;

/// Chunks of 64 KiB on their way at once. With one, a small call beside it takes up to 2.5 times as long as on an idle link, with
/// four up to 3.6 times (docs/performance.md), and one still carries hundreds of megabytes a second at home.
const WINDOW_CHUNKS: u64 = 1;

/// Longest a step may take: a chunk to be sent or taken, a word of the other side to come.
const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// How often a follower that is still at work says so.
const WORKING_EVERY: Duration = Duration::from_secs(1);

/// Longest a follower may be at work at one thing, reading what it has or installing: a home's slow disk writes some 100 GB
/// meanwhile, and one that hangs must not be waited for.
const WORK_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Bytes of a frame: a chunk with its head; an offer's membership has some bytes for each node.
const FRAME_LEN_MAX: usize = CHUNK_LEN_MAX + 4 * 1024;

/// What the leader begins with.
#[derive(Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) group: u16,
    pub(super) vote: Vote,
    pub(super) last_log_id: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) manifest: SnapshotManifest,
}

impl Versioned for Offer {
    const NAME: &'static str = "snapshot offer";
    const VERSION: u8 = 1;
}

/// What the follower answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Send from this chunk on.
    From(u64),
    /// This many chunks are here.
    Took(u64),
    /// Still at work.
    Working,
    /// It is installed, or this follower knows a higher vote: its vote now.
    Installed(Vote),
    /// Not now; why.
    Refused(String),
}

impl Versioned for Reply {
    const NAME: &'static str = "snapshot reply";
    const VERSION: u8 = 1;
}

/// Whom a received snapshot is for.
pub(super) trait Installer: Send + Sync {
    /// The vote a group has now; an error if there is no such group here, or one is being received for it already, or so many
    /// bytes have no room here.
    fn begin(&self, group: u16, bytes: u64) -> Result<(Vote, Reception), String>;

    /// Installs it; the group's vote afterwards.
    fn install(
        &self,
        group: u16,
        vote: Vote,
        meta: SnapshotMeta,
        file: Arc<SnapshotFile>,
    ) -> BoxFuture<'_, Result<Vote, String>>;
}

/// Held while a snapshot is received for a group: one at a time.
pub(super) type Reception = tokio::sync::OwnedMutexGuard<()>;

/// Sends a snapshot; the follower's vote after it was installed.
///
/// # Errors
/// The stream broke, a step took too long, or the follower refused. May be tried again: it goes on where it stopped.
pub(super) async fn send(
    mut stream: PeerStream,
    group: u16,
    vote: Vote,
    meta: &SnapshotMeta,
    file: &Arc<SnapshotFile>,
    outgoing: &Outgoing,
) -> io::Result<Vote> {
    let manifest = file.manifest().clone();
    let chunks = manifest.chunks;
    let offer =
        Offer { group, vote, last_log_id: meta.last_log_id, membership: meta.last_membership.clone(), manifest };
    write_frame(&mut stream, &versioned::encode(&offer)).await?;
    let mut took = loop {
        match read_reply(&mut stream).await? {
            Reply::From(chunk) if chunk <= chunks => break chunk,
            Reply::Working => outgoing.touch(),
            Reply::Installed(vote) => return Ok(vote),
            other => return Err(unexpected(&other)),
        }
    };
    let mut next = took;
    loop {
        while next < chunks && next - took < WINDOW_CHUNKS {
            let (file, at) = (file.clone(), next);
            let chunk = crate::blocking::run(move || file.chunk(at)).await.map_err(io::Error::other)?;
            write_frame(&mut stream, &chunk.map_err(io::Error::other)?).await?;
            next += 1;
        }
        match read_reply(&mut stream).await? {
            Reply::Took(count) if count > took && count <= next => {
                took = count;
                outgoing.touch();
            }
            Reply::Working => outgoing.touch(),
            Reply::Installed(vote) => return Ok(vote),
            other => return Err(unexpected(&other)),
        }
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    match reply {
        Reply::Refused(why) => io::Error::other(format!("the follower takes no snapshot now: {why}")),
        other => io::Error::other(format!("the follower answered {other:?} out of turn")),
    }
}

/// Takes in one snapshot from a leader.
///
/// # Errors
/// The stream broke, a step took too long, or what came is not what was offered. What was received whole chunks of is kept for
/// the next attempt.
pub(super) async fn receive(mut stream: PeerStream, dir: &Path, installer: &dyn Installer) -> anyhow::Result<()> {
    let offer: Offer = versioned::decode(&read_frame(&mut stream).await?)?;
    let (mine, _one) = match installer.begin(offer.group, offer.manifest.bytes) {
        Ok(begun) => begun,
        Err(why) => return refuse(&mut stream, why).await,
    };
    if mine > offer.vote {
        return Ok(write_reply(&mut stream, &Reply::Installed(mine)).await?);
    }
    let (dir, manifest) = (dir.to_owned(), offer.manifest.clone());
    // What is here already is read first, all of it.
    let beginning = crate::blocking::run(move || SnapshotReceiver::begin_or_resume(&dir, manifest));
    let mut receiver = match say_working(&mut stream, beginning).await?? {
        Ok(receiver) => receiver,
        Err(error) => {
            tracing::warn!(group = offer.group, %error, "a snapshot can't be taken in");
            return refuse(&mut stream, error.to_string()).await;
        }
    };
    tracing::info!(
        group = offer.group,
        bytes = offer.manifest.bytes,
        from_chunk = receiver.next_chunk(),
        chunks = offer.manifest.chunks,
        "taking in a snapshot"
    );
    write_reply(&mut stream, &Reply::From(receiver.next_chunk())).await?;
    while receiver.next_chunk() < offer.manifest.chunks {
        let chunk = read_frame(&mut stream).await?;
        let taken = crate::blocking::run(move || receiver.chunk(&chunk).map(|()| receiver)).await?;
        receiver = taken?;
        write_reply(&mut stream, &Reply::Took(receiver.next_chunk())).await?;
    }
    let meta = SnapshotMeta { last_log_id: offer.last_log_id, last_membership: offer.membership };
    let installing = async {
        let file = crate::blocking::run(move || receiver.finish()).await.map_err(|error| error.to_string())?;
        let file = Arc::new(file.map_err(|error| error.to_string())?);
        installer.install(offer.group, offer.vote, meta, file).await
    };
    match say_working(&mut stream, installing).await? {
        Ok(vote) => {
            tracing::info!(group = offer.group, "a snapshot is installed");
            Ok(write_reply(&mut stream, &Reply::Installed(vote)).await?)
        }
        Err(why) => {
            tracing::warn!(group = offer.group, why, "a snapshot could not be installed");
            refuse(&mut stream, why).await
        }
    }
}

/// Waits for `work`, and keeps the leader waiting with it.
async fn say_working<T>(stream: &mut PeerStream, work: impl Future<Output = T>) -> io::Result<T> {
    tokio::pin!(work);
    let give_up = tokio::time::Instant::now() + WORK_DEADLINE;
    loop {
        if tokio::time::Instant::now() >= give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match tokio::time::timeout(WORKING_EVERY, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => write_reply(stream, &Reply::Working).await?,
        }
    }
}

async fn refuse(stream: &mut PeerStream, why: String) -> anyhow::Result<()> {
    Ok(write_reply(stream, &Reply::Refused(why)).await?)
}

async fn write_reply(stream: &mut PeerStream, reply: &Reply) -> io::Result<()> {
    write_frame(stream, &versioned::encode(reply)).await
}

async fn read_reply(stream: &mut PeerStream) -> io::Result<Reply> {
    versioned::decode(&read_frame(stream).await?).map_err(io::Error::other)
}

async fn write_frame(stream: &mut PeerStream, content: &[u8]) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(4 + content.len());
    out.put_u32(content.len() as u32);
    out.put_slice(content);
    tokio::time::timeout(STEP_DEADLINE, async {
        stream.write_all(&out).await?;
        stream.flush().await
    })
    .await?
}

async fn read_frame(stream: &mut PeerStream) -> io::Result<Bytes> {
    tokio::time::timeout(STEP_DEADLINE, async {
        let len = stream.read_u32().await? as usize;
        if len > FRAME_LEN_MAX {
            return Err(io::Error::other(format!("a frame of {len} bytes, at most {FRAME_LEN_MAX} are allowed")));
        }
        let mut content = BytesMut::zeroed(len);
        stream.read_exact(&mut content).await?;
        Ok(content.freeze())
    })
    .await?
}

#[cfg(test)]
#[path = "bulk_tests.rs"]
mod tests;
