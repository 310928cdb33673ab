//! The sled adapter: the suite every warm store passes, and what is particular to it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::testing::warm_store_conforms;
use iris_store::warm::{Finding, SledWarm, Verified, WarmStore};
use iris_store::{Item, NewMessage, ShardStore, StoreError, StoreOptions, encode_batch};

#[test]
fn sled_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm");
    warm_store_conforms(&|| Arc::new(SledWarm::open(&path).unwrap()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

fn open(path: &Path) -> ShardStore {
    ShardStore::open(Arc::new(SledWarm::open(path).unwrap()), ShardId(1), StoreOptions::default()).unwrap()
}

fn apply(store: &ShardStore, index: u64) {
    let user = |n: u64| UserId::new(format!("user{}", n % 7)).unwrap();
    let message = |n: u64| {
        Item::Message(NewMessage {
            sender: user(n),
            key: MessageKey(u128::from(index * 1_000 + n).to_be_bytes()),
            recipient: user(n + 1),
            kind: 1,
            stamp: EntryId(index * 1_000 + n),
            body: Bytes::from(format!("needle {index:03} {n:03}").repeat(20)),
        })
    };
    let items: Vec<Item> = (0..300).map(message).collect();
    store.apply(index, Bytes::from(index.to_be_bytes().to_vec()), &encode_batch(&items)).unwrap();
    store.checkpoint().unwrap();
}

#[test]
fn a_shard_that_is_copied_out_is_checkpointed_later() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&dir.path().join("warm"));
    apply(&store, 1);
    let snapshot = store.snapshot().unwrap().unwrap();
    apply(&store, 2);
    assert_eq!((store.applied().index, store.checkpointed().index), (2, 1), "put off, not refused");
    let file = snapshot.export(copies.path()).unwrap();
    assert_eq!(file.manifest().mark.index, 1);
    apply(&store, 3);
    // What was set aside first, then what came after it.
    assert_eq!(store.checkpointed().index, 2);
    assert_eq!(store.checkpoint().unwrap().mark.index, 3);
}

/// The mark of what opens and is whole.
fn index(path: &Path) -> Result<Option<u64>, StoreError> {
    let warm = SledWarm::open(path)?;
    let mut damaged = Ok(());
    warm.verify(&mut |verified| {
        if let Verified::Damaged(Finding { what, why }) = verified {
            damaged = Err(StoreError::Corrupt { path: path.to_owned(), what, why });
        }
    })?;
    damaged.and_then(|()| Ok(warm.shard(ShardId(1))?.map(|row| row.mark.index)))
}

#[test]
fn what_sled_lost_is_noticed() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join("warm");
    let store = open(&path);
    (1..=3).for_each(|index| apply(&store, index));
    drop(store);
    assert_eq!(index(&path).unwrap(), Some(3));
    let older = copies.path().join("older");
    copy(&path, &older);
    let store = open(&path);
    apply(&store, 4);
    drop(store);
    assert_eq!(index(&path).unwrap(), Some(4));
    // As sled opens it when damage ends its file early: whole, and older than what it had said was durable.
    std::fs::copy(path.join("receipt"), older.join("receipt")).unwrap();
    let error = index(&older).unwrap_err();
    assert!(error.to_string().contains("sled lost the last 1 of 4 steps"), "{error}");
    // A power cut may leave an old receipt, or half of one: that is none.
    std::fs::write(older.join("receipt"), "half").unwrap();
    assert_eq!(index(&older).unwrap(), Some(3));
    // Damage of any kind is an error or harms nothing.
    let good = std::fs::read(path.join("db")).unwrap();
    for needle in ["needle 001", "needle 003", "needle 004"] {
        let damaged = copies.path().join(needle);
        copy(&path, &damaged);
        let mut bad = good.clone();
        (0..good.len()).filter(|&at| good[at..].starts_with(needle.as_bytes())).for_each(|at| bad[at] ^= 1);
        std::fs::write(damaged.join("db"), bad).unwrap();
        match index(&damaged) {
            Err(StoreError::Corrupt { .. }) | Ok(Some(4)) => {}
            other => panic!("{needle}: {other:?}"),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_folder_of_another_version_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm");
    drop(SledWarm::open(&path).unwrap());
    let warm = SledWarm::open(&path).unwrap();
    assert!(matches!(SledWarm::open(&path), Err(StoreError::InUse { .. })), "twice");
    drop(warm);
    let reopened = SledWarm::open(&path).unwrap();
    drop(reopened);
    // Whoever else has the folder lets go of it a moment after.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let db = loop {
        match sled::open(&path) {
            Ok(db) => break db,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    };
    db.open_tree("heads").unwrap().insert("format", &9i64.to_le_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = SledWarm::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 9, known: 1, .. }), "{error}");
}
