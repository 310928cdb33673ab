//! Dedup of keys that are no longer in memory (A3): bounded memory however many keys, the same answers as ever, and what the
//! window and the bound forget. What it costs is printed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::{
    DEDUP_IN_FLIGHT_KEYS_MAX, DEDUP_RECENT_KEYS, Item, KeysSeen, NewMessage, Outcome, ShardStore, StoreOptions, Warm,
    encode_command,
};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// November 2026.
const NOW_MS: u64 = 1_795_000_000_000;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A UUIDv7 of that moment.
fn v7(ms: u64, number: u64) -> MessageKey {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    (bytes[6], bytes[8]) = (0x70, 0x80);
    MessageKey(bytes)
}

/// Random bytes, as far as dedup can tell.
fn v4(number: u64) -> MessageKey {
    let mut bytes = [0x44; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    MessageKey(bytes)
}

fn message(sender: &str, key: MessageKey, stamp_ms: u64, body: &str) -> Item {
    Item::Message(NewMessage {
        sender: user(sender),
        key,
        recipient: user("inbox"),
        kind: 1,
        stamp: EntryId(stamp_ms << 16),
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

/// 64 keys in memory, of which 8 may be in flight; buckets of 16.
fn small() -> StoreOptions {
    StoreOptions { dedup_recent_keys: 64, dedup_bucket_keys_max: 16, ..StoreOptions::default() }
}

fn open(path: &Path, options: StoreOptions) -> ShardStore {
    ShardStore::open(Arc::new(Warm::open(path).unwrap()), ShardId(1), options).unwrap()
}

/// What a leader does before it proposes; whether it needed the disk.
fn resolve(store: &ShardStore, items: &mut [Item]) -> (KeysSeen, bool) {
    let mut resolution = store.resolve(items);
    let disk = resolution.needs_disk();
    if disk {
        store.resolve_on_disk(items, &mut resolution).unwrap();
    }
    (resolution.seen(), disk)
}

fn apply(store: &ShardStore, items: &[Item], seen: KeysSeen) -> Vec<Outcome> {
    let index = store.applied().index + 1;
    store.apply(index, Bytes::from_static(b"id"), &encode_command(items, seen)).unwrap().outcomes
}

/// Proposes and applies one message; its outcome, and whether the disk was needed.
fn send(store: &ShardStore, message: Item) -> (Outcome, bool) {
    let mut items = vec![message];
    let (seen, disk) = resolve(store, &mut items);
    (apply(store, &items, seen)[0], disk)
}

/// So many fresh messages, a second apart, checkpointed.
fn fill(store: &ShardStore, from_ms: u64, count: u64) {
    for n in 0..count {
        let ms = from_ms + n * 1_000;
        let (outcome, disk) = send(store, message("filler", v7(ms, n), ms, "x"));
        assert!(matches!(outcome, Outcome::Appended(_)) && !disk, "a fresh key costs no disk");
    }
    store.checkpoint().unwrap();
}

#[test]
fn a_million_keys_take_no_more_memory_than_the_recent_ones() {
    const KEYS: u64 = 1_000_000;
    const BATCH: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let store = open(&path, StoreOptions::default());
    let senders: Vec<String> = (0..100).map(|n| format!("sender-{n:03}")).collect();
    let make = |n: u64| message(&senders[n as usize % 100], v7(NOW_MS + n, n), NOW_MS + n, "");
    let mut most = 0;
    for batch in 0..KEYS / BATCH {
        let mut items: Vec<Item> = (batch * BATCH..(batch + 1) * BATCH).map(make).collect();
        let (seen, disk) = resolve(&store, &mut items);
        assert!(!disk, "fresh keys cost no disk");
        assert!(apply(&store, &items, seen).iter().all(|outcome| matches!(outcome, Outcome::Appended(_))));
        if batch % 50 == 49 {
            store.checkpoint().unwrap();
        }
        most = most.max(store.stats().dedup_bytes_in_memory);
    }
    let stats = store.stats();
    assert_eq!((stats.dedup_keys as u64, stats.dedup_keys_on_disk as u64), (KEYS, KEYS));
    assert_eq!((stats.dedup_keys_in_memory, stats.dedup_dropped_early), (DEDUP_RECENT_KEYS, 0));
    // 50,000 that are not yet written beside the recent ones: within the next power of two.
    let bound = DEDUP_RECENT_KEYS * 2 * (40 + 2 * 8) + 256 * 1024;
    assert!(most <= bound, "{most} bytes at most, the bound is {bound}");

    let (mut old, mut new) = (vec![make(5), make(KEYS / 2), make(KEYS - 1)], vec![make(KEYS)]);
    let (seen, disk) = resolve(&store, &mut old);
    let first = |n: u64| Outcome::Duplicate(EntryId((NOW_MS + n) << 16));
    assert_eq!((apply(&store, &old, seen), disk), (vec![first(5), first(KEYS / 2), first(KEYS - 1)], true));
    assert_eq!(resolve(&store, &mut new), (KeysSeen(KEYS), false));
    drop(store);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let on_disk: i64 = conn
        .query_row(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = 'dedup')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    println!(
        "{KEYS} keys: {} bytes of memory at most, {:.2} a key; {on_disk} bytes on disk, {:.1} a key",
        most,
        most as f64 / KEYS as f64,
        on_disk as f64 / KEYS as f64
    );
    assert!(on_disk / KEYS as i64 <= 160, "{on_disk} bytes on disk");

    let started = std::time::Instant::now();
    let store = open(&path, StoreOptions::default());
    println!("opened in {:?}", started.elapsed());
    let stats = store.stats();
    assert_eq!((stats.dedup_keys as u64, stats.dedup_keys_in_memory), (KEYS, DEDUP_RECENT_KEYS));
    assert_eq!(send(&store, make(KEYS / 3)), (first(KEYS / 3), true));
    assert_eq!(send(&store, make(KEYS - 2)), (first(KEYS - 2), false), "the recent ones are in memory again");
    assert!(!send(&store, make(KEYS)).1, "and a fresh one still costs no disk");
}

#[test]
fn an_old_key_answers_as_a_recent_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let store = open(&path, small());
    let keys = [v7(NOW_MS, 1), v4(2), v7(NOW_MS - 3 * DAY_MS, 3), v7(NOW_MS + 3 * DAY_MS, 4)];
    let mut firsts = Vec::new();
    for key in keys {
        // Two senders may use one key, each for a message of its own.
        for (sender, body) in [("a", "x"), ("b", "y")] {
            let Outcome::Appended(id) = send(&store, message(sender, key, NOW_MS, body)).0 else { panic!() };
            firsts.push((sender, key, body, id));
        }
    }
    fill(&store, NOW_MS + 1_000, 200);
    let later = NOW_MS + 300_000;
    let reopened = {
        assert_eq!(send(&store, message("a", keys[0], later, "x")), (Outcome::Duplicate(firsts[0].3), true));
        drop(store);
        open(&path, small())
    };
    for (sender, key, body, id) in firsts {
        assert_eq!(send(&reopened, message(sender, key, later, body)), (Outcome::Duplicate(id), true), "{key}");
        assert_eq!(send(&reopened, message(sender, key, later, "z")), (Outcome::KeyConflict, true), "{key}");
        let (outcome, _) = send(&reopened, message(&format!("not {sender}"), key, later, body));
        assert!(matches!(outcome, Outcome::Appended(_)), "another sender's: {key} {outcome:?}");
    }
    let stats = reopened.stats();
    assert_eq!((stats.duplicates, stats.key_conflicts), (8, 8));
}

#[test]
fn an_old_key_is_known_to_the_last_millisecond_of_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("warm.db"), small());
    for (key, again) in [(v7(NOW_MS, 1), v7(NOW_MS, 2)), (v4(1), v4(2))] {
        let base = store.last_stamp().unix_ms().max(NOW_MS) + 1;
        let Outcome::Appended(id) = send(&store, message("a", key, base, "x")).0 else { panic!() };
        let Outcome::Appended(second) = send(&store, message("a", again, base, "x")).0 else { panic!() };
        fill(&store, base + 1_000, 200);
        let edge = base + 8 * DAY_MS;
        assert_eq!(send(&store, message("a", key, edge, "x")), (Outcome::Duplicate(id), true));
        // The bucket is still there: the other key's stamp is what counts.
        let (outcome, _) = send(&store, message("a", key, edge + 1, "x"));
        assert_eq!(outcome, Outcome::Appended(EntryId((edge + 1) << 16)));
        assert_eq!(second.unix_ms(), base);
        assert_eq!(send(&store, message("a", key, edge + 1, "x")).0, Outcome::Duplicate(EntryId((edge + 1) << 16)));
        assert!(matches!(send(&store, message("a", again, edge + 1, "y")).0, Outcome::Appended(_)));
    }
}

#[test]
fn whole_buckets_leave_the_disk_with_the_window_and_with_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let rows = || -> i64 {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.query_row("SELECT count(*) FROM dedup", [], |row| row.get(0)).unwrap()
    };
    let options = StoreOptions { dedup_keys_max: 64 * 16, ..small() };
    let store = open(&path, options.clone());
    fill(&store, NOW_MS, 1_000);
    assert_eq!((store.stats().dedup_dropped_early, rows()), (0, 1_000));
    fill(&store, NOW_MS + 2_000_000, 100);
    let stats = store.stats();
    assert_eq!((stats.dedup_dropped_early, stats.dedup_keys), (80, 1_020), "in buckets of 16");
    // The rows go in small steps, with the checkpoints that follow.
    send(&store, message("a", v7(NOW_MS, 9), NOW_MS + 3_000_000, "x"));
    store.checkpoint().unwrap();
    assert_eq!(rows(), 1_021);
    drop(store);
    let store = open(&path, options);
    let filler = |n: u64| message("filler", v7(NOW_MS + n * 1_000, n), NOW_MS + 3_000_000, "x");
    assert!(matches!(send(&store, filler(80)).0, Outcome::Duplicate(_)));
    assert!(matches!(send(&store, filler(79)).0, Outcome::Appended(_)));
    // After the window, the next message is the only one left.
    send(&store, message("a", v7(NOW_MS + 9 * DAY_MS, 1), NOW_MS + 9 * DAY_MS + 10_000_000, "x"));
    store.checkpoint().unwrap();
    assert_eq!((store.stats().dedup_keys, rows()), (1, 1));
}

#[test]
fn what_was_looked_up_too_long_ago_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("warm.db"), small());
    let mut items = vec![message("a", v7(NOW_MS, 1), NOW_MS, "x"), message("a", v7(NOW_MS, 2), NOW_MS, "x")];
    let (seen, _) = resolve(&store, &mut items);
    fill(&store, NOW_MS, 6);
    // Eight may come in between, its own included.
    assert!(apply(&store, &items, seen).iter().all(|outcome| matches!(outcome, Outcome::Appended(_))));
    let mut items = vec![message("a", v7(NOW_MS, 3), NOW_MS, "x"), message("a", v7(NOW_MS, 4), NOW_MS, "x")];
    let (seen, _) = resolve(&store, &mut items);
    fill(&store, NOW_MS + 100_000, 7);
    let before = store.last_stamp();
    assert_eq!(apply(&store, &items, seen), [Outcome::Stale, Outcome::Stale]);
    assert_eq!(store.last_stamp(), before);
    let (seen, _) = resolve(&store, &mut items);
    assert!(apply(&store, &items, seen).iter().all(|outcome| matches!(outcome, Outcome::Appended(_))));
    assert_eq!(DEDUP_IN_FLIGHT_KEYS_MAX, DEDUP_RECENT_KEYS / 8);
}

#[test]
fn a_short_window_forgets_what_was_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let options = StoreOptions { dedup_window: Duration::from_millis(50), ..small() };
    let store = open(&path, options.clone());
    send(&store, message("a", v7(NOW_MS, 1), NOW_MS, "x"));
    send(&store, message("a", v7(NOW_MS, 2), NOW_MS + 51, "x"));
    store.checkpoint().unwrap();
    drop(store);
    let store = open(&path, options);
    assert_eq!(store.stats().dedup_keys_in_memory, 1);
    assert!(matches!(send(&store, message("a", v7(NOW_MS, 1), NOW_MS + 51, "x")).0, Outcome::Appended(_)));
    assert!(matches!(send(&store, message("a", v7(NOW_MS, 2), NOW_MS + 51, "x")).0, Outcome::Duplicate(_)));
}
