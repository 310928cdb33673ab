//! A3: a sender that gets no ack and sends again through another node leaves one entry. The first attempt is a raw connection
//! that goes away without reading; whether it was taken is unknown, and must not matter.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use iris_client::{Code, EntryId, MessageKey, UserId};
use iris_protocol::frame::ServerFrame;
use iris_tests::cluster::Cluster;
use iris_tests::raw::RawConnection;
use iris_tests::seed::{Seed, rounds};
use iris_tests::verify::read_inbox;
use iris_tests::wait::wait_for;
use rand::Rng;
use std::time::Duration;

fn new_key() -> MessageKey {
    MessageKey(uuid::Uuid::now_v7().into_bytes())
}

async fn login(cluster: &Cluster, user: &UserId, node: usize) -> RawConnection {
    let token = cluster.token(user).await.unwrap();
    RawConnection::login(&cluster.addresses()[node], cluster.ca_pem().unwrap(), &token, "raw").await.unwrap()
}

/// Sends and reads the answer: the entry's id, and whether the key was known.
async fn send(connection: &mut RawConnection, key: MessageKey, to: &UserId, body: &Bytes) -> (EntryId, bool) {
    connection.send(1, key, to, body.clone()).await.unwrap();
    match connection.read().await.unwrap() {
        Some(ServerFrame::Accepted { seq: 1, duplicate, id, .. }) => (id, duplicate),
        other => panic!("no ACCEPTED but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_through_another_node_leaves_one_entry() {
    let seed = Seed::pick();
    let mut rng = seed.rng("nodes");
    let cluster = Cluster::start(3).await.unwrap();
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let mut keys = Vec::new();
    for round in 0..rounds(30) {
        let (key, body) = (new_key(), Bytes::from(format!("message {round}")));
        let first_node = rng.random_range(0..3);
        let mut first = login(&cluster, &bob, first_node).await;
        first.send(1, key, &alice, body.clone()).await.unwrap();
        first.drop_now();
        let mut second = login(&cluster, &bob, (first_node + rng.random_range(1..3)) % 3).await;
        let (id, _) = send(&mut second, key, &alice, &body).await;
        keys.push((key, id));
    }
    for node in 0..3 {
        let log = read_inbox(&cluster, &alice, node).await.unwrap();
        assert_eq!(log.len(), keys.len(), "one entry for each key");
        for (key, id) in &keys {
            assert!(log.iter().any(|seen| seen.key == *key && seen.id == *id), "{key} stands where it was acked");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_what_is_there_is_told_so_even_after_the_leader_died() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    let (key, body) = (new_key(), Bytes::from_static(b"once"));
    let mut first = login(&cluster, &bob, 0).await;
    first.send(1, key, &alice, body.clone()).await.unwrap();
    first.drop_now();
    let there = wait_for("the entry in the inbox", Duration::from_secs(20), async || {
        let log = read_inbox(&cluster, &alice, 1).await.map_err(|error| format!("{error:#}"))?;
        log.first().map(|seen| seen.id).ok_or_else(|| "not there".into())
    });
    let id = there.await.unwrap();
    let mut second = login(&cluster, &bob, 2).await;
    assert_eq!(send(&mut second, key, &alice, &body).await, (id, true));

    let leader = cluster.leader_for(&alice).await.unwrap();
    cluster.kill9(leader).unwrap();
    cluster.wait_ready().await.unwrap();
    let survivor = cluster.running()[0];
    let mut third = login(&cluster, &bob, survivor).await;
    assert_eq!(send(&mut third, key, &alice, &body).await, (id, true), "the next leader knows the key");
    // The same key for something else is a conflict, here as there.
    third.send(2, key, &alice, Bytes::from_static(b"another body")).await.unwrap();
    match third.read().await.unwrap() {
        Some(ServerFrame::Refused { seq: 2, code: Code::KeyConflict, .. }) => {}
        other => panic!("no key_conflict but {other:?}"),
    }
    cluster.heal().await.unwrap();
    assert_eq!(read_inbox(&cluster, &alice, leader).await.unwrap().len(), 1);
}
