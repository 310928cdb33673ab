//! Clusters that grow by tokens (C2, D1): a machine that joined is a member like any other, and nobody else is.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use iris_client::{Outgoing, UserId};
use iris_p2p::{DownCause, Identity, LinkConfig, Links, Member, PeerKey, PeerState};
use iris_tests::cluster::{Cluster, Options};
use iris_tests::command::run;
use iris_tests::wait::{NotYet, wait_for, within};

const DEADLINE: Duration = Duration::from_secs(60);

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
