//! A cluster of one (D1) killed in the middle of traffic: everything acked is there after a restart, and the rest arrives.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_tests::cluster::{Cluster, Options};
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::{Seed, rounds};
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::workload::{chatter, users};
use rand::Rng;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_killed_in_the_middle_of_traffic_keeps_what_it_acked() {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    let mut cluster = Cluster::start_with(Options::nodes(1).with("store", "checkpoint_ms", 200)).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 10).unwrap();
    let style = Style { depth: 100, pace: Some(Pace::steady(2_000)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().take(4).enumerate() {
        let client = cluster.client(user, "sender").await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), everybody.clone());
        traffic.add(
            Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() },
            messages,
        );
    }
    for _ in 0..rounds(5) {
        let before = oracle.acked();
        oracle.wait_acked(before + rng.random_range(50..1_500), DEADLINE).await.unwrap();
        cluster.kill9(0).unwrap();
        cluster.heal().await.unwrap();
    }
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new());
    Box::pin(verify(&mut cluster, &oracle)).await.unwrap().assert_clean();
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}
