//! The sled adapter: the suite every warm store passes, and what is particular to it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::testing::warm_store_conforms;
use iris_store::warm::{SledWarm, Verified, WarmStore};
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
fn what_sled_lost_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm");
    let store = open(&path);
    (1..=3).for_each(|index| apply(&store, index));
    drop(store);
    assert_eq!(open(&path).applied().index, 3);
    let file = path.join("db");
    let good = std::fs::read(&file).unwrap();
    let (mut refused, mut places) = (0, 0);
    for at in (0..good.len()).filter(|&at| good[at..].starts_with(b"needle 002 1")).step_by(100) {
        places += 1;
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, bad).unwrap();
        let opened = SledWarm::open(&path).and_then(|warm| {
            let mut damaged = Ok(());
            let whole = |verified| {
                if let Verified::Damaged(finding) = verified {
                    let (what, why) = (finding.what, finding.why);
                    damaged = Err(StoreError::Corrupt { path: path.clone(), what, why });
                }
            };
            warm.verify(&mut { whole })?;
            damaged.and_then(|()| Ok(warm.shard(ShardId(1))?.map(|row| row.mark.index)))
        });
        match opened {
            Err(StoreError::Corrupt { .. }) => refused += 1,
            // A copy of the page that a later one has replaced: nothing was lost.
            Ok(index) => assert_eq!(index, Some(3), "byte {at}"),
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(places > 0 && refused > 0, "{refused} of {places}");
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
