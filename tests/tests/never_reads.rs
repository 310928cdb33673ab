//! A7, and fault 19's SLOW-CONSUMER: clients that subscribe and read nothing for the whole run, while more is sent to them than
//! a node may hold in memory. The nodes' memory stays under a ceiling (E8: 512 MB at default settings), other users are served,
//! and nothing is lost: it can all be read afterwards.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_client::{EntryId, Outgoing, SubscribeFrom, UserId};
use iris_protocol::frame::ClientFrame;
use iris_tests::cluster::Cluster;
use iris_tests::oracle::Oracle;
use iris_tests::raw::RawConnection;
use iris_tests::traffic::{Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::wait::within;
use iris_tests::workload::Message;

/// What a node may take in all: half of what E8 grants it.
const CEILING_BYTES: u64 = 256 * 1024 * 1024;

/// Sent to the one who does not read: as much as the ceiling, and every node has a copy.
const BODY_LEN: usize = 32 * 1024;
const MESSAGES: usize = 8 * 1024;

const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_cost_bounded_memory_and_nobody_else_anything() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let (deaf, bob, carol) = (UserId::new("deaf").unwrap(), UserId::new("bob").unwrap(), UserId::new("carol").unwrap());
    // One of each kind at each node: no credit after the first entries, and credit without end but a socket nobody reads.
    let mut idle = Vec::new();
    let mut stuck = Vec::new();
    for node in 0..3 {
        let client = cluster.client_at(&deaf, "idle", node).await.unwrap();
        idle.push(client.subscribe(SubscribeFrom::After(EntryId::ZERO), 16).unwrap());
        let token = cluster.token(&deaf).await.unwrap();
        let address = &cluster.addresses()[node];
        let mut raw = RawConnection::login(address, cluster.ca_pem().unwrap(), &token, "stuck").await.unwrap();
        raw.write(&ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId::ZERO), credit: 65_536 }).await.unwrap();
        stuck.push(raw);
    }
    let start = std::time::Instant::now();
    let oracle = Arc::new(Oracle::new());
    let mut traffic = Traffic::new();
    let client = cluster.client(&bob, "sender").await.unwrap();
    let messages = (0..MESSAGES).map({
        let deaf = deaf.clone();
        move |number| Message { recipient: deaf.clone(), body: Bytes::from(vec![number as u8; BODY_LEN]) }
    });
    let style = Style { depth: 64, pace: None };
    traffic.add(Sender { client, user: bob, lane: 0, oracle: oracle.clone(), style }, messages);
    // Somebody else's messages pass all the while.
    let other = cluster.client(&carol, "other").await.unwrap();
    for tenth in 1..=10 {
        oracle.wait_acked(MESSAGES * tenth / 10, DEADLINE).await.unwrap();
        let served = other.send_and_wait(Outgoing::new(carol.clone(), "still served"));
        within("another user's message", Duration::from_secs(20), served).await.unwrap().unwrap();
        for node in 0..3 {
            let usage = cluster.usage(node).unwrap();
            eprintln!("after {tenth} tenths, {:?}: node {}: {usage:?}", start.elapsed(), node + 1);
            assert!(usage.rss_peak_bytes < CEILING_BYTES, "node {}: {usage:?} after {tenth} tenths", node + 1);
        }
    }
    let tally = traffic.finish(DEADLINE).await.unwrap();
    assert_eq!((tally.acked, tally.errors), (MESSAGES, vec![]));
    let verdict = Box::pin(verify(&mut cluster, &oracle)).await.unwrap();
    // carol's own messages are hers, not the oracle's.
    verdict.assert_clean();
    assert_eq!(verdict.delivered, MESSAGES);
    for node in 0..3 {
        let usage = cluster.usage(node).unwrap();
        eprintln!("after reading, {:?}: node {}: {usage:?}", start.elapsed(), node + 1);
        assert!(usage.rss_peak_bytes < CEILING_BYTES, "node {}: {usage:?} after everything was read", node + 1);
    }
    drop((idle, stuck));
}
