//! Clusters that grow by tokens (C2, D1): a machine that joined is a member like any other, and nobody else is.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use iris_client::{Outgoing, UserId};
use iris_p2p::{DownCause, Identity, LinkConfig, Links, Member, PeerKey, PeerState};
use iris_tests::cluster::{Cluster, Options};
use iris_tests::command::run;
use iris_tests::oracle::Oracle;
use iris_tests::replicas::verify_replicas;
use iris_tests::seed::Seed;
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::verify;
use iris_tests::wait::{NotYet, wait_for, within};
use iris_tests::workload::{bulk, chatter, users};
use rand::Rng;

const DEADLINE: Duration = Duration::from_secs(60);

/// The smallest bound of the log, and messages that fill it more than twice.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
const BODY_LEN: usize = 16 * 1024;
const BODIES: usize = 1_500;

/// Longest all shards may take to have a copy more, two at a time.
const RAISED_DEADLINE: Duration = Duration::from_secs(120);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// Sends through one node only and returns once it is committed.
async fn send_through(cluster: &Cluster, index: usize, body: &str) {
    let client = cluster.client_of_one(&user("bob"), "sender", index).await.unwrap();
    let sent = client.send_and_wait(Outgoing::new(user("alice"), body.to_owned()));
    within("the message to be committed", DEADLINE, sent).await.unwrap().unwrap();
    client.close(Duration::from_secs(1)).await;
}

/// Waits until a node's meta group has these many voters.
async fn wait_voters(cluster: &Cluster, index: usize, count: usize) {
    wait_for("the new nodes to vote in the meta group", DEADLINE, async || {
        let report = cluster.status(index).await.map_err(|error| format!("{error:#}"))?;
        let voters = report.groups.iter().find(|group| group.shard.is_none()).map_or(0, |group| group.voters.len());
        if voters == count { Ok(()) } else { Err(format!("{voters} of {count} vote").into()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_becomes_three_by_tokens_alone() {
    let mut cluster = Cluster::found(Options::nodes(1)).await.unwrap();
    send_through(&cluster, 0, "before").await;
    for by in 0..2 {
        cluster.join(by).await.unwrap();
        cluster.wait_ready().await.unwrap();
    }
    for index in 0..3 {
        wait_voters(&cluster, index, 3).await;
        send_through(&cluster, index, &format!("through {index}")).await;
        let data = cluster.node(index).data.clone();
        let read = run(&["tail", "--data", data.to_str().unwrap(), "--as", "alice", "--from", "0", "--json"]).await;
        assert_eq!(read.json().len(), index + 2, "what was sent before and so far, at every node");
    }
    // Every one of them starts again without a token, and is who it was.
    for index in 0..3 {
        cluster.stop(index).await.unwrap();
        cluster.heal().await.unwrap();
        assert_eq!(cluster.status(index).await.unwrap().node, cluster.node(index).id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_while_it_is_taken_in_is_taken_in_later() {
    let mut cluster = Cluster::found(Options::nodes(1)).await.unwrap();
    let index = cluster.join(0).await.unwrap();
    cluster.kill9(index).unwrap();
    send_through(&cluster, 0, "while it is away").await;
    cluster.start_node(index).unwrap();
    cluster.wait_ready().await.unwrap();
    wait_voters(&cluster, 0, 2).await;
    send_through(&cluster, index, "through the new one").await;
}

/// Waits until every shard has these many voters.
async fn wait_copies(cluster: &Cluster, index: usize, count: usize) {
    wait_for("every shard to be on the new nodes", RAISED_DEADLINE, async || {
        let report = cluster.status(index).await.map_err(|error| format!("{error:#}"))?;
        let short = report.groups.iter().filter(|group| group.voters.len() != count).count();
        if short == 0 && report.groups.len() > 1 { Ok(()) } else { Err(format!("{short} groups are not").into()) }
    })
    .await
    .unwrap();
}

/// Sends without end from five users to twenty, through whatever nodes there are.
async fn traffic(cluster: &Cluster, seed: &Seed, oracle: &Arc<Oracle>) -> Traffic {
    let everybody = users("user-", 20).unwrap();
    let style = Style { depth: 20, pace: Some(Pace::steady(500)) };
    let mut traffic = Traffic::new();
    for (at, user) in everybody.iter().take(5).enumerate() {
        let client = cluster.client_at(user, "sender", at % cluster.len()).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), everybody.clone());
        let sender = Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() };
        traffic.add(sender, messages);
    }
    traffic
}

/// Everything acked so far and a little more is everywhere, once, in order.
async fn end(mut cluster: Cluster, oracle: Arc<Oracle>, traffic: Traffic) {
    let before = oracle.acked();
    oracle.wait_acked(before + 100, DEADLINE).await.unwrap();
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new(), "growing is felt by no client");
    let verdict = Box::pin(verify(&mut cluster, &oracle)).await.unwrap();
    verdict.assert_clean();
    assert_eq!(verdict.delivered, oracle.acked());
    Box::pin(verify_replicas(&mut cluster, &oracle)).await.unwrap().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_is_raised_to_three_while_messages_flow_and_nodes_die() {
    let seed = Seed::pick();
    let mut rng = seed.rng("kills");
    let mut cluster = Cluster::found(Options::nodes(1).with("store", "checkpoint_ms", 300)).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    let traffic = traffic(&cluster, &seed, &oracle).await;
    for count in 2..=3 {
        oracle.wait_acked(oracle.acked() + 100, DEADLINE).await.unwrap();
        cluster.join(rng.random_range(0..cluster.len())).await.unwrap();
        // Somewhere in the middle of the steps, one of them dies and goes on where it was.
        oracle.wait_acked(oracle.acked() + rng.random_range(0..300), DEADLINE).await.unwrap();
        let victim = rng.random_range(0..cluster.len());
        cluster.kill9(victim).unwrap();
        cluster.start_node(victim).unwrap();
        cluster.wait_ready().await.unwrap();
        wait_copies(&cluster, 0, count).await;
    }
    // These clients know the founder only; the next ones know all three, and with three copies it is one of them.
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new(), "growing is felt by no client");
    let traffic = self::traffic(&cluster, &seed, &oracle).await;
    oracle.wait_acked(oracle.acked() + 100, DEADLINE).await.unwrap();
    cluster.kill9(0).unwrap();
    oracle.wait_acked(oracle.acked() + 100, DEADLINE).await.unwrap();
    cluster.heal().await.unwrap();
    end(cluster, oracle, traffic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_on_different_engines_hold_the_same() {
    let seed = Seed::pick();
    let options = Options::nodes(1).with("store", "checkpoint_ms", 300).with("store", "log_bytes_max", LOG_BYTES_MAX);
    let mut cluster = Cluster::found(options).await.unwrap();
    let oracle = Arc::new(Oracle::new());
    // More than the log keeps, so that whoever joins gets a snapshot.
    let everybody = users("user-", 20).unwrap();
    let client = cluster.client(&everybody[0], "bulk").await.unwrap();
    let style = Style { depth: 20, pace: None };
    let sender = Sender { client, user: everybody[0].clone(), lane: 1, oracle: oracle.clone(), style };
    let mut before = Traffic::new();
    before.add(sender, bulk(seed.rng("bulk"), everybody, BODY_LEN).take(BODIES));
    assert_eq!(before.finish(RAISED_DEADLINE).await.unwrap().acked, BODIES);
    let traffic = traffic(&cluster, &seed, &oracle).await;
    oracle.wait_acked(oracle.acked() + 300, DEADLINE).await.unwrap();
    // One with sled gets everything from one with SQLite, and another with SQLite from whoever leads then.
    for engine in ["sled", "sqlite"] {
        cluster.set("store", "engine", format!("{engine:?}"));
        let index = cluster.join(0).await.unwrap();
        cluster.wait_ready().await.unwrap();
        wait_copies(&cluster, 0, index + 1).await;
        assert!(cluster.node(index).has_logged("a snapshot is installed group"), "node {} by snapshot", index + 1);
    }
    for victim in 0..3 {
        oracle.wait_acked(oracle.acked() + 200, DEADLINE).await.unwrap();
        cluster.kill9(victim).unwrap();
        cluster.heal().await.unwrap();
    }
    assert!(cluster.node(1).data.join("inboxes.sled").exists(), "the second node has sled");
    end(cluster, oracle, traffic).await;
}

/// A node that knows everything but a member's key: where the others are and who they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_link_to_a_member_before_or_after_others_joined() {
    let mut cluster = Cluster::found(Options::nodes(1)).await.unwrap();
    cluster.join(0).await.unwrap();
    cluster.wait_ready().await.unwrap();
    for index in 0..2 {
        let data = cluster.node(index).data.clone();
        let key: PeerKey = run(&["identity", "--data", data.to_str().unwrap()]).await.stdout.trim().parse().unwrap();
        let addrs = vec![cluster.node(index).p2p_port.address().parse().unwrap()];
        let members = vec![Member { key, addrs }];
        let (links, _inbound, task) =
            Links::start(Identity::ephemeral(), LinkConfig::default(), members).await.unwrap();
        let running = tokio::spawn(task.run());
        wait_for("the stranger to be turned away", DEADLINE, async || match links.watch().borrow().get(key) {
            Some(PeerState::Up { .. }) => Err(NotYet::never("it has a link")),
            Some(PeerState::Down { cause: DownCause::NotConfirmed | DownCause::Closed, .. }) => Ok(()),
            other => Err(format!("{other:?}").into()),
        })
        .await
        .unwrap();
        running.abort();
    }
    assert_eq!(cluster.status(0).await.unwrap().nodes.len(), 2);
}
