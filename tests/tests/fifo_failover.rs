//! A6: messages of one device to one recipient keep their order through failovers while 100 of them are on their way.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_client::UserId;
use iris_tests::cluster::Cluster;
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::{Seed, rounds};
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::workload::{chatter, users};
use rand::Rng;

const DEPTH: usize = 100;
const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_keeps_its_order_while_leaders_die_under_it() {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    let mut cluster = Cluster::start(3).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let alice = UserId::new("alice").unwrap();
    let style = Style { depth: DEPTH, pace: Some(Pace::steady(4_000)) };
    let mut traffic = Traffic::new();
    // Four pairs with one recipient, one node under each but the last: all their pipelines meet in one shard.
    for (at, user) in users("sender-", 4).unwrap().into_iter().enumerate() {
        let client = cluster.client_at(&user, "sender", at % 3).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), vec![alice.clone()]);
        traffic.add(Sender { client, user, lane: 0, oracle: oracle.clone(), style: style.clone() }, messages);
    }
    for _ in 0..rounds(5) {
        let before = oracle.acked();
        oracle.wait_acked(before + rng.random_range(300..1_500), DEADLINE).await.unwrap();
        let leader = cluster.leader_for(&alice).await.unwrap();
        cluster.kill9(leader).unwrap();
        let before = oracle.acked();
        oracle.wait_acked(before + 300, DEADLINE).await.unwrap();
        cluster.heal().await.unwrap();
    }
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new());
    let replicas = Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap();
    replicas.assert_clean();
    assert_eq!(replicas.verdict.delivered, tally.acked);
}
