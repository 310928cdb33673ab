//! A node that was away longer than the log reaches comes back by snapshot while traffic flows, also when it, or the leader that
//! sends it, dies in the middle; and the log stays within its bound all the while (design, Storage; C4).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_tests::cluster::{Cluster, Options};
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::{Seed, rounds};
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::wait::wait_for;
use iris_tests::workload::{bulk, users};
use rand::Rng;

const DEADLINE: Duration = Duration::from_secs(120);

/// The smallest bound there is, for all shards together.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The smallest bound of what a shard has in memory, and so in the log before its checkpoint.
const HOT_BYTES_MAX: u64 = 4 * 1024 * 1024;
const SHARDS: u64 = 8;

/// What the log's folder may have at any time: what is kept and what no checkpoint has yet, and as much again in files that are
/// not emptied yet. Twice as much passes through it in the first test.
const LOG_FOLDER_BYTES_MAX: u64 = 2 * (LOG_BYTES_MAX + SHARDS * HOT_BYTES_MAX);

const BODY_LEN: usize = 16 * 1024;

/// What a node logs when it begins to take in a snapshot, and when it has one.
const TAKING: &str = "taking in a snapshot";
const INSTALLED: &str = "a snapshot is installed group";

struct Scene {
    cluster: Cluster,
    oracle: Arc<Oracle>,
    traffic: Traffic,
}

async fn begin(seed: &Seed) -> Scene {
    let options = Options::nodes(3).with("store", "checkpoint_ms", 300).with("store", "log_bytes_max", LOG_BYTES_MAX);
    let cluster = Cluster::start_with(options).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let everybody = users("user-", 40).unwrap();
    let style = Style { depth: 20, pace: Some(Pace::steady(800)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().take(6).enumerate() {
        let client = cluster.client_at(user, "sender", at % 3).await.unwrap();
        let messages = bulk(seed.rng(&format!("bulk {at}")), everybody.clone(), BODY_LEN);
        let sender = Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() };
        traffic.add(sender, messages);
    }
    oracle.wait_acked(200, DEADLINE).await.unwrap();
    Scene { cluster, oracle, traffic }
}

impl Scene {
    /// Sends so much that no log reaches back to where it began, and looks at the log's folders meanwhile.
    async fn outrun_the_log(&self, messages: usize) {
        let until = self.oracle.acked() + messages;
        wait_for("messages enough to outrun the log", DEADLINE, async || {
            for index in self.cluster.running() {
                let bytes = self.cluster.node(index).disk_bytes("log");
                assert!(bytes <= LOG_FOLDER_BYTES_MAX, "the log of node {} takes {bytes} bytes", index + 1);
            }
            match self.oracle.acked() {
                acked if acked >= until => Ok(()),
                acked => Err(format!("{acked} of {until} are acked").into()),
            }
        })
        .await
        .unwrap();
    }

    async fn wait_logged(&self, index: usize, text: &str, times: usize) {
        wait_for(&format!("node {} to say {text:?}", index + 1), DEADLINE, async || {
            match self.cluster.node(index).count_logged(text) {
                count if count >= times => Ok(()),
                count => Err(format!("it said so {count} of {times} times").into()),
            }
        })
        .await
        .unwrap();
    }

    async fn end(mut self) {
        self.cluster.heal().await.unwrap();
        let before = self.oracle.acked();
        self.oracle.wait_acked(before + 100, DEADLINE).await.unwrap();
        let tally = self.traffic.stop(DEADLINE).await.unwrap();
        assert_eq!(tally.errors, Vec::<String>::new());
        let verdict = Box::pin(verify(&mut self.cluster, &self.oracle)).await.unwrap();
        verdict.assert_clean();
        assert_eq!(verdict.delivered, tally.acked);
        Box::pin(verify_replicas(&mut self.cluster, &self.oracle)).await.unwrap().assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_away_for_long_comes_back_by_snapshot_while_traffic_flows() {
    let seed = Seed::pick();
    let mut scene = begin(&seed).await;
    let away = seed.rng("who").random_range(0..3);
    scene.cluster.kill9(away).unwrap();
    scene.outrun_the_log(10_000).await;
    scene.cluster.start_node(away).unwrap();
    // Every shard: none of their logs reaches back.
    scene.wait_logged(away, INSTALLED, 8).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_of_either_side_in_the_middle_of_a_snapshot_is_survived() {
    let seed = Seed::pick();
    let mut rng = seed.rng("who");
    let mut scene = begin(&seed).await;
    let away = rng.random_range(0..3);
    for round in 0..rounds(2) {
        scene.cluster.kill9(away).unwrap();
        scene.outrun_the_log(2_000).await;
        let said = scene.cluster.node(away).count_logged(TAKING);
        scene.cluster.start_node(away).unwrap();
        scene.wait_logged(away, TAKING, said + 1 + rng.random_range(0..4)).await;
        if round % 2 == 0 {
            scene.cluster.kill9(away).unwrap();
            scene.cluster.start_node(away).unwrap();
        } else {
            let sender = (away + 1 + rng.random_range(0..2)) % 3;
            scene.cluster.kill9(sender).unwrap();
            scene.cluster.start_node(sender).unwrap();
        }
        scene.cluster.heal().await.unwrap();
    }
    scene.end().await;
}
