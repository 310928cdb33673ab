//! A founder whose disk was emptied save its key (C2): it may neither vote nor found before it knows what it forgot, which it
//! never will, so it is told to rejoin as a new node; and a list of members founds its cluster only once all of them are there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use iris_client::{EntryId, Outgoing, UserId};
use iris_tests::cluster::{Cluster, Options};
use iris_tests::verify::read_inbox;
use iris_tests::wait::{wait_for, within};

const DEADLINE: Duration = Duration::from_secs(60);
const TOLD: [&str; 3] = ["this data folder is empty but for its key", "rejoin as a new node", "iris join-token"];
const WAITS: &str = "waiting for members of the list";

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

async fn send(cluster: &Cluster, count: u32) -> Vec<EntryId> {
    let client = cluster.client(&user("bob"), "sender").await.unwrap();
    let mut ids = Vec::new();
    for number in 0..count {
        let sent = client.send_and_wait(Outgoing::new(user("alice"), format!("message {number}")));
        ids.push(within("a message to be committed", DEADLINE, sent).await.unwrap().unwrap().id);
    }
    client.close(Duration::from_secs(1)).await;
    ids
}

/// The node is told what to do, and ends with an error.
async fn assert_told(cluster: &mut Cluster, index: usize) {
    let status = cluster.wait_ended(index).await.unwrap();
    assert_eq!(status.code(), Some(1));
    for part in TOLD {
        assert!(cluster.node(index).has_logged(part), "{part:?} is missing: {}", cluster.node(index).log_tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_founder_elects_nobody_and_is_told_to_rejoin_as_new() {
    let mut cluster = Cluster::start(3).await.unwrap();
    // What the third one has not: the first two have acked it.
    cluster.kill9(2).unwrap();
    cluster.wait_ready().await.unwrap();
    let acked = send(&cluster, 30).await;
    cluster.kill9_all().unwrap();

    // With the vote of the emptied one, the third would lead, and cut the others' entries off.
    cluster.node(1).empty_disk().unwrap();
    cluster.start_node(1).unwrap();
    wait_for("the emptied node to wait for the others", DEADLINE, async || {
        if cluster.node(1).has_logged(WAITS) { Ok(()) } else { Err("it says nothing of it".into()) }
    })
    .await
    .unwrap();
    cluster.start_node(2).unwrap();
    assert_told(&mut cluster, 1).await;

    cluster.start_node(0).unwrap();
    cluster.wait_ready().await.unwrap();
    for index in [0, 2] {
        let read = read_inbox(&cluster, &user("alice"), index).await.unwrap();
        assert_eq!(read.iter().map(|seen| seen.id).collect::<Vec<_>>(), acked, "through node {index}");
    }
    // Again, now that both others are there; then as it was told.
    cluster.start_node(1).unwrap();
    assert_told(&mut cluster, 1).await;
    let index = cluster.join(0).await.unwrap();
    let read = read_inbox(&cluster, &user("alice"), index).await.unwrap();
    assert_eq!(read.len(), acked.len(), "through the new node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_emptied_founders_found_nothing_behind_the_back_of_the_third() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let acked = send(&cluster, 10).await;
    cluster.kill9_all().unwrap();
    for index in [0, 1] {
        cluster.node(index).empty_disk().unwrap();
        cluster.start_node(index).unwrap();
    }
    for index in [0, 1] {
        wait_for("both to wait for the third", DEADLINE, async || {
            if cluster.node(index).has_logged(WAITS) { Ok(()) } else { Err("one says nothing of it".into()) }
        })
        .await
        .unwrap();
    }
    cluster.start_node(2).unwrap();
    for index in [0, 1] {
        assert_told(&mut cluster, index).await;
        assert!(cluster.node(index).count_logged("the cluster is founded") <= 1, "and founded no second one");
    }
    assert!(!acked.is_empty() && cluster.running() == [2], "the one that has everything goes on waiting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_founds_once_its_last_member_comes() {
    let mut cluster = Cluster::prepare(Options::nodes(3)).unwrap();
    for index in [2, 1] {
        cluster.start_node(index).unwrap();
    }
    wait_for("two of three to wait", DEADLINE, async || {
        if cluster.node(1).has_logged(WAITS) { Ok(()) } else { Err("it says nothing of it".into()) }
    })
    .await
    .unwrap();
    cluster.start_node(0).unwrap();
    cluster.wait_ready().await.unwrap();
    assert_eq!(send(&cluster, 3).await.len(), 3);
    let mut clusters = std::collections::BTreeSet::new();
    for index in 0..3 {
        clusters.insert(cluster.status(index).await.unwrap().cluster);
    }
    assert_eq!(clusters.len(), 1);
}
