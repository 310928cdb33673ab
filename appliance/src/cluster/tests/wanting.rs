//! A store that lacks room or files for a while: checkpoints are put off, snapshots tried again, and no member ends for it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use iris_protocol::ShardId;
use iris_store::state::Entry;
use iris_store::warm::{BucketId, Changes, CursorRow, DedupKey, FirstAppend, ShardRow, Verified, WarmRecord, WarmView};
use iris_store::{PageLimits, StoreError, WarmStore};

use futures::FutureExt;

use super::growing::{join_on, settled};
use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// EMFILE and ENOSPC, as Linux numbers them.
const NO_FILES: i32 = 24;
const NO_ROOM: i32 = 28;

/// Fails the first so many of each.
struct Wanting {
    warm: Warm,
    views: AtomicU32,
    installs: AtomicU32,
    checkpoints: AtomicU32,
}

impl Wanting {
    fn store(folder: &Path, views: u32, installs: u32, checkpoints: u32) -> Arc<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let warm = Warm::open(&folder.join("inboxes.db")).unwrap();
        Arc::new(Self { warm, views: views.into(), installs: installs.into(), checkpoints: checkpoints.into() })
    }

    fn want(&self, left: &AtomicU32, number: i32) -> Result<(), StoreError> {
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let source = Arc::new(io::Error::from_raw_os_error(number));
        taken.map_or(Ok(()), |_| Err(StoreError::Io { path: self.path().to_owned(), action: "trying", source }))
    }
}

impl WarmStore for Wanting {
    fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        self.warm.shards()
    }

    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        self.warm.shard(shard)
    }

    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError> {
        self.warm.cursors(shard, each)
    }

    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.want(&self.checkpoints, NO_ROOM)?;
        self.warm.checkpoint(shard, changes)
    }

    fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError> {
        self.warm.scan(shard, user, after, up_to, limits)
    }

    fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError> {
        self.warm.dedup_find(shard, bucket, keys)
    }

    fn dedup_keys(&self, shard: ShardId, bucket: BucketId, each: &mut dyn FnMut(DedupKey)) -> Result<(), StoreError> {
        self.warm.dedup_keys(shard, bucket, each)
    }

    fn view(&self, shard: ShardId) -> Result<Option<Box<dyn WarmView>>, StoreError> {
        self.want(&self.views, NO_FILES)?;
        self.warm.view(shard)
    }

    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        self.want(&self.installs, NO_ROOM)?;
        self.warm.install(shard, row, records)
    }

    fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.warm.remove(shard)
    }

    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
        self.warm.verify(each)
    }

    fn path(&self) -> &Path {
        self.warm.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_find_no_room_or_files_are_tried_again() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1)]);
    let warm = Wanting::store(&dir.path().join("n1"), 3, 0, 6);
    let one = try_run_on(&net, dir.path(), 1, founding.nodes.clone(), Some(founding), warm.clone()).await.unwrap();
    let mut expected = Vec::new();
    for key in 0..20 {
        expected.push((one.committed("alice", key).await, key));
        expected.push((one.committed("alice", 100 + key).await, 100 + key));
    }
    let groups = one.member.shards.in_order();
    let give_up = tokio::time::Instant::now() + DEADLINE;
    while groups.iter().any(|group| group.store.checkpointed() != group.store.applied()) {
        assert!(tokio::time::Instant::now() < give_up, "checkpoints never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(warm.checkpoints.load(Ordering::SeqCst), 0);
    // So that who joins gets a snapshot.
    for group in &groups {
        let upto = group.store.checkpointed().index;
        super::super::purge::purge(&group.raft, &group.log, &group.outgoing, upto).await;
        let purged = group.raft.wait(Some(DEADLINE));
        purged.metrics(|now| now.purged.is_some_and(|id| id.index == upto), "the purge").await.unwrap();
    }
    drop(groups);
    let warm_two = Wanting::store(&dir.path().join("n2"), 0, 2, 0);
    let two = join_on(&net, dir.path(), &one, 2, warm_two.clone()).await;
    settled(&one, &[1, 2]).await;
    assert_eq!((warm.views.load(Ordering::SeqCst), warm_two.installs.load(Ordering::SeqCst)), (0, 0));
    for node in [&one, &two] {
        assert_eq!(node.read("alice").await, expected);
    }
    assert!(one.supervisor.fatal().now_or_never().is_none() && two.supervisor.fatal().now_or_never().is_none());
    for node in [one, two] {
        node.die().await;
    }
}
