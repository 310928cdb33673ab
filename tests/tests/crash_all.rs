//! kill -9 of all nodes together under traffic, then start (A3, A4, A6): every acked message is there, what was on its way is
//! sent again by the client library, and nothing comes twice or out of order.
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

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_together_come_back_with_everything_acked() {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    // Checkpoints often enough that kills fall into some.
    let mut cluster = Cluster::start_with(Options::nodes(3).with("store", "checkpoint_ms", 300)).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 20).unwrap();
    let style = Style { depth: 50, pace: Some(Pace::steady(1_000)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().take(8).enumerate() {
        let client = cluster.client_at(user, "sender", at % 3).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), everybody.clone());
        traffic.add(
            Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() },
            messages,
        );
    }
    for _ in 0..rounds(4) {
        let before = oracle.acked();
        oracle.wait_acked(before + rng.random_range(100..1_000), DEADLINE).await.unwrap();
        cluster.kill9_all().unwrap();
        cluster.heal().await.unwrap();
    }
    let before = oracle.acked();
    oracle.wait_acked(before + 200, DEADLINE).await.unwrap();
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new(), "the library hides that the whole cluster was away");
    assert!(tally.reconnects >= 8, "every client lost its connection: {tally:?}");
    let verdict = Box::pin(verify(&mut cluster, &oracle)).await.unwrap();
    verdict.assert_clean();
    assert_eq!(verdict.delivered, tally.acked);
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}
