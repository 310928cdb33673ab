//! A8: two clients of one user. Devices see every entry and keep cursors of their own; two connections of one device share one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use iris_client::{Client, EntryId, Event, Outgoing, SubscribeFrom, UserId};
use iris_tests::cluster::Cluster;
use iris_tests::wait::within;

const DEADLINE: Duration = Duration::from_secs(30);

/// Everything from where the stored cursor stands to what is there now.
async fn read_stored(client: &Client) -> Vec<EntryId> {
    let mut inbox = client.subscribe(SubscribeFrom::Stored, 64).unwrap();
    let mut ids = Vec::new();
    let read = async {
        while let Event::Entry(entry) = inbox.next().await.unwrap() {
            ids.push(entry.id);
        }
    };
    within("the end of the inbox", DEADLINE, read).await.unwrap();
    ids
}

async fn send(cluster: &Cluster, count: usize) -> Vec<EntryId> {
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let client = cluster.client(&bob, "sender").await.unwrap();
    let mut ids = Vec::new();
    for number in 0..count {
        let receipt = client.send_and_wait(Outgoing::new(alice.clone(), format!("message {number}"))).await.unwrap();
        ids.push(receipt.id);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_see_everything_and_move_their_own_cursors() {
    let cluster = Cluster::start(3).await.unwrap();
    let alice = UserId::new("alice").unwrap();
    let ids = send(&cluster, 20).await;
    let phone = cluster.client_at(&alice, "phone", 0).await.unwrap();
    let laptop = cluster.client_at(&alice, "laptop", 1).await.unwrap();
    assert_eq!(read_stored(&phone).await, ids);
    assert_eq!(read_stored(&laptop).await, ids);

    phone.ack(ids[14]);
    phone.flush_acks(DEADLINE).await.unwrap();
    laptop.ack(ids[4]);
    laptop.flush_acks(DEADLINE).await.unwrap();
    // Backwards changes nothing.
    phone.ack(ids[2]);
    phone.flush_acks(DEADLINE).await.unwrap();
    drop((phone, laptop));

    let phone = cluster.client_at(&alice, "phone", 2).await.unwrap();
    let laptop = cluster.client_at(&alice, "laptop", 2).await.unwrap();
    assert_eq!(read_stored(&phone).await, ids[15..]);
    assert_eq!(read_stored(&laptop).await, ids[5..]);
    let tablet = cluster.client(&alice, "tablet").await.unwrap();
    assert_eq!(read_stored(&tablet).await, ids, "a new device begins at the beginning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connections_of_one_device_both_get_everything_and_share_the_cursor() {
    let cluster = Cluster::start(3).await.unwrap();
    let alice = UserId::new("alice").unwrap();
    let one = cluster.client_at(&alice, "phone", 0).await.unwrap();
    let two = cluster.client_at(&alice, "phone", 1).await.unwrap();
    let mut live = [one.subscribe(SubscribeFrom::Stored, 8).unwrap(), two.subscribe(SubscribeFrom::Stored, 8).unwrap()];
    let ids = send(&cluster, 30).await;
    for inbox in &mut live {
        let mut seen = Vec::new();
        while seen.len() < ids.len() {
            match within("the next entry", DEADLINE, inbox.next()).await.unwrap().unwrap() {
                Event::Entry(entry) => seen.push(entry.id),
                Event::Live(_) => {}
            }
        }
        assert_eq!(seen, ids);
    }
    one.ack(ids[19]);
    one.flush_acks(DEADLINE).await.unwrap();
    let third = cluster.client_at(&alice, "phone", 2).await.unwrap();
    assert_eq!(read_stored(&third).await, ids[20..], "the cursor is the device's, not the connection's");
}
