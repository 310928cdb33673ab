//! A4 and fault 1, LEADER-KILL9: 1,000 messages as fast as possible, then kill -9 at once; every acked one is there, read
//! through the survivors, and the rest arrive through them. 20 rounds (`IRIS_TEST_ROUNDS`) against the leader, a follower, a
//! random node; and once with the limits a node has by default (B4).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_client::UserId;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::config_file::Settings;
use iris_tests::corpus;
use iris_tests::oracle::{Logs, Oracle};
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::{Seed, rounds};
use iris_tests::traffic::{Sender, Style, Traffic};
use iris_tests::verify::read_inbox;
use iris_tests::wait::wait_for;
use iris_tests::workload::Message;
use rand::Rng;
use rand::rngs::StdRng;

const MESSAGES: usize = 1_000;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    Random,
}

impl Victim {
    fn pick(self, leader: usize, nodes: usize, rng: &mut StdRng) -> usize {
        match self {
            Self::Leader => leader,
            Self::Follower => (leader + rng.random_range(1..nodes)) % nodes,
            Self::Random => rng.random_range(0..nodes),
        }
    }
}

/// One round: fire, kill, read through the survivors, let the rest arrive, bring the victim back.
async fn round(cluster: &mut Cluster, oracle: &Arc<Oracle>, round: usize, victim: Victim, rng: &mut StdRng) {
    let sender = UserId::new(format!("gunner-{round}")).unwrap();
    let recipient = UserId::new(format!("target-{round}")).unwrap();
    let leader = cluster.leader_for(&recipient).await.unwrap();
    let victim = victim.pick(leader, cluster.len(), rng);
    let client = cluster.client_at(&sender, "gun", rng.random_range(0..cluster.len())).await.unwrap();
    client.connected().await.unwrap();
    // The token of the reader, while every node can give one.
    cluster.token(&recipient).await.unwrap();
    let before = oracle.acked();
    let kill_at = rng.random_range(1..=MESSAGES);
    let mut traffic = Traffic::new();
    let messages: Vec<Message> = corpus::messages()[..MESSAGES]
        .iter()
        .map(|body| Message { recipient: recipient.clone(), body: body.clone() })
        .collect();
    let style = Style { depth: MESSAGES, pace: None };
    traffic.add(Sender { client, user: sender.clone(), lane: 0, oracle: oracle.clone(), style }, messages.into_iter());
    oracle.wait_acked(before + kill_at, DEADLINE).await.unwrap();
    cluster.kill9(victim).unwrap();
    let all_fired = wait_for("all messages to be fired", DEADLINE, async || match oracle.intended() {
        fired if fired == (round + 1) * MESSAGES => Ok(()),
        fired => Err(format!("{fired} are").into()),
    });
    all_fired.await.unwrap();
    let acked_by_now =
        Oracle::from_records(oracle.records().into_iter().filter(|record| record.intent.sender == sender));

    let survivor = *cluster.running().first().unwrap();
    let log = read_inbox(cluster, &recipient, survivor).await.unwrap();
    // More may be appended meanwhile; what was acked before the survivors were asked must be there.
    acked_by_now.judge(&Logs::from([(recipient.clone(), log)])).assert_clean();
    let tally = traffic.finish(DEADLINE).await.unwrap();
    assert_eq!((tally.acked, tally.errors), (MESSAGES, vec![]), "round {round}");
    let log = read_inbox(cluster, &recipient, survivor).await.unwrap();
    assert_eq!(log.len(), MESSAGES, "round {round}");
    cluster.heal().await.unwrap();
}

async fn rapid_fire(victim: Victim) {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    let mut cluster = Cluster::start(3).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    for number in 0..rounds(20) {
        Box::pin(round(&mut cluster, &oracle, number, victim, &mut rng)).await;
    }
    let replicas = Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap();
    replicas.assert_clean();
    assert_eq!(replicas.verdict.delivered, rounds(20) * MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_the_leader_loses_nothing_acked() {
    rapid_fire(Victim::Leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_a_follower_loses_nothing_acked() {
    rapid_fire(Victim::Follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill9_of_a_random_node_loses_nothing_acked() {
    rapid_fire(Victim::Random).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_default_limits_the_sender_is_slowed_and_loses_nothing() {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    let mut cluster =
        Cluster::start_with(Options { settings: Settings::default(), ..Options::nodes(3) }).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    Box::pin(round(&mut cluster, &oracle, 0, Victim::Leader, &mut rng)).await;
    let mut refused = 0;
    for index in cluster.running() {
        refused += cluster.status(index).await.unwrap().counters.refused;
    }
    assert!(refused > 0, "1,000 messages at once are more than the default burst of 200");
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}
