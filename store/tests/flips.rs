//! One flipped bit, anywhere in what was synced (C12): a node that starts on it either says that it is damaged, or finds exactly
//! what was written. Log and both engines, a stopped store; which bits is the seed's business.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{append, contents, entries, options, wait};
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use iris_store::warm::Engine;
use iris_store::{
    GroupId, Item, LogError, NewMessage, RaftLog, ShardStore, StoreError, StoreOptions, encode_batch, warm,
};

/// Bits flipped of each store: an exhaustive run takes all of them.
fn flips() -> usize {
    std::env::var("IRIS_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

fn write(files: &BTreeMap<PathBuf, Vec<u8>>, from: &Path, to: &Path) {
    for (path, bytes) in files {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
}

/// Some of all bits of all files: which, by a small generator of their number.
fn chosen(files: &BTreeMap<PathBuf, Vec<u8>>, count: usize) -> Vec<(PathBuf, usize, u8)> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut bits = Vec::new();
    // Every file its share: a small one is as needed as a large one.
    let with_content: Vec<_> = files.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    for (path, bytes) in &with_content {
        for _ in 0..count / with_content.len() {
            bits.push(((*path).clone(), next(bytes.len()), next(8) as u8));
        }
    }
    bits
}

/// What reading all of it came to: damage, or what it holds.
type Read<T> = Result<T, String>;

/// Flips bits and reads; fails with every bit that went unnoticed and changed something. How many bits, and how many were found.
fn check<T: PartialEq + std::fmt::Debug>(dir: &Path, read: impl Fn(&Path) -> Read<T>) -> (usize, usize) {
    let (bits, found, missed) = flipped(dir, |_| true, read);
    assert_eq!(missed, Vec::<String>::new(), "of {bits} bits, {found} were found");
    (bits, found)
}

/// The same with some files only; also those that went unnoticed.
fn flipped<T: PartialEq + std::fmt::Debug>(
    dir: &Path,
    kept: impl Fn(&Path) -> bool,
    read: impl Fn(&Path) -> Read<T>,
) -> (usize, usize, Vec<String>) {
    let mut files = contents(dir);
    files.retain(|path, _| kept(path));
    let copy = tempfile::tempdir().unwrap();
    let at = |n: usize| copy.path().join(n.to_string());
    write(&files, dir, &at(0));
    let right = read(&at(0)).expect("undamaged, it is read");
    let (mut missed, mut found) = (Vec::new(), 0);
    let bits = chosen(&files, flips());
    for (n, (path, byte, bit)) in bits.iter().enumerate() {
        let mut damaged = files.clone();
        damaged.get_mut(path).unwrap()[*byte] ^= 1 << bit;
        let copied = at(n + 1);
        write(&damaged, dir, &copied);
        match read(&copied) {
            Err(_) => found += 1,
            Ok(content) if content == right => {}
            Ok(_) => missed.push(format!("{} byte {byte} bit {bit}", path.strip_prefix(dir).unwrap().display())),
        }
        std::fs::remove_dir_all(copied).unwrap();
    }
    (bits.len(), found, missed)
}

type LogContent = Vec<(u64, Vec<u64>, Option<Vec<u8>>)>;

fn read_log(dir: &Path) -> Read<LogContent> {
    let text = |error: LogError| match error {
        LogError::Corrupt { .. } => error.to_string(),
        other => panic!("told as something else than damage: {other}"),
    };
    let log = RaftLog::open(options(dir)).map_err(text)?;
    let mut content = Vec::new();
    for id in [1, 100, 101] {
        let group = log.group(GroupId(id));
        let vote = group.get(b"vote").map_err(text)?;
        let (mut begin, mut found) = (group.first_index().unwrap_or(0), Vec::new());
        loop {
            let some = group.read(begin..u64::MAX, 1 << 16).map_err(text)?;
            let Some(last) = some.last() else { break };
            begin = last.index + 1;
            for entry in &some {
                assert_eq!(entry.bytes, entries(entry.index..entry.index + 1, "body")[0].bytes, "served damaged");
                found.push(entry.index);
            }
        }
        content.push((id, found, vote));
    }
    log.shutdown();
    Ok(content)
}

#[tokio::test]
async fn any_flipped_bit_of_a_synced_log_is_found_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.segment_bytes = 4 << 10;
    let log = RaftLog::open(small).unwrap();
    for round in 0..20u64 {
        for id in [1, 100, 101] {
            let group = log.group(GroupId(id));
            append(&group, entries(round * 5 + 1..round * 5 + 6, "body")).await;
            group.put(b"vote", format!("term {round}").into_bytes()).await.unwrap();
        }
    }
    log.group(GroupId(100)).purge_to(40).await.unwrap();
    log.group(GroupId(101)).truncate_after(Some(90)).await.unwrap();
    // The last synced record is a vote: to take it for a torn write would be to vote twice.
    log.group(GroupId(1)).put(b"vote", b"term 99".to_vec()).await.unwrap();
    // As a killed process leaves it.
    let killed = tempfile::tempdir().unwrap();
    write(&contents(dir.path()), dir.path(), killed.path());
    log.shutdown();
    assert!(wait(log.closed()).await.is_none());
    drop(log);
    // Most of what a killed one leaves is space that its last files were given ahead.
    check(killed.path(), read_log);
    let (bits, found) = check(dir.path(), read_log);
    assert!(found * 2 > bits, "{found} of {bits}: most bits are needed");
}

/// The control: raft-engine alone takes damage at the end of its files for a torn write, and what is behind it goes.
#[tokio::test]
async fn without_the_note_of_what_was_synced_damage_of_a_log_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let log = RaftLog::open(options(dir.path())).unwrap();
    for id in [1, 100, 101] {
        append(&log.group(GroupId(id)), entries(1..30, "body")).await;
        log.group(GroupId(id)).put(b"vote", b"term 7".to_vec()).await.unwrap();
    }
    log.shutdown();
    assert!(wait(log.closed()).await.is_none());
    drop(log);
    let (_, _, missed) = flipped(dir.path(), |path| !path.ends_with("synced"), read_log);
    assert!(!missed.is_empty(), "then the note would not be needed");
    check(dir.path(), read_log);
}

fn message(n: u64) -> Item {
    let user = |n: u64| UserId::new(format!("user{n}")).unwrap();
    Item::Message(NewMessage {
        sender: user(n % 3),
        key: MessageKey(u128::from(n).to_be_bytes()),
        recipient: user(n % 7),
        kind: 1,
        stamp: EntryId(1_000 + n),
        body: Bytes::from(format!("needle {n:04} {}", "x".repeat(n as usize % 90))),
    })
}

/// Writes a store; `killed` is a copy of it as a kill leaves it: SQLite's log full, half of it moved into the file.
fn write_warm(engine: Engine, data: &Path, killed: &Path) {
    let tier = warm::open(engine, data).unwrap();
    let mut held = None;
    for round in 0..4 {
        for shard in [1, 2] {
            let store = ShardStore::open(tier.clone(), ShardId(shard), StoreOptions::default()).unwrap();
            let items: Vec<Item> = (round * 100..round * 100 + 100).map(message).collect();
            store.apply(2 * round + 1, Bytes::from_static(b"id"), &encode_batch(&items)).unwrap();
            let (user, device) = (UserId::new("user1").unwrap(), DeviceId::new("phone").unwrap());
            let cursor = Item::Cursor { user, device, cursor: EntryId(1_001 + round), seen: EntryId(1) };
            store.apply(2 * round + 2, Bytes::from_static(b"id"), &encode_batch(&[cursor])).unwrap();
            store.checkpoint().unwrap();
        }
        if engine == Engine::Sqlite && round == 1 {
            // Whoever reads this moment keeps what comes later out of the file.
            let reader = rusqlite::Connection::open(data.join("inboxes.db")).unwrap();
            reader.execute_batch("BEGIN").unwrap();
            reader.query_row("SELECT count(*) FROM shards", [], |_| Ok(())).unwrap();
            held = Some(reader);
        }
    }
    if let Some(reader) = held {
        let mover = rusqlite::Connection::open(data.join("inboxes.db")).unwrap();
        let pages = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let (all, moved) = mover.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], pages).unwrap();
        assert!(0 < moved && moved < all, "{moved} of {all}");
        drop(reader);
    }
    write(&contents(data), data, killed);
}

/// Everything a replica is made of, by shard, as text.
fn read_warm(engine: Engine, data: &Path) -> Read<Vec<String>> {
    let text = |error: StoreError| match error {
        StoreError::Corrupt { .. } => error.to_string(),
        // The number of the format itself: refused, though for another reason.
        StoreError::Version { .. } => error.to_string(),
        other => panic!("told as something else than damage: {other}"),
    };
    let read = || {
        let tier = warm::open(engine, data).map_err(text)?;
        let mut content = Vec::new();
        // As a running node does now and then.
        tier.scrub().map_err(text)?;
        for shard in [1, 2] {
            let store = ShardStore::open(tier.clone(), ShardId(shard), StoreOptions::default()).map_err(text)?;
            content.push(format!("{:?} {:?}", store.applied(), store.last_stamp()));
            let Some(mut view) = tier.view(ShardId(shard)).map_err(text)? else { continue };
            view.each(&mut |record| {
                content.push(format!("{shard} {record:?}"));
                Ok(())
            })
            .map_err(text)?;
        }
        Ok(content)
    };
    read()
}

fn check_warm(engine: Engine) {
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_warm(engine, dir.path(), killed.path());
    for folder in [killed.path(), dir.path()] {
        check(folder, |data| read_warm(engine, data));
    }
}

#[test]
fn any_flipped_bit_of_a_synced_sqlite_store_is_found_or_changes_nothing() {
    check_warm(Engine::Sqlite);
}

/// The control: SQLite alone ignores its log from the first broken frame on.
#[test]
fn without_the_note_of_what_was_synced_damage_of_sqlites_log_goes_unnoticed() {
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_warm(Engine::Sqlite, dir.path(), killed.path());
    let kept = |path: &Path| !path.ends_with("inboxes.db-synced");
    let (_, _, missed) = flipped(killed.path(), kept, |data| read_warm(Engine::Sqlite, data));
    assert!(
        missed.iter().any(|bit| bit.starts_with("inboxes.db-wal")),
        "then the note would not be needed: {missed:?}"
    );
}

#[test]
fn any_flipped_bit_of_a_synced_sled_store_is_found_or_changes_nothing() {
    check_warm(Engine::Sled);
}
