//! A snapshot over an in-memory stream: whole, cut off and gone on with, refused, damaged on the way, and with a side that
//! falls silent.

use std::sync::Mutex;

use iris_protocol::NodeId;
use iris_store::snapshot::{SnapshotWriter, Subject};
use iris_store::{AppliedMark, GroupId, LogOptions, RaftLog};
use openraft::vote::RaftLeaderId;
use openraft::vote::leader_id_adv::LeaderId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::cluster::raft_types::encode;

fn vote(term: u64) -> Vote {
    Vote::new_committed(term, NodeId(1))
}

fn meta(index: u64) -> SnapshotMeta {
    let id = LogId::new(LeaderId::new(3, NodeId(1)).to_committed(), index);
    SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::default() }
}

/// Takes every snapshot, for a group whose vote is of term 5.
#[derive(Default)]
struct Shelf {
    busy: Arc<tokio::sync::Mutex<()>>,
    installed: Mutex<Vec<Vec<u8>>>,
    pause: Option<Duration>,
}

impl Installer for Shelf {
    fn begin(&self, group: u16, _bytes: u64) -> Result<(Vote, Reception), String> {
        assert_eq!(group, 7);
        let one = self.busy.clone().try_lock_owned().map_err(|_| "busy".to_owned())?;
        Ok((vote(5), one))
    }

    fn install(
        &self,
        _: u16,
        vote: Vote,
        meta: SnapshotMeta,
        file: Arc<SnapshotFile>,
    ) -> BoxFuture<'_, Result<Vote, String>> {
        Box::pin(async move {
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            assert_eq!(meta.last_log_id.unwrap().index, 40);
            self.installed.lock().unwrap().extend(file.records().map(|record| record.unwrap().to_vec()));
            Ok(vote)
        })
    }
}

/// A stream that breaks after so many bytes were written to it.
struct Cut<S>(S, usize);

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        if self.1 == 0 {
            return std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = buf.len().min(self.1);
        let written = std::pin::Pin::new(&mut self.0).poll_write(cx, &buf[..len]);
        if let std::task::Poll::Ready(Ok(written)) = &written {
            self.1 -= written;
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Scene {
    dir: tempfile::TempDir,
    log: RaftLog,
    file: Arc<SnapshotFile>,
    records: Vec<Vec<u8>>,
    outgoing: Outgoing,
}

impl Scene {
    /// A snapshot of some twenty chunks.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = RaftLog::open(LogOptions::new(dir.path().join("log"))).unwrap();
        let mark = AppliedMark { index: 40, log_id: encode(&meta(40).last_log_id).into(), membership: Bytes::new() };
        let mut writer = SnapshotWriter::create(&dir.path().join("out"), Subject::Meta, mark).unwrap();
        let records: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; CHUNK_LEN_MAX - 1_000]).collect();
        records.iter().for_each(|record| writer.record(record).unwrap());
        let file = Arc::new(writer.finish().unwrap());
        assert!(file.manifest().chunks > 10);
        let outgoing = Outgoing::new(log.group(GroupId(9)), dir.path().join("out"));
        Self { dir, log, file, records, outgoing }
    }

    /// One attempt, of which this many bytes get through; what both sides say.
    async fn attempt(&self, shelf: &Shelf, term: u64, bytes: usize) -> (io::Result<Vote>, anyhow::Result<()>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let ours: PeerStream = Box::new(Cut(ours, bytes));
        let into = self.dir.path().join("in");
        let meta = meta(40);
        tokio::join!(
            send(ours, 7, vote(term), &meta, &self.file, &self.outgoing),
            receive(Box::new(theirs), &into, shelf)
        )
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.log.shutdown();
    }
}

#[tokio::test]
async fn arrives_whole_and_tells_the_vote() {
    let (scene, shelf) = (Scene::new(), Shelf::default());
    let (sent, received) = scene.attempt(&shelf, 6, usize::MAX).await;
    received.unwrap();
    assert_eq!(sent.unwrap(), vote(6));
    assert_eq!(*shelf.installed.lock().unwrap(), scene.records);
}

#[tokio::test]
async fn what_was_cut_off_goes_on_where_it_stopped() {
    let (scene, shelf) = (Scene::new(), Shelf::default());
    let half = usize::try_from(scene.file.manifest().bytes / 2).unwrap();
    let (sent, received) = scene.attempt(&shelf, 6, half).await;
    assert!(sent.is_err() && received.is_err());
    assert!(shelf.installed.lock().unwrap().is_empty());
    // Half of it again, and a little for the offer, is not enough unless the first half is still there.
    let (sent, received) = scene.attempt(&shelf, 6, half + 2 * CHUNK_LEN_MAX).await;
    received.unwrap();
    sent.unwrap();
    assert_eq!(*shelf.installed.lock().unwrap(), scene.records);
}

#[tokio::test]
async fn a_follower_with_a_higher_vote_takes_nothing() {
    let (scene, shelf) = (Scene::new(), Shelf::default());
    let (sent, received) = scene.attempt(&shelf, 4, 10_000).await;
    received.unwrap();
    assert_eq!(sent.unwrap(), vote(5));
    assert!(shelf.installed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_at_a_time() {
    let (scene, shelf) = (Scene::new(), Shelf::default());
    let _one = shelf.busy.clone().try_lock_owned().unwrap();
    let (sent, received) = scene.attempt(&shelf, 6, usize::MAX).await;
    received.unwrap();
    assert!(sent.unwrap_err().to_string().contains("busy"));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_installs_for_long_keeps_the_leader_waiting() {
    let (scene, shelf) = (Scene::new(), Shelf { pause: Some(10 * STEP_DEADLINE), ..Shelf::default() });
    let (sent, received) = scene.attempt(&shelf, 6, usize::MAX).await;
    received.unwrap();
    sent.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_side_is_given_up() {
    let scene = Scene::new();
    let (ours, _theirs) = tokio::io::duplex(64 * 1024);
    let sent = send(Box::new(ours), 7, vote(6), &meta(40), &scene.file, &scene.outgoing).await;
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let (_ours, theirs) = tokio::io::duplex(64 * 1024);
    assert!(receive(Box::new(theirs), scene.dir.path(), &Shelf::default()).await.is_err());
}

#[tokio::test]
async fn a_frame_too_long_is_refused_before_room_is_made_for_it() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    ours.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = receive(Box::new(theirs), dir.path(), &Shelf::default()).await.unwrap_err();
    assert!(refused.to_string().contains("at most"), "{refused}");
}
