//! Fault 16, ROLLING-RESTART: the nodes are restarted one by one under traffic; nothing is lost, and no error gets past the
//! client library (B7, C5).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_tests::cluster::Cluster;
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::Seed;
use iris_tests::traffic::{Pace, Receiver, Sender, Style, Traffic};
use iris_tests::workload::{chatter, users};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_one_by_one_shows_nobody_an_error() {
    let seed = Seed::pick();
    let mut cluster = Cluster::start(3).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 12).unwrap();
    let style = Style { depth: 30, pace: Some(Pace::steady(600)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().enumerate() {
        let client = cluster.client_at(user, "sender", at % 3).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), everybody.clone());
        traffic.add(
            Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() },
            messages,
        );
    }
    let (enough, told) = watch::channel(None);
    let client = cluster.client(&everybody[0], "receiver").await.unwrap();
    let following = tokio::spawn(Receiver::new(everybody[0].clone()).follow(client, told));
    for index in 0..cluster.len() {
        let before = oracle.acked();
        oracle.wait_acked(before + 300, DEADLINE).await.unwrap();
        cluster.stop(index).await.unwrap();
        let before = oracle.acked();
        oracle.wait_acked(before + 300, DEADLINE).await.unwrap();
        cluster.start_node(index).unwrap();
        cluster.wait_ready().await.unwrap();
    }
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new());
    let due = oracle.records().iter().filter(|record| record.intent.recipient == everybody[0]).count();
    enough.send_replace(Some(due));
    let received = tokio::time::timeout(DEADLINE, following).await.unwrap().unwrap().unwrap();
    assert_eq!(received.shown.entries.len(), due, "a follower was shown every entry once");
    assert!(received.shown.entries.is_sorted_by(|one, next| one.id < next.id));
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}
