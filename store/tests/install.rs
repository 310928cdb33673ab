//! A shard's way from one replica to another: exported from its last checkpoint, installed in the place of another state,
//! while everything else goes on; and a crash at any point of it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use iris_store::warm::{ShardRow, WarmRecord, WarmStore};
use iris_store::{
    Item, NewMessage, Outcome, PageLimits, ShardStore, SnapshotFile, StoreError, StoreOptions, Warm, encode_batch,
};

const WIDE: PageLimits = PageLimits { entries_max: 100_000, bytes_max: 1 << 30 };
const USERS: u64 = 7;

fn user(name: u64) -> UserId {
    UserId::new(format!("user {name}")).unwrap()
}

fn phone() -> DeviceId {
    DeviceId::new("phone").unwrap()
}

/// The command at a log index: messages to everyone and a cursor.
fn command(index: u64, len: u64) -> Bytes {
    let message = |n| {
        Item::Message(NewMessage {
            sender: user(n % 3),
            key: MessageKey(u128::from(index * 10_000 + n).to_be_bytes()),
            recipient: user(n % USERS),
            kind: 1,
            stamp: EntryId(index << 30 | n),
            body: Bytes::from(vec![n as u8; 100]),
        })
    };
    let mut items: Vec<Item> = (0..len).map(message).collect();
    let cursor = EntryId(index << 30);
    items.push(Item::Cursor { user: user(index % USERS), device: phone(), cursor, seen: cursor });
    encode_batch(&items)
}

fn apply(store: &ShardStore, index: u64) -> Vec<Outcome> {
    store.apply(index, Bytes::from(format!("log id {index}")), &command(index, 40)).unwrap().outcomes
}

fn open(warm: &Arc<Warm>, shard: u16) -> ShardStore {
    ShardStore::open(warm.clone(), ShardId(shard), StoreOptions::default()).unwrap()
}

fn warm(dir: &Path) -> Arc<Warm> {
    Arc::new(Warm::open(&dir.join("warm.db")).unwrap())
}

/// Everything a shard answers with.
fn seen(store: &ShardStore) -> String {
    let inboxes: Vec<_> = (0..USERS).map(|n| store.read(&user(n), EntryId::ZERO, WIDE).unwrap()).collect();
    let cursors: Vec<_> = (0..USERS).map(|n| store.cursor(&user(n), &phone()).unwrap()).collect();
    format!("{:?} {:?} {inboxes:?} {cursors:?}", store.applied(), store.last_stamp())
}

fn export(store: &ShardStore, dir: &Path) -> SnapshotFile {
    store.snapshot().unwrap().unwrap().export(&dir.join("snapshots")).unwrap()
}

#[test]
fn an_installed_replica_answers_as_the_one_it_came_from() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let leader = open(&warm(a.path()), 1);
    assert!(leader.snapshot().unwrap().is_none(), "nothing before the first checkpoint");
    (1..=20).for_each(|index| drop(apply(&leader, index)));
    leader.checkpoint().unwrap();
    // What came after the checkpoint isn't in the snapshot: the log carries it.
    (21..=25).for_each(|index| drop(apply(&leader, index)));
    let file = export(&leader, a.path());
    assert_eq!((file.manifest().mark.index, &file.manifest().mark), (20, &leader.checkpointed()));
    let tier = warm(b.path());
    let follower = open(&tier, 1);
    apply(&follower, 1);
    follower.checkpoint().unwrap();
    apply(&follower, 2);
    follower.install(&file).unwrap();
    assert_eq!((follower.applied(), follower.checkpointed()), (file.manifest().mark.clone(), follower.applied()));
    assert_eq!(follower.hot_bytes(), 0);
    // Duplicates of what came with the snapshot are known.
    for (again, index) in [(21, 3), (22, 20)] {
        let reply = follower.apply(again, Bytes::from_static(b"again"), &command(index, 40)).unwrap();
        assert!(reply.outcomes[..40].iter().all(|outcome| matches!(outcome, Outcome::Duplicate(_))), "{reply:?}");
    }
    let follower = open(&tier, 1);
    (21..=25).for_each(|index| drop(apply(&follower, index)));
    assert_eq!(seen(&follower), seen(&leader));
    follower.checkpoint().unwrap();
    assert_eq!(seen(&open(&tier, 1)), seen(&leader));
}

#[test]
fn a_snapshot_that_cannot_be_is_refused_and_changes_nothing() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = open(&warm(a.path()), 1);
    (1..=50).for_each(|index| drop(apply(&source, index)));
    source.checkpoint().unwrap();
    let file = export(&source, a.path());
    let tier = warm(b.path());
    let target = open(&tier, 1);
    (1..=3).for_each(|index| drop(apply(&target, index)));
    target.checkpoint().unwrap();
    apply(&target, 4);
    let before = seen(&target);
    assert!(open(&tier, 2).install(&file).is_err(), "of another shard");
    // Damage that came after it was received.
    let mut bytes = std::fs::read(file.path()).unwrap();
    let at = bytes.len() * 3 / 4;
    bytes[at] ^= 1;
    std::fs::write(file.path(), bytes).unwrap();
    assert!(matches!(target.install(&file), Err(StoreError::Corrupt { .. })));
    assert_eq!(seen(&target), before);
    target.checkpoint().unwrap();
    assert_eq!(seen(&open(&tier, 1)), before);
    // Older than what is here.
    let old = export(&open(&tier, 1), b.path());
    apply(&target, 5);
    assert!(matches!(target.install(&old), Err(StoreError::OutOfOrder { index: 4, applied: 5, .. })));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// The row and the records of a shard.
fn all(tier: &Warm, shard: u16) -> (ShardRow, Vec<WarmRecord>) {
    let mut view = tier.view(ShardId(shard)).unwrap().unwrap();
    let mut found = Vec::new();
    let row = view.row().clone();
    view.each(&mut |record| {
        found.push(record);
        Ok(())
    })
    .unwrap();
    (row, found)
}

#[test]
fn a_crash_at_any_point_of_an_install_leaves_the_old_or_the_new() {
    let (a, b, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source_tier = warm(a.path());
    let source = open(&source_tier, 1);
    (1..=60).for_each(|index| drop(apply(&source, index)));
    source.checkpoint().unwrap();
    let tier = warm(b.path());
    let target = open(&tier, 1);
    (1..=30).for_each(|index| drop(apply(&target, index)));
    target.checkpoint().unwrap();
    let (before, after) = (seen(&target), seen(&source));
    drop(target);
    let (row, records) = all(&source_tier, 1);
    assert!(records.len() > 4_000, "more than two steps");
    let mut taken = 0;
    let mut stepping = records.into_iter().enumerate().map(|(n, record)| {
        // The disk as a crash here leaves it.
        if n % 400 == 0 {
            copy(b.path(), &copies.path().join(taken.to_string()));
            taken += 1;
        }
        Ok(record)
    });
    tier.install(ShardId(1), &row, &mut stepping).unwrap();
    drop(stepping);
    copy(b.path(), &copies.path().join("after"));
    assert!(taken > 10);
    for n in 0..taken {
        let tier = warm(&copies.path().join(n.to_string()));
        let store = open(&tier, 1);
        assert_eq!(seen(&store), before, "copy {n}");
        // The node goes on, and what the install left is removed with the next checkpoints.
        apply(&store, 31);
        store.checkpoint().unwrap();
        let db = rusqlite::Connection::open(tier.path()).unwrap();
        let left: i64 = db.query_row("SELECT count(*) FROM garbage", [], |row| row.get(0)).unwrap();
        let slots: i64 = db.query_row("SELECT count(DISTINCT slot) FROM entries", [], |row| row.get(0)).unwrap();
        assert_eq!((left, slots), (0, 1), "copy {n}");
    }
    assert_eq!(seen(&open(&warm(&copies.path().join("after")), 1)), after);
    assert_eq!(seen(&open(&tier, 1)), after);
}

#[test]
fn everything_else_goes_on_during_an_export_and_an_install() {
    let dir = tempfile::tempdir().unwrap();
    let tier = warm(dir.path());
    let (source, other, target) = (open(&tier, 1), open(&tier, 2), open(&tier, 3));
    (1..=60).for_each(|index| drop(apply(&source, index)));
    source.checkpoint().unwrap();
    let wanted = source.applied();
    let snapshot = source.snapshot().unwrap().unwrap();
    for index in 61..=63 {
        apply(&source, index);
        source.checkpoint().unwrap();
        apply(&other, index);
        other.checkpoint().unwrap();
        assert_eq!(source.read(&user(1), EntryId::ZERO, WIDE).unwrap().scanned_to, source.last_stamp());
    }
    assert_eq!(snapshot.mark(), &wanted);
    let file = snapshot.export(dir.path()).unwrap();
    assert_eq!(file.manifest().mark, wanted);

    (1..=3).for_each(|index| drop(apply(&target, index)));
    target.checkpoint().unwrap();
    let before = seen(&target);
    let (row, records) = all(&tier, 1);
    let mut index = 63;
    let mut meanwhile = records.into_iter().enumerate().map(|(n, record)| {
        if n % 500 == 0 {
            index += 1;
            apply(&other, index);
            other.checkpoint().unwrap();
            assert_eq!(seen(&target), before);
        }
        Ok(record)
    });
    tier.install(ShardId(3), &row, &mut meanwhile).unwrap();
    assert_eq!(seen(&open(&tier, 3)), seen(&source));
    assert_eq!(open(&tier, 2).applied().index, other.applied().index);
    // By way of the file too, older as it is.
    let elsewhere = tempfile::tempdir().unwrap();
    let target = open(&warm(elsewhere.path()), 1);
    target.install(&file).unwrap();
    (61..=63).for_each(|index| drop(apply(&target, index)));
    assert_eq!(seen(&target), seen(&source));
}
