//! A8, A9 on a real node: what every device has goes after its time, what one still needs stays, and a device that was not seen
//! for long holds nothing back; when it comes again it begins with the first entry still there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use iris_client::{Client, EntryId, Event, Outgoing, SubscribeFrom, UserId};
use iris_protocol::admin::Counters;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::wait::{wait_for, within};

const DEADLINE: Duration = Duration::from_secs(30);

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

async fn start(device_expiry_ms: u64) -> Cluster {
    let options = Options::nodes(1).with("store", "checkpoint_ms", 100).with("store", "retention_ms", 0).with(
        "store",
        "device_expiry_ms",
        device_expiry_ms,
    );
    Cluster::start_with(options).await.unwrap()
}

async fn send(cluster: &Cluster, count: usize) -> Vec<EntryId> {
    let client = cluster.client(&UserId::new("bob").unwrap(), "sender").await.unwrap();
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(client.send_and_wait(Outgoing::new(alice(), format!("message {number}"))).await.unwrap().id);
    }
    ids
}

async fn read(client: &Client, from: SubscribeFrom) -> Vec<EntryId> {
    let mut inbox = client.subscribe(from, 64).unwrap();
    let mut ids = Vec::new();
    let read = async {
        while let Event::Entry(entry) = inbox.next().await.unwrap() {
            ids.push(entry.id);
        }
    };
    within("the end of the inbox", DEADLINE, read).await.unwrap();
    ids
}

async fn ack(client: &Client, id: EntryId) {
    client.ack(id);
    client.flush_acks(DEADLINE).await.unwrap();
}

async fn wait_until(cluster: &Cluster, what: &str, holds: impl Fn(&Counters) -> bool) -> Counters {
    wait_for(what, DEADLINE, async || {
        let counters = cluster.status(0).await.map_err(|error| error.to_string())?.counters;
        if holds(&counters) { Ok(counters) } else { Err(format!("{counters:?}").into()) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_wait_for_every_known_device_and_no_longer() {
    let mut cluster = start(3_600_000).await;
    let phone = cluster.client(&alice(), "phone").await.unwrap();
    let desk = cluster.client(&alice(), "desk").await.unwrap();
    // From its first subscription on the desk is known, though it acks nothing.
    assert_eq!(read(&desk, SubscribeFrom::Stored).await, []);
    let ids = send(&cluster, 30).await;
    assert_eq!(read(&phone, SubscribeFrom::Stored).await, ids);
    ack(&phone, ids[29]).await;
    wait_until(&cluster, "two devices", |counters| counters.devices == 2).await;
    ack(&desk, ids[9]).await;
    let counters = wait_until(&cluster, "the first ten to go", |counters| counters.entries_trimmed > 0).await;
    assert_eq!((counters.entries_trimmed, counters.devices_expired), (10, 0), "the desk needs the others");
    let tablet = cluster.client(&alice(), "tablet").await.unwrap();
    assert_eq!(read(&tablet, SubscribeFrom::After(EntryId::ZERO)).await, ids[10..]);
    // Nothing comes back, and nothing more is gone, after a restart.
    drop((phone, desk, tablet));
    cluster.stop(0).await.unwrap();
    cluster.heal().await.unwrap();
    let desk = cluster.client(&alice(), "desk").await.unwrap();
    assert_eq!(read(&desk, SubscribeFrom::Stored).await, ids[10..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_node_writes_nothing_for_retention() {
    let cluster = start(3_600_000).await;
    let phone = cluster.client(&alice(), "phone").await.unwrap();
    let ids = send(&cluster, 5).await;
    assert_eq!(read(&phone, SubscribeFrom::Stored).await, ids);
    ack(&phone, ids[4]).await;
    let before = wait_until(&cluster, "all to go", |counters| counters.entries_trimmed == 5).await;
    // Twenty looks and more: checkpoints are as many, and each of them is seen.
    for _ in 0..8 {
        let client = cluster.client(&alice(), "phone").await.unwrap();
        assert_eq!(read(&client, SubscribeFrom::Stored).await, []);
    }
    let after = wait_until(&cluster, "the same", |_| true).await;
    assert_eq!(after.batches, before.batches, "logins of a device that was just seen, and looks, propose nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_not_seen_for_long_holds_nothing_back() {
    let cluster = start(2_000).await;
    let desk = cluster.client(&alice(), "desk").await.unwrap();
    assert_eq!(read(&desk, SubscribeFrom::Stored).await, []);
    desk.close(DEADLINE).await;
    let ids = send(&cluster, 20).await;
    let phone = cluster.client(&alice(), "phone").await.unwrap();
    assert_eq!(read(&phone, SubscribeFrom::Stored).await, ids);
    ack(&phone, ids[9]).await;
    // The phone logs in again and again, which is enough to be seen; nothing is heard of the desk.
    wait_for("the desk's entries to go", DEADLINE, async || {
        let phone = cluster.client(&alice(), "phone").await.unwrap();
        assert_eq!(read(&phone, SubscribeFrom::Stored).await, ids[10..]);
        let counters = cluster.status(0).await.map_err(|error| error.to_string())?.counters;
        if counters.entries_trimmed == 10 { Ok(()) } else { Err(format!("{counters:?}").into()) }
    })
    .await
    .unwrap();
    let counters = cluster.status(0).await.unwrap().counters;
    assert_eq!(counters.devices_expired, 1);
    let desk = cluster.client(&alice(), "desk").await.unwrap();
    assert_eq!(read(&desk, SubscribeFrom::Stored).await, ids[10..], "from the first entry still there");
}
