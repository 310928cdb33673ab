//! Retention in the store (A8, A9): what is trimmed is gone from memory and from disk, what a device needs stays, and the file
//! keeps its size however much goes through it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId, VnodeId};
use iris_store::{Item, NewMessage, Outcome, PageLimits, RetentionTimes, ShardStore, StoreOptions, Warm, encode_batch};

const WIDE: PageLimits = PageLimits { entries_max: 100_000, bytes_max: 1 << 30 };
const DAY_MS: u64 = 24 * 3600 * 1000;
const NOW_MS: u64 = 1_795_000_000_000;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn open(path: &Path) -> ShardStore {
    ShardStore::open(Arc::new(Warm::open(path).unwrap()), ShardId(1), StoreOptions::default()).unwrap()
}

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    store: ShardStore,
    keys: u64,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let store = open(&path);
    Fixture { _dir: dir, path, store, keys: 0 }
}

impl Fixture {
    fn apply(&self, items: &[Item]) -> Vec<Outcome> {
        let index = self.store.applied().index + 1;
        self.store.apply(index, Bytes::from_static(b"id"), &encode_batch(items)).unwrap().outcomes
    }

    /// So many messages to a user at a time; the last one's id.
    fn send(&mut self, to: &str, count: u64, ms: u64, body_len: usize) -> EntryId {
        let items: Vec<Item> = (0..count)
            .map(|_| {
                self.keys += 1;
                Item::Message(NewMessage {
                    sender: user("sender"),
                    key: MessageKey(u128::from(self.keys).to_be_bytes()),
                    recipient: user(to),
                    kind: 0,
                    stamp: EntryId(ms << 16),
                    body: Bytes::from(vec![self.keys as u8; body_len]),
                })
            })
            .collect();
        self.apply(&items);
        self.store.last_stamp()
    }

    fn ack(&self, name: &str, which: &str, cursor: EntryId, seen_ms: u64) {
        let item = Item::Cursor { user: user(name), device: device(which), cursor, seen: EntryId(seen_ms << 16) };
        assert!(matches!(self.apply(&[item])[..], [Outcome::CursorMoved(_)]));
    }

    /// What a leader does, again and again until there is nothing to do; what it proposed.
    fn retain(&self, times: RetentionTimes) -> Vec<Item> {
        let (mut all, mut next) = (Vec::new(), Some(VnodeId(0)));
        while let Some(from) = next {
            let look = self.store.retention_look(from, times).unwrap();
            next = look.next;
            assert!(look.items.len() <= 512, "a small command");
            if !look.items.is_empty() {
                self.apply(&look.items);
            }
            all.extend(look.items);
        }
        all
    }

    fn count(&self, name: &str) -> usize {
        self.store.read(&user(name), EntryId::ZERO, WIDE).unwrap().entries.len()
    }
}

/// Everything old enough now; devices expire after 30 days.
fn at(ms: u64, keep_ms: u64) -> RetentionTimes {
    RetentionTimes::at(ms, keep_ms, 30 * DAY_MS)
}

#[test]
fn what_is_trimmed_is_gone_from_memory_at_once_and_its_bytes_with_it() {
    let mut f = fixture();
    let last = f.send("alice", 100, NOW_MS, 1_000);
    f.ack("alice", "phone", last, NOW_MS);
    let before = f.store.hot_bytes();
    let items = f.retain(at(NOW_MS + 1_000, 0));
    assert_eq!(items, [Item::Trim { user: user("alice"), up_to: last, entries: 100 }]);
    assert_eq!((f.count("alice"), f.store.stats().entries_trimmed), (0, 100));
    let after = f.store.hot_bytes();
    assert!(after + 100 * 1_000 < before, "{before} bytes before, {after} after");
    let report = f.store.checkpoint().unwrap();
    assert_eq!((report.entries, report.keys), (0, 100), "it never reaches the disk, its keys do");
    assert_eq!(f.store.hot_bytes(), 0);
    assert_eq!(f.retain(at(NOW_MS + 2_000, 0)), [], "and there is nothing more to do");
}

#[test]
fn what_is_trimmed_stays_away_before_and_after_its_checkpoint_and_a_restart() {
    let mut f = fixture();
    let first = f.send("alice", 10, NOW_MS, 10);
    f.send("alice", 10, NOW_MS, 10);
    f.send("bob", 5, NOW_MS, 10);
    f.store.checkpoint().unwrap();
    f.send("alice", 5, NOW_MS, 10);
    f.ack("alice", "phone", first, NOW_MS);
    f.retain(at(NOW_MS + 1_000, 0));
    assert_eq!((f.count("alice"), f.count("bob")), (15, 5), "on disk still, but no longer read");
    assert!(f.store.read_hot(&user("alice"), first, WIDE).is_none(), "what is left lies on disk");
    f.store.checkpoint().unwrap();
    assert_eq!((f.count("alice"), f.count("bob")), (15, 5));
    f.store = open(&f.path);
    assert_eq!((f.count("alice"), f.count("bob")), (15, 5));
    assert_eq!(f.store.read(&user("alice"), EntryId::ZERO, WIDE).unwrap().entries[0].id, EntryId(first.0 + 1));
    assert_eq!(f.retain(at(NOW_MS + 1_000, 0)), []);
}

#[test]
fn a_look_goes_into_so_many_inboxes_at_most_and_into_an_idle_one_once() {
    let mut f = fixture();
    for n in 0..600 {
        let name = format!("user {n}");
        let last = f.send(&name, 2, NOW_MS, 10);
        f.ack(&name, "phone", last, NOW_MS);
    }
    f.store.checkpoint().unwrap();
    f.store = open(&f.path);
    let walk = || {
        let (mut looks, mut next) = (0, Some(VnodeId(0)));
        while let Some(from) = next {
            let look = f.store.retention_look(from, at(NOW_MS + 1_000, 3_600_000)).unwrap();
            assert_eq!(look.items, [], "nothing is old enough");
            (looks, next) = (looks + 1, look.next);
        }
        looks
    };
    assert_eq!((walk(), walk()), (3, 1));
}

#[test]
fn the_slowest_device_and_time_decide_and_an_inbox_without_devices_keeps_everything() {
    let mut f = fixture();
    let first = f.send("alice", 10, NOW_MS, 10);
    let second = f.send("alice", 10, NOW_MS + 5_000, 10);
    f.send("nobody", 10, NOW_MS, 10);
    f.ack("alice", "phone", second, NOW_MS);
    assert_eq!(f.retain(at(NOW_MS, 1_000)), [], "nothing is old enough");
    f.ack("alice", "desk", EntryId::ZERO, NOW_MS);
    assert_eq!(f.retain(at(NOW_MS + DAY_MS, 0)), [], "the desk has nothing yet");
    f.ack("alice", "desk", EntryId(second.0 - 3), NOW_MS);
    let trim = |up_to, entries| Item::Trim { user: user("alice"), up_to, entries };
    assert_eq!(f.retain(at(NOW_MS + 5_000, 4_000)), [trim(first, 10)], "by time");
    assert_eq!(f.retain(at(NOW_MS + 5_500, 4_000)), [], "not yet");
    assert_eq!(f.retain(at(NOW_MS + 9_001, 4_000)), [trim(EntryId(second.0 - 3), 7)], "by device");
    assert_eq!((f.count("alice"), f.count("nobody")), (3, 10));
}

#[test]
fn apply_does_less_where_a_device_came_or_was_seen_since_the_look() {
    let mut f = fixture();
    let last = f.send("alice", 10, NOW_MS, 10);
    f.ack("alice", "phone", last, NOW_MS);
    f.ack("alice", "desk", last, NOW_MS - 40 * DAY_MS);
    let look = f.store.retention_look(VnodeId(0), at(NOW_MS + 1_000, 0)).unwrap();
    assert_eq!(look.items.len(), 2);
    f.ack("alice", "desk", EntryId::ZERO, NOW_MS);
    f.ack("alice", "tablet", EntryId(last.0 - 6), NOW_MS);
    f.apply(&look.items);
    assert_eq!(f.count("alice"), 6, "what the tablet has");
    let stats = f.store.stats();
    assert_eq!((stats.cursors, stats.devices_expired), (3, 0));
}

#[test]
fn a_device_that_comes_back_begins_anew() {
    let mut f = fixture();
    let last = f.send("alice", 10, NOW_MS, 10);
    f.ack("alice", "desk", EntryId(last.0 - 5), NOW_MS);
    f.store.checkpoint().unwrap();
    let later = NOW_MS + 31 * DAY_MS;
    f.ack("alice", "phone", EntryId(last.0 - 2), later);
    let items = f.retain(at(later, 0));
    let expire = Item::Expire { user: user("alice"), device: device("desk"), before: EntryId((NOW_MS + DAY_MS) << 16) };
    assert_eq!(items[0], expire);
    assert_eq!((f.count("alice"), f.store.stats().devices_expired), (2, 1), "the phone alone decides");
    assert_eq!(f.store.cursor(&user("alice"), &device("desk")).unwrap(), EntryId::ZERO);
    // Back within the same checkpoint as it went: its old row must not win.
    f.ack("alice", "desk", EntryId::ZERO, later);
    f.store.checkpoint().unwrap();
    f.store = open(&f.path);
    assert_eq!(f.store.cursor(&user("alice"), &device("desk")).unwrap(), EntryId::ZERO);
    assert!(f.store.was_seen_since(&user("alice"), &device("desk"), EntryId(later << 16)));
    // Gone, with a checkpoint in between.
    f.retain(at(later + 31 * DAY_MS, 0));
    f.store.checkpoint().unwrap();
    assert_eq!(open(&f.path).stats().cursors, 0);
}

#[test]
fn many_acks_of_one_device_are_one_row_of_a_checkpoint() {
    let mut f = fixture();
    let last = f.send("alice", 100, NOW_MS, 10);
    for n in (0..100).rev() {
        f.ack("alice", "phone", EntryId(last.0 - n), NOW_MS);
    }
    assert_eq!(f.store.checkpoint().unwrap().cursors, 1);
}

#[test]
fn a_long_inbox_goes_in_small_commands() {
    let mut f = fixture();
    let mut last = EntryId::ZERO;
    for _ in 0..20 {
        last = f.send("alice", 1_000, NOW_MS, 10);
    }
    f.store.checkpoint().unwrap();
    f.ack("alice", "phone", last, NOW_MS);
    let items = f.retain(at(NOW_MS + 1_000, 0));
    assert!(items.len() >= 15, "{} items", items.len());
    for item in &items {
        assert!(matches!(item, Item::Trim { entries: 1..=2_000, .. }), "{item:?}");
    }
    assert_eq!((f.count("alice"), f.store.stats().entries_trimmed), (0, 20_000));
}

/// Bytes of the file and its side file after a long run: 200 rounds of sending to ten users, acking, and a checkpoint.
fn size_after_a_run(trims: bool) -> u64 {
    const ROUNDS: u64 = 200;
    let mut f = fixture();
    for round in 0..ROUNDS {
        let now_ms = NOW_MS + round * 1_000;
        for n in 0..10 {
            let name = format!("user {n}");
            let last = f.send(&name, 20, now_ms, 2_000);
            f.ack(&name, "phone", last, now_ms);
        }
        if trims {
            // What was sent three rounds ago has been to the disk.
            f.retain(at(now_ms, 3_000));
        }
        f.store.checkpoint().unwrap();
    }
    if trims {
        assert_eq!(f.count("user 3"), 4 * 20, "what is not old enough is there");
    }
    let Fixture { path, store, _dir, .. } = f;
    // The last connection moves the side file into the file.
    drop(store);
    std::fs::metadata(&path).unwrap().len()
}

#[test]
fn the_file_keeps_its_size_and_without_trims_it_would_not() {
    const SENT_BYTES: u64 = 200 * 10 * 20 * 2_000;
    // Free pages, the keys of all messages, and what is not old enough.
    const CEILING_BYTES: u64 = 20 * 1024 * 1024;
    let (trimmed, kept) = (size_after_a_run(true), size_after_a_run(false));
    println!("{SENT_BYTES} bytes sent: {trimmed} in the file; {kept} without trims");
    assert!(trimmed < CEILING_BYTES, "{trimmed} bytes; the ceiling is {CEILING_BYTES}");
    assert!(kept > 2 * CEILING_BYTES, "the ceiling would not notice a leak: {kept}");
}
