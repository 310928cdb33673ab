//! The part of the suite about kills: a child process writes one checkpoint after another, and some as installs, says each
//! that returned, and is killed at a random moment. What is found then is exactly what one of them left: the last that was
//! said, or the one after it; never half of one.
//!
//! The child is the test's own executable, started again; what it does at each step is a function of the step's number, so
//! the parent knows what must be there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_protocol::vnode::vnode_of;
use iris_protocol::{EntryId, ShardId};

use super::conformance::{Batch, cursor_row, dedup_key, entry, shard_row, user};
use super::conformance_whole::contents;
use crate::warm::{BucketId, CursorRow, WarmRecord, WarmStore};

const SHARD: u16 = 1;
const USERS: u64 = 9;
/// Entries of a checkpoint: several of the adapters' batches.
const ENTRIES: u64 = 450;
/// Every so many steps the child installs a snapshot instead.
const INSTALL_EVERY: u64 = 7;
/// Steps after which an inbox is trimmed behind, and a bucket removed.
const KEPT_STEPS: u64 = 3;
/// Longest a kill waits after the last answer it waited for: some checkpoints' time.
const DELAY_US_MAX: u64 = 30_000;
const SAID: &str = "checkpoint ";

/// Set for the child; a test that finds it calls [`warm_store_crash_child`] and nothing else.
pub const CRASH_CHILD: &str = "IRIS_CRASH_CHILD";

/// What the child does until it is killed.
///
/// # Panics
/// When the store fails.
pub fn warm_store_crash_child(warm: &dyn WarmStore) {
    let mut model = Model::at(index(warm));
    loop {
        let next = model.step + 1;
        let batch = model.batch(next);
        if next.is_multiple_of(INSTALL_EVERY) {
            let records = model.records();
            let row = shard_row(next, next * ENTRIES);
            warm.install(ShardId(SHARD), &row, &mut records.into_iter().map(Ok)).expect("an install");
        } else {
            batch.write(warm, SHARD);
        }
        // A parent that went away is not what this is about.
        let _ = writeln!(std::io::stdout(), "{SAID}{next}");
    }
}

/// Kills the child `rounds` times and looks each time at what it left. `child` starts this executable again so that it calls
/// [`warm_store_crash_child`] on the store that `open` opens.
///
/// # Panics
/// When something is found that no checkpoint left. The message has the seed.
pub fn warm_store_survives_kills(
    rounds: u64,
    seed: u64,
    child: &dyn Fn() -> Command,
    open: &dyn Fn() -> Arc<dyn WarmStore>,
) {
    let mut random = seed;
    let mut before = 0;
    for round in 0..rounds {
        let said = run_and_kill(&mut child(), &mut random, before);
        let warm = open();
        let found = index(&*warm);
        let context = format!("seed {seed}, round {round}: {said} was said, {found} is there");
        assert!(found == said || found == said + 1, "{context}");
        let (wanted, there) = (Model::at(found).contents(), contents(&*warm, SHARD));
        if wanted != there {
            let missing = wanted.iter().filter(|one| !there.contains(one)).take(3).collect::<Vec<_>>();
            let extra = there.iter().filter(|one| !wanted.contains(one)).take(3).collect::<Vec<_>>();
            assert!(wanted == there, "{context}; missing {missing:?}, too much {extra:?}");
        }
        warm.verify(&mut |verified| {
            assert!(!matches!(verified, crate::warm::Verified::Damaged(_)), "{context}: {verified:?}");
        })
        .expect("a check");
        before = found;
    }
    assert!(before > rounds, "the child did too little for kills to hit it: {before} steps");
}

/// The last step the child said before it was killed.
fn run_and_kill(child: &mut Command, random: &mut u64, before: u64) -> u64 {
    let mut child: Child = child.stdout(Stdio::piped()).spawn().expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    // The test harness writes to the same pipe, even into the same line.
    let mut steps = lines.map_while(Result::ok).filter_map(|line| line.split_once(SAID)?.1.parse::<u64>().ok());
    let mut said = before;
    for _ in 0..=next(random) % 5 {
        said = steps.next().expect("the child ended by itself");
    }
    let (delay, begun) = (Duration::from_micros(next(random) % DELAY_US_MAX), Instant::now());
    while begun.elapsed() < delay {
        std::thread::yield_now();
    }
    child.kill().expect("a kill");
    child.wait().expect("its end");
    steps.last().unwrap_or(said)
}

/// splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn index(warm: &dyn WarmStore) -> u64 {
    warm.shard(ShardId(SHARD)).expect("a row").map_or(0, |row| row.mark.index)
}

/// What must be there after a step.
#[derive(Default)]
struct Model {
    step: u64,
    inboxes: BTreeMap<u64, Vec<u64>>,
    cursors: BTreeMap<(u64, u64), CursorRow>,
    buckets: BTreeMap<u32, Vec<u64>>,
}

impl Model {
    fn at(step: u64) -> Self {
        let mut model = Self::default();
        (1..=step).for_each(|step| drop(model.batch(step)));
        model
    }

    /// Takes a step, and says what a checkpoint writes for it.
    fn batch(&mut self, step: u64) -> Batch {
        self.step = step;
        let ids: Vec<u64> = ((step - 1) * ENTRIES + 1..=step * ENTRIES).collect();
        let mut batch = Batch::new(step);
        for name in 0..USERS {
            let new: Vec<u64> = ids.iter().copied().filter(|id| id % USERS == name).collect();
            batch = batch.entries(&format!("user {name}"), &new);
            self.inboxes.entry(name).or_default().extend(new);
        }
        let trimmed = (step % USERS, step.saturating_sub(KEPT_STEPS) * ENTRIES);
        batch = batch.trim(&format!("user {}", trimmed.0), trimmed.1);
        self.inboxes.entry(trimmed.0).or_default().retain(|id| *id > trimmed.1);
        let (name, device) = (step % USERS, step % 2);
        let gone = ((step + 4) % USERS, device);
        batch = batch.cursor_gone(&format!("user {}", gone.0), &format!("device {}", gone.1));
        self.cursors.remove(&gone);
        batch = batch.cursor(&format!("user {name}"), &format!("device {device}"), step * ENTRIES, step);
        let cursor = cursor_row(&format!("user {name}"), &format!("device {device}"), step * ENTRIES, step);
        self.cursors.insert((name, device), cursor);
        // A bucket for two steps.
        let bucket = step as u32 / 2;
        batch = batch.keys(bucket, &ids);
        self.buckets.entry(bucket).or_default().extend(ids);
        if let Some(old) = bucket.checked_sub(KEPT_STEPS as u32) {
            batch = batch.bucket_gone(old);
            self.buckets.remove(&old);
        }
        batch
    }

    fn records(&self) -> Vec<WarmRecord> {
        let mut records = Vec::new();
        for (name, ids) in &self.inboxes {
            let name = format!("user {name}");
            records.extend(ids.iter().map(|&id| WarmRecord::Entry { user: user(&name), entry: entry(&name, id) }));
        }
        records.sort_by_key(|record| match record {
            WarmRecord::Entry { user, entry } => (vnode_of(user).0, user.clone(), entry.id),
            other => (0, user(&format!("{other:?}")), EntryId::ZERO),
        });
        records.extend(self.cursors.values().cloned().map(WarmRecord::Cursor));
        for (&bucket, ids) in &self.buckets {
            let bucket = BucketId(bucket);
            records.extend(ids.iter().map(|&id| WarmRecord::Dedup { bucket, key: dedup_key(id) }));
        }
        records
    }

    fn contents(&self) -> Vec<String> {
        if self.step == 0 {
            return Vec::new();
        }
        let mut all: Vec<String> = self.records().iter().map(|record| format!("{record:?}")).collect();
        all.sort_unstable();
        all.insert(0, format!("{:?}", shard_row(self.step, self.step * ENTRIES)));
        all
    }
}
