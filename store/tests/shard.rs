//! The shard's state, case by case: dedup's window and bound, bounds of memory, reads across a checkpoint, order of apply.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use iris_store::warm::{
    BucketId, Changes, CursorRow, DedupKey, FirstAppend, ShardRow, Verified, WarmRecord, WarmStore, WarmView,
};
use iris_store::{
    AppliedMark, Entry, Item, NewMessage, Outcome, PageLimits, ShardStore, StoreError, StoreOptions, Warm, encode_batch,
};

const WIDE: PageLimits = PageLimits { entries_max: 100_000, bytes_max: 1 << 30 };
const DAY_MS: u64 = 24 * 3600 * 1000;
/// November 2026.
const NOW_MS: u64 = 1_795_000_000_000;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn message(sender: &str, key: u64, ms: u64, body: &str) -> Item {
    Item::Message(NewMessage {
        sender: user(sender),
        key: MessageKey(u128::from(key).to_be_bytes()),
        recipient: user("inbox"),
        kind: 1,
        stamp: EntryId(ms << 16),
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

fn open(warm: Arc<dyn WarmStore>, options: StoreOptions) -> ShardStore {
    ShardStore::open(warm, ShardId(1), options).unwrap()
}

fn apply(store: &ShardStore, items: &[Item]) -> Vec<Outcome> {
    let index = store.applied().index + 1;
    store.apply(index, Bytes::from_static(b"id"), &encode_batch(items)).unwrap().outcomes
}

struct Fixture {
    dir: tempfile::TempDir,
    warm: Arc<Warm>,
    store: ShardStore,
}

fn fixture(options: StoreOptions) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let warm = Arc::new(Warm::open(&dir.path().join("warm.db")).unwrap());
    let store = open(warm.clone(), options);
    Fixture { dir, warm, store }
}

#[test]
fn a_key_is_remembered_for_its_window_across_a_restart() {
    let f = fixture(StoreOptions::default());
    let first = EntryId(NOW_MS << 16);
    assert_eq!(apply(&f.store, &[message("a", 1, NOW_MS, "x")]), [Outcome::Appended(first)]);
    let late = NOW_MS + 8 * DAY_MS;
    for store in [&f.store, &{
        f.store.checkpoint().unwrap();
        open(f.warm.clone(), StoreOptions::default())
    }] {
        assert_eq!(apply(store, &[message("a", 1, NOW_MS, "x")]), [Outcome::Duplicate(first)]);
        assert_eq!(apply(store, &[message("a", 1, late, "x")]), [Outcome::Duplicate(first)], "8 days to the ms");
        assert_eq!(apply(store, &[message("a", 1, late, "y")]), [Outcome::KeyConflict]);
        let appended = apply(store, &[message("b", 1, NOW_MS, "x"), message("b", 1, NOW_MS, "x")]);
        let id = EntryId(first.0 + 1);
        assert_eq!(
            appended,
            [Outcome::Appended(id), Outcome::Duplicate(id)],
            "another sender's key, twice in one batch"
        );
        assert_eq!(apply(store, &[message("a", 1, late + 1, "x")]), [Outcome::Appended(EntryId((late + 1) << 16))]);
        assert_eq!(store.stats().dedup_dropped_early, 0);
    }
}

#[test]
fn a_restart_forgets_what_was_forgotten() {
    let options = StoreOptions { dedup_window: Duration::from_millis(50), ..StoreOptions::default() };
    let f = fixture(options.clone());
    apply(&f.store, &[message("a", 1, NOW_MS, "x"), message("a", 2, NOW_MS + 40, "x")]);
    // A retry's stamp ends the first key's window without a new entry: the last id alone doesn't tell.
    assert!(matches!(apply(&f.store, &[message("a", 2, NOW_MS + 60, "x")])[..], [Outcome::Duplicate(_)]));
    f.store.checkpoint().unwrap();
    for store in [&f.store, &open(f.warm.clone(), options)] {
        assert!(matches!(apply(store, &[message("a", 1, NOW_MS + 41, "x")])[..], [Outcome::Appended(_)]));
    }
}

#[test]
fn at_the_bound_the_oldest_keys_go_and_are_counted() {
    let options = StoreOptions { dedup_keys_max: 100, ..StoreOptions::default() };
    let f = fixture(options.clone());
    let all: Vec<Item> = (0..150).map(|n| message(&format!("sender {}", n % 7), n, NOW_MS + n, "x")).collect();
    apply(&f.store, &all);
    let stats = f.store.stats();
    assert_eq!((stats.dedup_keys, stats.dedup_dropped_early, stats.entries_applied), (100, 50, 150));
    f.store.checkpoint().unwrap();
    for store in [&f.store, &open(f.warm.clone(), options)] {
        assert!(apply(store, &all[50..]).iter().all(|outcome| matches!(outcome, Outcome::Duplicate(_))));
        assert_eq!(store.stats().dedup_keys, 100);
        assert!(matches!(apply(store, &all[49..50])[..], [Outcome::Appended(_)]));
    }
}

#[test]
fn a_full_shard_says_so_until_a_checkpoint() {
    let f = fixture(StoreOptions { hot_bytes_max: 100_000, ..StoreOptions::default() });
    let mut key = 0;
    while !f.store.is_full() {
        key += 1;
        apply(&f.store, &[message("a", key, NOW_MS, &"x".repeat(1_000))]);
    }
    assert!((60..=100).contains(&key), "{key} messages of 1,000 bytes in 100,000");
    let report = f.store.checkpoint().unwrap();
    assert_eq!((report.entries as u64, report.mark.index, f.store.is_full()), (key, key, false));
    assert_eq!(f.store.checkpoint().unwrap().entries, 0, "nothing new");
    assert_eq!(f.store.stats().checkpoints, 1);
}

#[test]
fn a_blank_or_a_membership_moves_the_mark_and_a_checkpoint_keeps_it() {
    let f = fixture(StoreOptions::default());
    assert_eq!(f.store.applied(), AppliedMark::default());
    f.store.apply_membership(0, Bytes::from_static(b"id 0"), Bytes::from_static(b"members"));
    f.store.apply_blank(1, Bytes::from_static(b"id 1"));
    f.store.apply_blank(1, Bytes::from_static(b"again"));
    let mark =
        AppliedMark { index: 1, log_id: Bytes::from_static(b"id 1"), membership: Bytes::from_static(b"members") };
    assert_eq!((f.store.applied(), f.store.checkpointed()), (mark.clone(), AppliedMark::default()));
    f.store.checkpoint().unwrap();
    assert_eq!(open(f.warm.clone(), StoreOptions::default()).applied(), mark);
    let again = f.store.apply(1, Bytes::new(), &encode_batch(&[]));
    assert!(matches!(again, Err(StoreError::OutOfOrder { index: 1, applied: 1, .. })));
}

#[test]
fn a_bad_command_changes_nothing() {
    let f = fixture(StoreOptions::default());
    apply(&f.store, &[message("a", 1, NOW_MS, "x")]);
    let good = encode_batch(&[message("a", 2, NOW_MS, "x")]);
    let bad = f.store.apply(2, Bytes::new(), &good.slice(..good.len() - 1));
    assert!(matches!(bad, Err(StoreError::Command { index: 2, .. })));
    let end = NewMessage { stamp: EntryId(i64::MAX as u64), ..as_message(message("a", 3, NOW_MS, "x")) };
    let two = encode_batch(&[message("a", 2, NOW_MS, "x"), Item::Message(end)]);
    assert!(matches!(f.store.apply(2, Bytes::new(), &two), Err(StoreError::IdsExhausted { .. })));
    assert_eq!((f.store.applied().index, f.store.last_stamp()), (1, EntryId(NOW_MS << 16)));
    assert_eq!(f.store.read(&user("inbox"), EntryId::ZERO, WIDE).unwrap().entries.len(), 1);
}

fn as_message(item: Item) -> NewMessage {
    let Item::Message(message) = item else { panic!() };
    message
}

#[test]
fn an_idle_follower_stays_in_memory() {
    let f = fixture(StoreOptions::default());
    apply(&f.store, &[message("a", 1, NOW_MS, "x")]);
    let page = f.store.read_hot(&user("idle"), EntryId::ZERO, WIDE).unwrap();
    assert_eq!((page.entries.len(), page.more, page.scanned_to), (0, false, f.store.last_stamp()));
    f.store.checkpoint().unwrap();
    assert!(f.store.read_hot(&user("idle"), page.scanned_to, WIDE).is_some());
    assert!(f.store.read_hot(&user("idle"), EntryId::ZERO, WIDE).is_none());
    // A cursor from the future doesn't jump back.
    let far = EntryId(f.store.last_stamp().0 + 5);
    assert_eq!(f.store.read(&user("idle"), far, WIDE).unwrap().scanned_to, far);
}

#[test]
fn cursors_survive_and_an_unknown_one_is_zero() {
    let f = fixture(StoreOptions::default());
    let (inbox, phone) = (user("inbox"), DeviceId::new("phone").unwrap());
    apply(&f.store, &[message("a", 1, NOW_MS, "x")]);
    let item =
        |cursor| Item::Cursor { user: inbox.clone(), device: phone.clone(), cursor, seen: EntryId(NOW_MS << 16) };
    let last = f.store.last_stamp();
    assert_eq!(f.store.cursor(&inbox, &phone).unwrap(), EntryId::ZERO);
    assert_eq!(
        apply(&f.store, &[item(EntryId(u64::MAX >> 1))]),
        [Outcome::CursorMoved(last)],
        "not beyond what exists"
    );
    f.store.checkpoint().unwrap();
    assert_eq!(apply(&f.store, &[item(EntryId(3))]), [Outcome::CursorMoved(last)], "not back");
    assert_eq!(open(f.warm.clone(), StoreOptions::default()).cursor(&inbox, &phone).unwrap(), last);
    assert!(f.dir.path().exists());
}

/// A warm store whose checkpoints stop, committed or not, until they are let go, and whose installs fail when they are done.
struct Gate {
    warm: Arc<Warm>,
    committed_first: AtomicBool,
    open: Mutex<bool>,
    moved: Condvar,
    waiting: AtomicU64,
}

impl Gate {
    fn new(dir: &Path, committed_first: bool) -> Arc<Self> {
        Arc::new(Self {
            warm: Arc::new(Warm::open(&dir.join("warm.db")).unwrap()),
            committed_first: AtomicBool::new(committed_first),
            open: Mutex::new(true),
            moved: Condvar::new(),
            waiting: AtomicU64::new(0),
        })
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.moved.notify_all();
        let open = self.moved.wait_timeout_while(self.open.lock().unwrap(), Duration::from_secs(60), |open| !*open);
        assert!(!open.unwrap().1.timed_out());
    }

    fn wait_until_inside(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while self.waiting.load(Ordering::SeqCst) == 0 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    fn let_go(&self) {
        *self.open.lock().unwrap() = true;
        self.moved.notify_all();
    }
}

impl WarmStore for Gate {
    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        self.warm.shard(shard)
    }
    fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        self.warm.shards()
    }
    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError> {
        self.warm.cursors(shard, each)
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
        self.warm.view(shard)
    }
    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        self.warm.install(shard, row, records)?;
        // As an fsync that fails after the swap.
        Err(StoreError::Poisoned { path: self.warm.path().to_owned() })
    }
    fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.warm.remove(shard)
    }
    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
        self.warm.verify(each)
    }
    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        if self.committed_first.load(Ordering::SeqCst) {
            self.warm.checkpoint(shard, changes)?;
            self.pass();
            return Ok(());
        }
        self.pass();
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
    fn path(&self) -> &Path {
        self.warm.path()
    }
}

#[test]
fn reads_and_apply_go_on_during_a_checkpoint_before_and_after_its_commit() {
    for committed_first in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::new(dir.path(), committed_first);
        let store = open(gate.clone(), StoreOptions::default());
        for key in 1..=3 {
            apply(&store, &[message("a", key, NOW_MS, "x")]);
        }
        store.checkpoint().unwrap();
        apply(&store, &[message("a", 4, NOW_MS, "x")]);
        *gate.open.lock().unwrap() = false;
        gate.waiting.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let checkpoint = scope.spawn(|| store.checkpoint().unwrap());
            gate.wait_until_inside();
            assert!(matches!(apply(&store, &[message("a", 5, NOW_MS, "x")])[..], [Outcome::Appended(_)]));
            assert!(matches!(apply(&store, &[message("a", 4, NOW_MS, "x")])[..], [Outcome::Duplicate(_)]));
            let keys = |after| -> Vec<u8> {
                let page = store.read(&user("inbox"), after, WIDE).unwrap();
                page.entries.iter().map(|entry| entry.key.0[15]).collect()
            };
            assert_eq!(keys(EntryId::ZERO), [1, 2, 3, 4, 5], "committed first: {committed_first}");
            assert_eq!(keys(EntryId((NOW_MS << 16) + 1)), [3, 4, 5]);
            assert_eq!(store.checkpointed().index, 3);
            // Another one waits for nobody.
            assert_eq!(store.checkpoint().unwrap().mark.index, 3);
            gate.let_go();
            checkpoint.join().unwrap();
        });
        assert_eq!(store.checkpointed().index, 4);
        assert_eq!(store.read(&user("inbox"), EntryId::ZERO, WIDE).unwrap().entries.len(), 5);
    }
}

#[test]
fn an_install_that_fails_late_leaves_no_old_state_to_be_written() {
    let (source, dir) = (fixture(StoreOptions::default()), tempfile::tempdir().unwrap());
    for key in 1..=3 {
        apply(&source.store, &[message("a", key, NOW_MS, "x")]);
    }
    source.store.checkpoint().unwrap();
    let file = source.store.snapshot().unwrap().unwrap().export(dir.path()).unwrap();
    let gate = Gate::new(dir.path(), false);
    let store = open(gate.clone(), StoreOptions::default());
    apply(&store, &[message("a", 9, NOW_MS, "y")]);
    assert!(matches!(store.install(&file), Err(StoreError::Poisoned { .. })));
    assert!(matches!(store.checkpoint(), Err(StoreError::Poisoned { .. })), "memory is of another time");
    assert_eq!(open(gate.warm.clone(), StoreOptions::default()).applied(), source.store.applied());
}

#[test]
fn readers_never_see_a_hole_while_checkpoints_run() {
    let f = fixture(StoreOptions::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !stop.load(Ordering::SeqCst) || reads == 0 {
                        let page = f.store.read(&user("inbox"), EntryId::ZERO, WIDE).unwrap();
                        let keys = page.entries.iter().map(|entry| u128::from_be_bytes(entry.key.0));
                        assert!(keys.eq(1..=page.entries.len() as u128));
                        reads += 1;
                    }
                })
            })
            .collect();
        for key in 1..=600 {
            apply(&f.store, &[message("a", key, NOW_MS, "x")]);
            if key % 20 == 0 {
                f.store.checkpoint().unwrap();
            }
        }
        stop.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(f.store.read(&user("inbox"), EntryId::ZERO, WIDE).unwrap().entries.len(), 600);
}
