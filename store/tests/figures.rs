//! Figures of the store on this machine, printed and never judged: `cargo nextest run -p iris-store --run-ignored only
//! --no-capture`. Judged benchmarks are ratios, in tests/.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use common::{append_later, entries, options, wait};
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::{GroupId, Item, NewMessage, PageLimits, RaftLog, ShardStore, StoreOptions, Warm, encode_batch};

const BATCHES: u64 = 200;
const BATCH: u64 = 1_000;

fn batch(index: u64) -> Bytes {
    let items: Vec<Item> = (0..BATCH)
        .map(|n| {
            let number = index * BATCH + n;
            Item::Message(NewMessage {
                sender: UserId::new(format!("sender{}", number % 5_000)).unwrap(),
                key: MessageKey((u128::from(number) << 60).to_be_bytes()),
                recipient: UserId::new(format!("recipient{}", number.wrapping_mul(0x9E37_79B9) % 5_000)).unwrap(),
                kind: 1,
                stamp: EntryId((1_795_000_000_000 + index) << 16),
                body: Bytes::from(vec![number as u8; 256]),
            })
        })
        .collect();
    encode_batch(&items)
}

#[test]
#[ignore = "prints figures"]
fn apply_and_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let warm = Arc::new(Warm::open(&dir.path().join("warm.db")).unwrap());
    let store = ShardStore::open(warm.clone(), ShardId(0), StoreOptions::default()).unwrap();
    let batches: Vec<Bytes> = (1..=BATCHES).map(batch).collect();
    let started = Instant::now();
    for (index, batch) in batches.iter().enumerate() {
        store.apply(index as u64 + 1, Bytes::from_static(b"id"), batch).unwrap();
    }
    let per = |len: u64| started.elapsed().as_nanos() as f64 / len as f64 / 1_000.0;
    println!("apply: {:.2} us per message, {} hot bytes", per(BATCHES * BATCH), store.hot_bytes());
    let started = Instant::now();
    for (index, batch) in batches.iter().enumerate() {
        store.apply(index as u64 + 1 + BATCHES, Bytes::from_static(b"id"), batch).unwrap();
    }
    println!("duplicates: {:.2} us per message", started.elapsed().as_secs_f64() * 1e6 / (BATCHES * BATCH) as f64);
    let report = store.checkpoint().unwrap();
    println!("checkpoint: {} entries in {:?}", report.entries, report.took);
    let started = Instant::now();
    let limits = PageLimits { entries_max: 20, bytes_max: 1 << 20 };
    for n in 0..5_000 {
        store.read(&UserId::new(format!("recipient{n}")).unwrap(), EntryId::ZERO, limits).unwrap();
    }
    println!("read of 20 from disk: {:.1} us", started.elapsed().as_secs_f64() * 1e6 / 5_000.0);
    let started = Instant::now();
    drop(ShardStore::open(warm, ShardId(0), StoreOptions::default()).unwrap());
    println!("open with {} keys: {:?}", BATCHES * BATCH, started.elapsed());
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    println!("on disk: {bytes} bytes, WAL included");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn group_commit() {
    for (groups, depth) in [(1, 1), (8, 1), (8, 64), (64, 64)] {
        let dir = tempfile::tempdir().unwrap();
        let log = RaftLog::open(options(dir.path())).unwrap();
        let each = 200_u64 * depth;
        let started = Instant::now();
        let tasks: Vec<_> = (0..groups)
            .map(|group| {
                let log = log.group(GroupId(100 + group));
                tokio::spawn(async move {
                    let mut waiting = std::collections::VecDeque::new();
                    for index in 0..each {
                        waiting
                            .push_back(append_later(&log, entries(index..index + 1, &"x".repeat(250))).await.unwrap());
                        if waiting.len() as u64 >= depth
                            && let Some(done) = waiting.pop_front()
                        {
                            wait(done).await.unwrap().unwrap();
                        }
                    }
                    for done in waiting {
                        wait(done).await.unwrap().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (took, stats) = (started.elapsed(), log.stats());
        println!(
            "{groups} groups, {depth} in flight: {:.0} entries/s, {:.1} entries per fsync, {} us per fsync",
            stats.entries as f64 / took.as_secs_f64(),
            stats.entries as f64 / stats.fsyncs as f64,
            stats.fsync_us_sum / stats.fsyncs
        );
    }
}
