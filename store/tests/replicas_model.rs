//! Two replicas of a shard against the model (A3, A8, A9): one leads, looks for old keys and for what is to go, and proposes;
//! both apply, one on SQLite and one on sled. They checkpoint, restart and are replaced by the other's snapshot at different moments, have little in memory,
//! and must answer alike: what the model answers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, HybridClock, MessageKey, ShardId, UserId, VnodeId};
use iris_store::warm::{Engine, WarmRecord, WarmStore};
use iris_store::{
    Item, KeysSeen, NewMessage, Outcome, PageLimits, RetentionTimes, ShardStore, StoreOptions, encode_command,
};
use model::Model;
use proptest::prelude::*;

const SHARD: ShardId = ShardId(3);
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const NOW_MS: u64 = 1_795_000_000_000;
const WINDOW_MS: u64 = 8 * DAY_MS;
const RECENT_KEYS: usize = 32;
const IN_FLIGHT_MAX: u64 = RECENT_KEYS as u64 / 8;
const WIDE: PageLimits = PageLimits { entries_max: 10_000, bytes_max: 1 << 30 };
const USERS: u8 = 3;
const DEVICES: u8 = 2;

/// Old keys that were found in memory or on disk, over all cases: the test must not pass by never needing to look.
static KNOWN: AtomicUsize = AtomicUsize::new(0);
static LOOKED_ON_DISK: AtomicUsize = AtomicUsize::new(0);
static STALE: AtomicUsize = AtomicUsize::new(0);
static TRIMMED: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, Clone)]
enum Step {
    /// The leader looks, and proposes.
    Propose(Vec<Spec>),
    /// The oldest proposal is applied everywhere.
    Commit,
    /// Retention looks once, and what it wants is applied.
    Retain {
        keep_h: u8,
        expiry_h: u8,
    },
    Checkpoint(usize),
    Restart(usize),
    /// A replica is replaced by what the other one checkpointed: by its newest state while it runs, or by an older one while
    /// it is stopped.
    Install {
        which: usize,
        newest: bool,
    },
    /// The other one leads.
    Switch,
}

#[derive(Debug, Clone)]
enum Spec {
    Message { sender: u8, key: u8, recipient: u8, body: u8, advance_h: u8 },
    Cursor { user: u8, device: u8, back: u8 },
}

fn spec() -> impl Strategy<Value = Spec> {
    prop_oneof![
        6 => (0..2u8, 0..60u8, 0..USERS, prop_oneof![9 => Just(0u8), 1 => Just(1u8)], 0..3u8).prop_map(
            |(sender, key, recipient, body, advance_h)| Spec::Message { sender, key, recipient, body, advance_h }
        ),
        1 => (0..USERS, 0..DEVICES, any::<u8>()).prop_map(|(user, device, back)| Spec::Cursor { user, device, back }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => proptest::collection::vec(spec(), 1..3).prop_map(Step::Propose),
        16 => Just(Step::Commit),
        2 => (0..100u8, 10..200u8).prop_map(|(keep_h, expiry_h)| Step::Retain { keep_h, expiry_h }),
        5 => (0..2usize).prop_map(Step::Checkpoint),
        1 => (0..2usize).prop_map(Step::Restart),
        1 => (0..2usize, any::<bool>()).prop_map(|(which, newest)| Step::Install { which, newest }),
        1 => Just(Step::Switch),
    ]
}

fn user(number: u8) -> UserId {
    UserId::new(format!("user {number}")).unwrap()
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(format!("device {number}")).unwrap()
}

/// Every fifth key has no time; the others' times lie four hours apart, so that at any moment some are ahead, some days behind.
fn key(number: u8) -> MessageKey {
    let mut bytes = [number; 16];
    if !number.is_multiple_of(5) {
        let ms = NOW_MS - 4 * DAY_MS + u64::from(number) * 4 * HOUR_MS;
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        (bytes[6], bytes[8]) = (0x70, 0x80);
    } else {
        bytes[6] = 0x40;
    }
    MessageKey(bytes)
}

struct Replica {
    data: PathBuf,
    engine: Engine,
    warm: Arc<dyn WarmStore>,
    store: ShardStore,
}

fn open(data: PathBuf, engine: Engine) -> Replica {
    let options = StoreOptions {
        dedup_window: Duration::from_millis(WINDOW_MS),
        dedup_recent_keys: RECENT_KEYS,
        dedup_bucket_keys_max: 5,
        ..StoreOptions::default()
    };
    let warm = iris_store::warm::open(engine, &data).unwrap();
    let store = ShardStore::open(warm.clone(), SHARD, options).unwrap();
    Replica { data, engine, warm, store }
}

fn log_id(index: u64) -> Bytes {
    Bytes::from(format!("log id {index}"))
}

struct Run {
    replicas: Vec<Replica>,
    leader: usize,
    model: Model,
    /// What was applied, and with what outcomes.
    log: Vec<(Bytes, Vec<Outcome>)>,
    proposed: VecDeque<(Vec<Item>, KeysSeen)>,
    stamps: HybridClock,
    clock_ms: u64,
}

impl Run {
    fn items(&mut self, specs: &[Spec]) -> Vec<Item> {
        self.stamps.observe(self.replicas[self.leader].store.last_stamp());
        let mut item = |spec: &Spec| match *spec {
            Spec::Message { sender, key: number, recipient, body, advance_h } => {
                self.clock_ms += u64::from(advance_h) * HOUR_MS;
                Item::Message(NewMessage {
                    sender: user(sender),
                    key: key(number),
                    // A key is mostly used for the same again: for a copy, not for a conflict.
                    recipient: user(if recipient == 0 { number % USERS } else { recipient * number % USERS }),
                    kind: 0,
                    stamp: self.stamps.stamp(self.clock_ms),
                    body: Bytes::from(vec![body; usize::from(body)]),
                })
            }
            Spec::Cursor { user: name, device: which, back } => Item::Cursor {
                user: user(name),
                device: device(which),
                cursor: EntryId(self.model.last.0.saturating_sub(u64::from(back) * (HOUR_MS << 15))),
                seen: self.stamps.stamp(self.clock_ms),
            },
        };
        specs.iter().map(&mut item).collect()
    }

    fn propose(&mut self, specs: &[Spec]) {
        let mut items = self.items(specs);
        let leader = &self.replicas[self.leader].store;
        let mut resolution = leader.resolve(&mut items);
        if resolution.needs_disk() {
            LOOKED_ON_DISK.fetch_add(1, Ordering::Relaxed);
            leader.resolve_on_disk(&mut items, &mut resolution).unwrap();
        }
        let known = items.iter().filter(|item| matches!(item, Item::Known { .. })).count();
        KNOWN.fetch_add(known, Ordering::Relaxed);
        self.proposed.push_back((items, resolution.seen()));
    }

    /// The model is told what was asked, not what the leader made of it.
    fn commit(&mut self, asked: &[Item], items: &[Item], seen: KeysSeen) {
        let stale = seen != KeysSeen::NOT_LOOKED_UP
            && (self.model.taken + items.len() as u64).saturating_sub(seen.0) > IN_FLIGHT_MAX;
        STALE.fetch_add(usize::from(stale), Ordering::Relaxed);
        let mut expected = Vec::new();
        for (asked, item) in asked.iter().zip(items) {
            expected.push(match item {
                Item::Message(_) if stale => Outcome::Stale,
                Item::Known { .. } if stale => self.model.apply(item),
                _ => self.model.apply(asked),
            });
        }
        let command = encode_command(items, seen);
        let index = self.log.len() as u64;
        for (which, replica) in self.replicas.iter().enumerate() {
            let reply = replica.store.apply(index, log_id(index), &command).unwrap();
            assert_eq!(reply.outcomes, expected, "replica {which}, index {index}: {items:?}");
        }
        self.log.push((command, expected));
    }

    fn retain(&mut self, keep_h: u8, expiry_h: u8) {
        let times = RetentionTimes::at(self.clock_ms, u64::from(keep_h) * HOUR_MS, u64::from(expiry_h) * HOUR_MS);
        let mut next = Some(VnodeId(0));
        while let Some(from) = next {
            let look = self.replicas[self.leader].store.retention_look(from, times).unwrap();
            next = look.next;
            for item in &look.items {
                self.check_allowed(item, times);
            }
            if !look.items.is_empty() {
                self.commit(&look.items, &look.items, KeysSeen::NOT_LOOKED_UP);
            }
        }
        // Everything that may go has gone.
        for name in (0..USERS).map(user) {
            let Some(lowest) = self.model.lowest(&name) else { continue };
            let left = self.model.inboxes.get(&name).into_iter().flatten();
            assert!(left.clone().all(|entry| entry.id > lowest || entry.id >= times.trim_before), "{name}");
        }
        assert!(self.model.devices.values().all(|(_, seen)| *seen >= times.devices_before));
    }

    fn check_allowed(&self, item: &Item, times: RetentionTimes) {
        match item {
            Item::Trim { user, up_to, entries } => {
                let alive =
                    self.model.devices.iter().filter(|((name, _), at)| name == user && at.1 >= times.devices_before);
                assert!(alive.clone().count() > 0 && alive.clone().all(|(_, at)| at.0 >= *up_to), "{item:?}");
                let going = self.model.inboxes[user].iter().filter(|entry| entry.id <= *up_to);
                assert!(*up_to < times.trim_before && going.count() == *entries as usize && *entries > 0, "{item:?}");
                TRIMMED.fetch_add(*entries as usize, Ordering::Relaxed);
            }
            Item::Expire { user, device, before } => {
                assert_eq!(*before, times.devices_before);
                assert!(self.model.devices[&(user.clone(), device.clone())].1 < *before);
            }
            other => panic!("{other:?}"),
        }
    }

    fn restart(&mut self, which: usize) {
        let Replica { data, engine, .. } = self.replicas.remove(which);
        self.replicas.insert(which, open(data, engine));
        self.catch_up(which);
    }

    /// Applies the log behind the checkpoint again, with the same outcomes.
    fn catch_up(&self, which: usize) {
        let store = &self.replicas[which].store;
        let begin = store.checkpointed();
        assert_eq!(store.applied(), begin);
        let first = if begin.log_id.is_empty() { 0 } else { begin.index + 1 };
        for (index, (command, outcomes)) in self.log.iter().enumerate().skip(first as usize) {
            let reply = store.apply(index as u64, log_id(index as u64), command).unwrap();
            assert_eq!(&reply.outcomes, outcomes, "replica {which}, index {index} applied again");
        }
    }

    fn install_newest(&self, which: usize) {
        let other = &self.replicas[1 - which];
        other.store.checkpoint().unwrap();
        let Some(snapshot) = other.store.snapshot().unwrap() else { return };
        let file = snapshot.export(&other.data).unwrap();
        let store = &self.replicas[which].store;
        store.install(&file).unwrap();
        assert_eq!(
            (store.applied(), store.checkpointed(), store.hot_bytes()),
            (other.store.applied(), store.applied(), 0)
        );
    }

    fn install_older(&mut self, which: usize) {
        let Some(mut view) = self.replicas[1 - which].warm.view(SHARD).unwrap() else { return };
        let (row, mut records) = (view.row().clone(), Vec::new());
        let mut each = |record: WarmRecord| {
            records.push(Ok(record));
            Ok(())
        };
        view.each(&mut each).unwrap();
        drop(view);
        self.replicas[which].warm.install(SHARD, &row, &mut records.into_iter()).unwrap();
        self.restart(which);
    }

    fn check(&self) {
        for replica in &self.replicas {
            let store = &replica.store;
            assert_eq!(store.last_stamp(), self.model.last);
            let mut seen = HashSet::new();
            for name in (0..USERS).map(user) {
                let expected = self.model.inboxes.get(&name).map_or(&[][..], Vec::as_slice);
                let whole = store.read(&name, EntryId::ZERO, WIDE).unwrap();
                assert_eq!((&whole.entries[..], whole.more, whole.scanned_to), (expected, false, self.model.last));
                assert!(expected.iter().all(|entry| seen.insert(entry.id)));
                for which in (0..DEVICES).map(device) {
                    let expected = self.model.devices.get(&(name.clone(), which.clone())).copied();
                    assert_eq!(store.cursor(&name, &which).unwrap(), expected.unwrap_or_default().0);
                    assert_eq!(store.knows(&name, &which), expected.is_some());
                    let was_seen = expected.is_some_and(|(_, seen)| store.was_seen_since(&name, &which, seen));
                    assert_eq!(was_seen, expected.is_some());
                }
            }
            let stats = store.stats();
            assert_eq!((stats.dedup_dropped_early, stats.cursors), (0, self.model.devices.len()));
            assert!(stats.hot_bytes < 1 << 30, "it did not wrap");
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run {
        replicas: vec![open(dir.path().join("0"), Engine::Sqlite), open(dir.path().join("1"), Engine::Sled)],
        leader: 0,
        model: Model::new(WINDOW_MS, usize::MAX),
        log: Vec::new(),
        proposed: VecDeque::new(),
        stamps: HybridClock::default(),
        clock_ms: NOW_MS,
    };
    let mut asked = VecDeque::new();
    for step in steps {
        match step {
            Step::Propose(specs) => {
                // As the proposal was asked for: the same stamps, before anything was looked up.
                let (stamps, clock_ms) = (run.stamps, run.clock_ms);
                let items = run.items(&specs);
                (run.stamps, run.clock_ms) = (stamps, clock_ms);
                asked.push_back(items);
                run.propose(&specs);
            }
            Step::Commit => {
                let Some((items, seen)) = run.proposed.pop_front() else { continue };
                let asked: Vec<Item> = asked.pop_front().unwrap();
                run.commit(&asked, &items, seen);
                run.check();
            }
            Step::Retain { keep_h, expiry_h } => {
                run.retain(keep_h, expiry_h);
                run.check();
            }
            Step::Checkpoint(which) => {
                let store = &run.replicas[which].store;
                store.checkpoint().unwrap();
                assert_eq!((store.hot_bytes(), store.stats().dedup_keys_in_memory <= RECENT_KEYS), (0, true));
            }
            Step::Restart(which) => run.restart(which),
            Step::Install { which, newest: true } => run.install_newest(which),
            Step::Install { which, newest: false } => run.install_older(which),
            // A new leader applies everything before it proposes, and knows nothing of what the old one had on its way.
            Step::Switch => {
                while let Some((items, seen)) = run.proposed.pop_front() {
                    run.commit(&asked.pop_front().unwrap(), &items, seen);
                }
                run.leader = 1 - run.leader;
            }
        }
    }
    for which in [0, 1] {
        run.restart(which);
    }
    run.check();
    drop(run);
    for which in ["0", "1"] {
        let (report, _) = iris_store::check::check_warm(&dir.path().join(which));
        assert!(report.is_fine(), "{report:?}");
    }
}

#[test]
fn two_replicas_answer_as_the_model_does() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 30, ..ProptestConfig::default() });
    let steps = proptest::collection::vec(step(), 100..400);
    let each = |steps| {
        run(steps);
        Ok(())
    };
    runner.run(&steps, each).unwrap();
    for (what, count) in [("known", &KNOWN), ("disk", &LOOKED_ON_DISK), ("stale", &STALE), ("trimmed", &TRIMMED)] {
        assert!(count.load(Ordering::Relaxed) > 20, "{what}: {count:?}");
    }
}
