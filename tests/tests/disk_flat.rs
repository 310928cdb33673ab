//! A9: disk use stays flat over a long run of send, read and ack. A node that kept what everybody has would end far above the
//! ceiling; a second one that is told to keep it shows that.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use iris_client::{Client, Event, Outgoing, SubscribeFrom, Subscription, UserId};
use iris_tests::cluster::{Cluster, Options};
use iris_tests::wait::{wait_for, within};

const DEADLINE: Duration = Duration::from_secs(60);

/// Bodies are large, so that little time is spent on much disk.
const BODY_LEN: usize = 32 * 1024;
const ROUND: usize = 250;
const ROUNDS: usize = 12;
const SENT_BYTES: u64 = (BODY_LEN * ROUND * ROUNDS) as u64;

/// What the Raft log is to keep: the least that can be set.
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// The store keeps up to 16 MiB of free pages for what comes next, and a round's entries; the log's files take up to twice
/// what it keeps.
const CEILING_BYTES: u64 = SENT_BYTES / 2;

/// What the data folder holds, in bytes, in files of any kind.
fn data_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let len = |file: std::fs::DirEntry| match file.metadata().unwrap() {
        metadata if metadata.is_dir() => data_bytes(&file.path()),
        metadata => metadata.len(),
    };
    files.map(len).sum()
}

async fn send(client: &Client, to: &UserId) {
    let mut waiting = Vec::new();
    for _ in 0..ROUND {
        let body = vec![7u8; BODY_LEN];
        waiting.push(client.send(Outgoing::new(to.clone(), body)).await.unwrap());
    }
    for pending in waiting {
        pending.await.unwrap();
    }
}

/// Reads a round and acks it.
async fn receive(client: &Client, inbox: &mut Subscription) {
    let mut left = ROUND;
    while left > 0 {
        match within("the next entry", DEADLINE, inbox.next()).await.unwrap().unwrap() {
            Event::Entry(entry) => {
                left -= 1;
                client.ack(entry.id);
            }
            Event::Live(_) => {}
        }
    }
    client.flush_acks(DEADLINE).await.unwrap();
}

/// The folder's size when everything was sent, read and acked, and the node has stopped: until then what it holds lies
/// partly in a side file of a size of its own.
async fn size_after_a_run(retention_ms: u64) -> u64 {
    let options = Options::nodes(1).with("store", "checkpoint_ms", 50).with("store", "retention_ms", retention_ms);
    // Room that is set aside is no part of what goes through.
    let options = options.with("store", "log_bytes_max", LOG_BYTES).with("store", "reserve_bytes", 0);
    let mut cluster = Cluster::start_with(options).await.unwrap();
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let (sender, reader) =
        (cluster.client(&alice, "sender").await.unwrap(), cluster.client(&bob, "phone").await.unwrap());
    let mut inbox = reader.subscribe(SubscribeFrom::Stored, 64).unwrap();
    for round in 1..=ROUNDS {
        tokio::join!(send(&sender, &bob), receive(&reader, &mut inbox));
        if retention_ms == 0 {
            wait_for("the round's entries to go", DEADLINE, async || {
                let counters = cluster.status(0).await.map_err(|error| error.to_string())?.counters;
                let trimmed = counters.entries_trimmed as usize == round * ROUND;
                if trimmed { Ok(()) } else { Err(format!("{} are trimmed", counters.entries_trimmed).into()) }
            })
            .await
            .unwrap();
        }
    }
    drop((sender, reader, inbox));
    cluster.stop(0).await.unwrap();
    data_bytes(&cluster.node(0).data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_folder_stays_small_however_much_goes_through() {
    let (trimmed, kept) = (size_after_a_run(0).await, size_after_a_run(3_600_000).await);
    println!("{SENT_BYTES} bytes sent: {trimmed} on disk; {kept} with everything kept for an hour");
    assert!(trimmed < CEILING_BYTES, "{trimmed} bytes after {SENT_BYTES}; the ceiling is {CEILING_BYTES}");
    assert!(kept > CEILING_BYTES, "the ceiling would not notice a leak: {kept}");
}
