//! Fault 2, ALL-POWER-CUT, and fault 4, its NEGATIVE-CONTROL. The log lies on a file system that keeps in the process what was
//! not fsynced, so that kill -9 of every node at once is a power cut: nothing acked may be missing afterwards. The same run
//! with an fsync that does nothing must go red, or the first one would prove nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_tests::binaries::Binary;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::{Seed, rounds};
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::workload::{chatter, users};
use rand::Rng;

const SENDERS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(90);

/// Only the log holds what was sent: no checkpoint in between saves what the log loses.
const CHECKPOINT_MS: u64 = 3_600_000;

fn options() -> Options {
    Options { binary: Binary::LossyNode, ..Options::nodes(3) }.with("store", "checkpoint_ms", CHECKPOINT_MS)
}

async fn traffic(cluster: &Cluster, oracle: &Arc<Oracle>, seed: &Seed, round: usize) -> Traffic {
    let style = Style { depth: 50, pace: Some(Pace::steady(1_500)) };
    let everybody = users("user-", SENDERS).unwrap();
    let mut traffic = Traffic::new();
    for (at, user) in users(&format!("sender-{round}-"), SENDERS).unwrap().into_iter().enumerate() {
        let client = cluster.client_at(&user, "sender", at % cluster.len()).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {round} {at}")), everybody.clone());
        traffic.add(Sender { client, user, lane: 0, oracle: oracle.clone(), style: style.clone() }, messages);
    }
    traffic
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_all_nodes_loses_nothing_acked() {
    let seed = Seed::pick();
    let mut rng = seed.rng("cuts");
    let mut cluster = Cluster::start_with(options()).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    for round in 0..rounds(4) {
        let traffic = traffic(&cluster, &oracle, &seed, round).await;
        let before = oracle.acked();
        oracle.wait_acked(before + rng.random_range(200..1_500), DEADLINE).await.unwrap();
        cluster.kill9_all().unwrap();
        cluster.heal().await.unwrap();
        let tally = traffic.stop(DEADLINE).await.unwrap();
        assert_eq!(tally.errors, Vec::<String>::new());
        let verdict = Box::pin(verify(&mut cluster, &oracle)).await.unwrap();
        verdict.assert_clean();
    }
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}

/// Fault 4: the run above with an fsync that does nothing must go red, or it would prove nothing. The cluster is founded
/// properly first, so that it comes back and can be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_fsync_the_same_cut_goes_red() {
    let seed = Seed::pick();
    let mut cluster = Cluster::start_with(options()).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    cluster.stop_syncing().await.unwrap();
    let traffic = traffic(&cluster, &oracle, &seed, 0).await;
    oracle.wait_acked(500, DEADLINE).await.unwrap();
    cluster.kill9_all().unwrap();
    // What was acked up to here is what counts; clients that went on would send the rest again.
    drop(traffic);
    cluster.heal().await.unwrap();
    let verdict = Box::pin(verify(&mut cluster, &oracle)).await.unwrap();
    eprintln!("red, as it must be: {verdict}");
    assert!(verdict.lost >= 500, "fsync did nothing and nobody noticed: {verdict}");
    assert!(!verdict.is_clean());
}
