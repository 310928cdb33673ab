//! The SQLite adapter: the suite every warm store passes, and what is particular to it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::vnode::vnode_of;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::testing::warm_store_conforms;
use iris_store::warm::{Changes, InboxChange, ShardRow, Trim, WarmStore};
use iris_store::{
    AppliedMark, Entry, Item, NewMessage, PageLimits, ShardStore, StoreError, StoreOptions, Warm, encode_batch,
};
use rusqlite::Connection;

const WIDE: PageLimits = PageLimits { entries_max: 10_000, bytes_max: 1 << 30 };

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn shard(path: &Path) -> ShardStore {
    ShardStore::open(Arc::new(Warm::open(path).unwrap()), ShardId(1), StoreOptions::default()).unwrap()
}

/// Applies one command of `len` messages at `index`.
fn apply(store: &ShardStore, index: u64, len: u64) {
    let items: Vec<Item> = (0..len)
        .map(|n| {
            let number = index * 10_000 + n;
            Item::Message(NewMessage {
                sender: user("sender"),
                key: MessageKey(u128::from(number).to_be_bytes()),
                recipient: user(&format!("user{}", n % 7)),
                kind: 1,
                stamp: EntryId(number),
                body: Bytes::from(vec![number as u8; 300]),
            })
        })
        .collect();
    store.apply(index, Bytes::from(index.to_be_bytes().to_vec()), &encode_batch(&items)).unwrap();
}

fn count(store: &ShardStore) -> usize {
    (0..7).map(|n| store.read(&user(&format!("user{n}")), EntryId::ZERO, WIDE).unwrap().entries.len()).sum()
}

#[test]
fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    warm_store_conforms(&|| Arc::new(Warm::open(&path).unwrap()));
    #[cfg(unix)]
    for file in std::fs::read_dir(dir.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
}

#[test]
fn a_crash_inside_a_checkpoint_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let store = shard(&path);
    apply(&store, 1, 500);
    store.checkpoint().unwrap();
    drop(store);
    // Half a checkpoint, as a crash leaves it: a transaction large enough to have spilled into the WAL, without its commit.
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA cache_size = 10; BEGIN IMMEDIATE;").unwrap();
    conn.execute_batch(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)
         INSERT INTO entries SELECT 1, 0, 'user0', 900000 + x, 1, 's', zeroblob(16), 0, zeroblob(500) FROM n;
         UPDATE shards SET row = x'00';",
    )
    .unwrap();
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let from = file.unwrap().path();
        std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
    }
    assert!(std::fs::metadata(copy.path().join("warm.db-wal")).unwrap().len() > 1_000_000, "it had spilled");
    let store = shard(&copy.path().join("warm.db"));
    assert_eq!((store.applied().index, count(&store)), (1, 500));
    apply(&store, 2, 10);
    store.checkpoint().unwrap();
    assert_eq!(count(&store), 510);
}

#[test]
fn unknown_versions_and_foreign_files_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    drop(Warm::open(&path).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    let error = Warm::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 9, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("warm.db has format 9"), "{error}");

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(Warm::open(&foreign), Err(StoreError::Version { found: 0, .. })));

    let text = dir.path().join("text.db");
    std::fs::write(&text, "not a database, but long enough to be looked at as one by whoever opens it".repeat(20))
        .unwrap();
    assert!(matches!(Warm::open(&text), Err(StoreError::Corrupt { .. })));
}

#[test]
fn damage_is_noticed_where_it_is_read() {
    let damages = [
        ("UPDATE entries SET body = zeroblob(300) WHERE id = (SELECT max(id) FROM entries)", false),
        ("UPDATE entries SET sender = 'mallory'", false),
        ("UPDATE entries SET key = x'00'", false),
        ("UPDATE shards SET row = x'0102'", true),
        ("UPDATE shards SET slot = 77", true),
        ("UPDATE dedup SET digest = digest + 1", true),
        ("UPDATE dedup SET sender = 'mallory'", true),
        ("UPDATE dedup SET key = x'00' WHERE id = (SELECT max(id) FROM dedup)", true),
    ];
    for (damage, at_open) in damages {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("warm.db");
        let store = shard(&path);
        apply(&store, 1, 7);
        store.checkpoint().unwrap();
        drop(store);
        assert!(Connection::open(&path).unwrap().execute(damage, []).unwrap() > 0);
        let warm = Arc::new(Warm::open(&path).unwrap());
        let error = match ShardStore::open(warm, ShardId(1), StoreOptions::default()) {
            Err(error) if at_open => error,
            Ok(store) if !at_open => store.read(&user("user6"), EntryId::ZERO, WIDE).unwrap_err(),
            other => panic!("{damage}: {other:?}"),
        };
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
        assert!(error.to_string().contains("warm.db"), "{error}");
    }
}

#[test]
fn a_failed_checkpoint_loses_nothing_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let store = shard(&path);
    apply(&store, 1, 70);
    store.checkpoint().unwrap();
    // The same ids are there already, as after a bug or damage: the checkpoint fails.
    let conn = Connection::open(&path).unwrap();
    apply(&store, 2, 70);
    let copy =
        "INSERT INTO entries SELECT slot, vnode, user, id + 10000, kind, sender, key, sum, body FROM entries LIMIT 1";
    conn.execute(copy, []).unwrap();
    assert!(matches!(store.checkpoint(), Err(StoreError::Sqlite { .. })));
    assert_eq!((store.checkpointed().index, store.applied().index, count(&store)), (1, 2, 140));
    assert_eq!(conn.execute("DELETE FROM entries WHERE id >= 20000", []).unwrap(), 1);
    assert!(matches!(store.checkpoint(), Err(StoreError::Poisoned { .. })));
    drop(store);
    let store = shard(&path);
    assert_eq!((store.applied().index, count(&store)), (1, 70));
    apply(&store, 2, 70);
    store.checkpoint().unwrap();
    assert_eq!(count(&store), 140);
}

/// Writes a checkpoint of `len` entries to one inbox, and trims everything before them.
fn checkpoint_and_trim(warm: &Warm, index: u64, len: u64) {
    let inbox = user("inbox");
    let entries: Vec<Entry> = (0..len)
        .map(|n| Entry {
            id: EntryId(index * 100_000 + n),
            sender: user("sender"),
            kind: 1,
            key: MessageKey(u128::from(n).to_be_bytes()),
            body: Bytes::from(vec![n as u8; 1_000]),
        })
        .collect();
    let vnode = vnode_of(&inbox);
    let mark = AppliedMark { index, log_id: Bytes::from_static(b"id"), membership: Bytes::new() };
    let row = ShardRow { mark, last_stamp: EntryId(index * 100_000 + len), ..ShardRow::default() };
    let trims = [Trim { vnode, user: inbox.clone(), up_to: EntryId(index * 100_000 - 1) }];
    let inboxes = [InboxChange { vnode, user: &inbox, entries: &entries }];
    warm.checkpoint(ShardId(1), &Changes { inboxes: &inboxes, trims: &trims, ..Changes::new(&row) }).unwrap();
}

/// Pages of the file, and free ones.
fn pages(path: &Path) -> (i64, i64) {
    let db = Connection::open(path).unwrap();
    let value = |name| db.pragma_query_value(None, name, |row| row.get(0)).unwrap();
    (value("page_count"), value("freelist_count"))
}

#[test]
fn space_is_used_again_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let warm = Warm::open(&path).unwrap();
    for index in 1..=10 {
        checkpoint_and_trim(&warm, index, 2_000);
    }
    let (after_ten, _) = pages(&path);
    for index in 11..=60 {
        checkpoint_and_trim(&warm, index, 2_000);
    }
    let (after_sixty, _) = pages(&path);
    assert!(after_sixty <= after_ten + 100, "{after_ten} pages, then {after_sixty}: 100 MB went through");
    // Much more at once than is ever needed again: what is free beyond a reserve goes back to the system, in steps.
    checkpoint_and_trim(&warm, 61, 30_000);
    let (large, _) = pages(&path);
    checkpoint_and_trim(&warm, 62, 10);
    let (_, free) = pages(&path);
    assert!(free > 6_000, "{free} pages of {large} are free at once, in {:?}", path);
    for index in 63..=80 {
        checkpoint_and_trim(&warm, index, 10);
    }
    let (small, free) = pages(&path);
    assert!(small < large - 2_000 && free <= 5_000, "{large} pages, then {small}, {free} of them free");
}
