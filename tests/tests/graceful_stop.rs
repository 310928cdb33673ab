//! B7 and fault 25: SIGTERM during load. Exit code 0 within the drain limit, every ack given is true, leadership has moved, and
//! no error gets past the client library.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_client::UserId;
use iris_tests::cluster::Cluster;
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::Seed;
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::workload::{chatter, users};

const DEADLINE: Duration = Duration::from_secs(60);

async fn load(cluster: &Cluster, oracle: &Arc<Oracle>, seed: &Seed, everybody: &[UserId]) -> Traffic {
    let style = Style { depth: 50, pace: Some(Pace::steady(1_000)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().enumerate() {
        let client = cluster.client_at(user, "sender", at % cluster.len()).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), everybody.to_vec());
        traffic.add(
            Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() },
            messages,
        );
    }
    traffic
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_exits_0_and_nobody_sees_an_error() {
    let seed = Seed::pick();
    let mut cluster = Cluster::start(3).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 9).unwrap();
    let traffic = load(&cluster, &oracle, &seed, &everybody).await;
    oracle.wait_acked(500, DEADLINE).await.unwrap();
    let leaving = cluster.leading_most().await.unwrap();
    cluster.stop(leaving).await.unwrap();
    let leaders = cluster.leaders().await.unwrap();
    assert!(leaders.values().all(|leader| *leader != leaving), "{leaders:?}");
    let before = oracle.acked();
    oracle.wait_acked(before + 500, DEADLINE).await.unwrap();
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new());
    let gap = oracle.longest_gap();
    eprintln!("longest time without an ack: {gap:?}");
    Box::pin(verify(&mut cluster, &oracle)).await.unwrap().assert_clean();
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_of_a_single_node_under_load_keeps_every_promise() {
    let seed = Seed::pick();
    let mut cluster = Cluster::start(1).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 4).unwrap();
    let traffic = load(&cluster, &oracle, &seed, &everybody).await;
    oracle.wait_acked(500, DEADLINE).await.unwrap();
    cluster.stop(0).await.unwrap();
    cluster.heal().await.unwrap();
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new());
    Box::pin(verify(&mut cluster, &oracle)).await.unwrap().assert_clean();
}
