//! A node whose disk is damaged (C12): it notices, serves nobody, and comes back by itself as a new node when the others can do
//! without it; where they can't it waits, says what it needs and deletes nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iris_client::{NodeId, Outgoing, UserId};
use iris_protocol::admin::{HealthLevel, StatusReport};
use iris_tests::cluster::{Cluster, Options};
use iris_tests::command::run;
use iris_tests::oracle::Oracle;
use iris_tests::seed::Seed;
use iris_tests::traffic::{Pace, Sender, Style, Traffic};
use iris_tests::verify::{everybody, read_logs};
use iris_tests::wait::{NotYet, wait_for, within};
use iris_tests::workload::{chatter, users};

const DEADLINE: Duration = Duration::from_secs(60);

/// For eight shards to have another copy, two at a time, on a loaded machine.
const BACK_DEADLINE: Duration = Duration::from_secs(120);

async fn send(cluster: &Cluster, index: usize, body: &str) {
    let client = cluster.client_of_one(&UserId::new("bob").unwrap(), "sender", index).await.unwrap();
    let sent = client.send_and_wait(Outgoing::new(UserId::new("alice").unwrap(), body.to_owned()));
    within("the message to be committed", DEADLINE, sent).await.unwrap().unwrap();
    client.close(Duration::from_secs(1)).await;
}

/// Flips one bit in the middle of a stopped node's file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Every file below a folder with its content; without sockets, locks, and the room that is kept for a full disk.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let (path, kind) = file.map(|file| (file.path(), file.file_type().unwrap())).unwrap();
        if kind.is_dir() {
            all.extend(contents(&path));
        } else if kind.is_file() && path.extension().is_none_or(|is| is != "lock") && !path.ends_with("reserve") {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// The folders with old data in a data folder.
fn asides(data: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    found
        .filter(|path| path.is_dir() && path.file_name().unwrap().to_string_lossy().starts_with("quarantine-"))
        .collect()
}

async fn status(cluster: &Cluster, index: usize) -> Result<StatusReport, NotYet> {
    cluster.status(index).await.map_err(|error| NotYet::from(format!("{error:#}")))
}

/// Waits until a node says that it is in quarantine, and its sentence has these words.
async fn wait_quarantined(cluster: &Cluster, index: usize, parts: &[&str]) {
    wait_for("the node to say why it is in quarantine", DEADLINE, async || {
        let health = status(cluster, index).await?.health;
        let all = health.sentence.contains("in quarantine") && parts.iter().all(|part| health.sentence.contains(part));
        if all && health.level == HealthLevel::Stopped { Ok(()) } else { Err(health.sentence.into()) }
    })
    .await
    .unwrap();
}

/// Waits until the node runs under a new id and every group of the cluster has these voters.
async fn wait_back(cluster: &Cluster, index: usize, id: u64, voters: &[u64]) {
    let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    wait_for("the node to be back as a new one, a voter everywhere", BACK_DEADLINE, async || {
        let report = status(cluster, index).await?;
        if report.node != NodeId(id) || report.groups.len() != 9 {
            return Err(format!("it is node {} with {} groups", report.node, report.groups.len()).into());
        }
        let other = (0..3).find(|other| *other != index).unwrap();
        for group in report.groups.iter().chain(&status(cluster, other).await?.groups) {
            let mut found = group.voters.clone();
            found.sort();
            if found != voters {
                return Err(format!("{:?} has the voters {found:?}", group.shard).into());
            }
        }
        let ids: Vec<NodeId> = report.nodes.iter().map(|node| node.id).collect();
        if ids == voters { Ok(()) } else { Err(format!("the members are {ids:?}").into()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_disk_comes_back_as_a_new_one() {
    let mut cluster = Cluster::start_with(Options::nodes(3).with("store", "checkpoint_ms", 200)).await.unwrap();
    let (seed, oracle, damaged) = (Seed::pick(), Arc::new(Oracle::new()), 0);
    let people = users("user-", 20).unwrap();
    let style = Style { depth: 20, pace: Some(Pace::steady(200)) };
    let mut traffic = Traffic::new();
    for (at, user) in people.iter().take(5).enumerate() {
        let client = cluster.client_at(user, "sender", at % 3).await.unwrap();
        let messages = chatter(seed.rng(&format!("chatter {at}")), people.clone());
        traffic.add(
            Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() },
            messages,
        );
    }
    oracle.wait_acked(200, DEADLINE).await.unwrap();
    cluster.kill9(damaged).unwrap();
    let data = cluster.node(damaged).data.clone();
    flip(&data.join("meta"));
    let before = contents(&data);
    cluster.start_node(damaged).unwrap();
    wait_back(&cluster, damaged, 4, &[2, 3, 4]).await;
    let more = oracle.acked() + 100;
    oracle.wait_acked(more, DEADLINE).await.unwrap();
    let tally = traffic.stop(DEADLINE).await.unwrap();
    assert_eq!(tally.errors, Vec::<String>::new(), "no client feels it");

    let aside = asides(&data);
    assert_eq!(aside.len(), 1, "{aside:?}");
    let kept = contents(&aside[0]);
    for (path, bytes) in before {
        let name = path.strip_prefix(&data).unwrap().to_owned();
        assert!(kept.get(&aside[0].join(&name)) == Some(&bytes), "{} was changed", name.display());
    }
    assert!(cluster.node(damaged).has_logged("is damaged"));
    let users = everybody(&oracle);
    for index in 0..3 {
        oracle.judge(&read_logs(&cluster, &users, index).await.unwrap()).assert_clean();
    }
    // It is a member like any other: it restarts, and the others can do without one of them.
    cluster.kill9(damaged).unwrap();
    cluster.start_node(damaged).unwrap();
    wait_back(&cluster, damaged, 4, &[2, 3, 4]).await;
    cluster.kill9(1).unwrap();
    send(&cluster, damaged, "without the second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_met_while_running_quarantines_and_nobody_is_served_what_is_damaged() {
    let options = Options::nodes(3).with("store", "checkpoint_ms", 200).with("store", "scrub_ms", 5_000);
    let mut cluster = Cluster::start_with(options).await.unwrap();
    let needle = "a body that is looked for on the disk ".repeat(4);
    let alice = UserId::new("alice").unwrap();
    for _ in 0..20 {
        send(&cluster, 0, &needle).await;
    }
    let leader = cluster.leader_for(&alice).await.unwrap();
    // Restarted, so that neither SQLite nor the system's memory has the pages.
    for index in 0..3 {
        cluster.stop(index).await.unwrap();
    }
    let path = cluster.node(leader).data.join("inboxes.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle.as_bytes())).collect();
    assert!(!places.is_empty(), "the messages are in the file");
    places.iter().for_each(|at| bytes[at + 5] ^= 1);
    std::fs::write(&path, bytes).unwrap();
    for index in 0..3 {
        cluster.start_node(index).unwrap();
    }
    // Whoever reads is served by the others, in the end.
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let (data, wanted) = (cluster.node(others[0]).data.clone(), STANDARD.encode(&needle));
    let read = wait_for("all messages to be read", DEADLINE, async || {
        let read = run(&["tail", "--data", data.to_str().unwrap(), "--as", "alice", "--from", "0", "--json"]).await;
        let lines = read.json();
        if let Some(damaged) = lines.iter().find(|line| line["body_base64"] != wanted.as_str()) {
            return Err(NotYet::never(format!("what is damaged was served: {damaged}")));
        }
        let bodies = lines.len();
        if read.code == Some(0) && bodies == 20 { Ok(bodies) } else { Err(format!("{bodies} of 20").into()) }
    });
    read.await.unwrap();
    let mut voters: Vec<u64> = (1..=3).filter(|id| *id != leader as u64 + 1).chain([4]).collect();
    voters.sort_unstable();
    wait_back(&cluster, leader, 4, &voters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_stops_and_deletes_nothing_until_its_operator_says_so() {
    let mut cluster = Cluster::found(Options::nodes(1)).await.unwrap();
    send(&cluster, 0, "precious").await;
    cluster.stop(0).await.unwrap();
    let data = cluster.node(0).data.clone();
    let folder = data.to_str().unwrap();
    let refused = run(&["store", "discard", "--confirm", "--data", folder]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("no quarantine"), "{}", refused.stderr);
    flip(&data.join("meta"));
    let before = contents(&data);
    cluster.start_node(0).unwrap();
    wait_quarantined(&cluster, 0, &["meta", "Nothing was deleted", "iris store discard --confirm"]).await;
    let shown = run(&["status", "--data", folder]).await;
    assert!(shown.stdout.starts_with("STOPPED: This node is in quarantine"), "{}", shown.stdout);
    let refused = run(&["store", "discard", "--confirm", "--data", folder]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("stop it first"), "{}", refused.stderr);
    // A restart changes nothing about it.
    cluster.kill9(0).unwrap();
    cluster.start_node(0).unwrap();
    wait_quarantined(&cluster, 0, &["meta"]).await;
    cluster.stop(0).await.unwrap();
    let mut after = contents(&data);
    after.remove(&data.join("quarantine")).unwrap();
    assert!(after == before, "nothing is changed and nothing deleted");

    let refused = run(&["store", "discard", "--data", folder]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("--confirm"), "{}", refused.stderr);
    let discarded = run(&["store", "discard", "--confirm", "--data", folder]).await;
    assert!(discarded.code == Some(0) && discarded.stdout.contains("nothing was deleted"), "{}", discarded.stdout);
    let aside = asides(&data);
    let kept = contents(&aside[0]);
    for (path, bytes) in before {
        let name = path.strip_prefix(&data).unwrap();
        assert!(kept.get(&aside[0].join(name)) == Some(&bytes), "{}", name.display());
    }
    cluster.start_node(0).unwrap();
    cluster.wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_until_the_others_can_do_without_it() {
    let mut cluster = Cluster::start(3).await.unwrap();
    send(&cluster, 0, "one").await;
    for index in 0..3 {
        cluster.stop(index).await.unwrap();
    }
    flip(&cluster.node(0).data.join("membership"));
    cluster.start_node(0).unwrap();
    wait_quarantined(&cluster, 0, &["membership", "no other node answers"]).await;
    cluster.start_node(1).unwrap();
    wait_quarantined(&cluster, 0, &["the other nodes have no majority yet"]).await;
    wait_for("the other node to say so", DEADLINE, async || {
        // It is up, and waits for its group; it has no admin socket before that.
        if cluster.node(1).has_logged("has found its own disk damaged") { Ok(()) } else { Err("not yet".into()) }
    })
    .await
    .unwrap();
    assert_eq!(asides(&cluster.node(0).data).len(), 0);
    cluster.start_node(2).unwrap();
    wait_back(&cluster, 0, 4, &[2, 3, 4]).await;
    send(&cluster, 0, "two").await;
}
