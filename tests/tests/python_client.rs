//! The second client, written from docs/protocol.md alone (clients/python), against a real cluster: send, tail, ack, a node killed
//! under it. What it is told agrees with what the Rust client reads.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Output, Stdio};
use std::time::Duration;

use iris_client::UserId;
use iris_tests::binaries::workspace_root;
use iris_tests::cluster::Cluster;
use iris_tests::verify::read_inbox;
use iris_tests::wait::within;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(90);

/// A command line of the Python client as `user`.
async fn python(cluster: &Cluster, user: &str, verb: &str, more: &[&str]) -> Child {
    let ca = cluster.dir().join("ca-for-python.pem");
    std::fs::write(&ca, cluster.ca_pem().unwrap()).unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-m", "iris_client", verb, "--connect", &cluster.addresses().join(",")])
        .arg("--ca")
        .arg(ca)
        .args(more);
    command.env("PYTHONPATH", workspace_root().join("clients/python"));
    command.env("IRIS_TOKEN", cluster.token(&UserId::new(user).unwrap()).await.unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Runs to the end: its exit code, and its JSON lines.
async fn finish(child: Child) -> (Option<i32>, Vec<Value>) {
    let Output { status, stdout, stderr } =
        within("python3", DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    eprintln!("python3 ended with {status}: {}", String::from_utf8_lossy(&stderr));
    let lines = String::from_utf8(stdout).unwrap();
    (status.code(), lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_sends_tails_acks_and_goes_on_at_its_cursor() {
    let cluster = Cluster::start(3).await.unwrap();
    let (code, lines) = finish(python(&cluster, "bob", "login", &[]).await).await;
    assert_eq!((code, lines[0]["user"].as_str()), (Some(0), Some("bob")));
    let (code, sent) = finish(python(&cluster, "bob", "send", &["--to", "alice", "hello from python"]).await).await;
    assert_eq!((code, sent.len(), sent[0]["status"].as_str()), (Some(0), 1, Some("committed")));
    // The same key again is the same entry.
    let key = sent[0]["key"].as_str().unwrap();
    let (code, again) =
        finish(python(&cluster, "bob", "send", &["--to", "alice", "--key", key, "hello from python"]).await).await;
    assert_eq!((code, &again[0]["duplicate"], &again[0]["id"]), (Some(0), &Value::Bool(true), &sent[0]["id"]));

    let (code, read) = finish(python(&cluster, "alice", "tail", &["--from", "stored", "--ack"]).await).await;
    assert_eq!((code, read.len()), (Some(0), 1));
    assert_eq!(
        (&read[0]["id"], &read[0]["sha256"], &read[0]["sender"]),
        (&sent[0]["id"], &sent[0]["sha256"], &Value::from("bob"))
    );
    let (code, rest) = finish(python(&cluster, "alice", "tail", &["--from", "stored"]).await).await;
    assert_eq!((code, rest.len()), (Some(0), 0), "acked is acked");
    let (code, all) = finish(python(&cluster, "alice", "tail", &["--from", "0"]).await).await;
    assert_eq!((code, all.len()), (Some(0), 1));
    let log = read_inbox(&cluster, &UserId::new("alice").unwrap(), 0).await.unwrap();
    assert_eq!(Some(log[0].id.0), all[0]["id"].as_u64(), "both clients see the same entry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_pipelines_and_follows_through_a_kill9() {
    const MESSAGES: usize = 3_000;
    let mut cluster = Cluster::start(3).await.unwrap();
    let alice = UserId::new("alice").unwrap();
    cluster.token(&alice).await.unwrap();
    let count = MESSAGES.to_string();
    let follower = python(&cluster, "alice", "tail", &["--from", "0", "--follow", "--count", &count, "--ack"]).await;
    let mut sender = python(&cluster, "bob", "send", &["--to", "alice", "-"]).await;
    let mut input = sender.stdin.take().unwrap();
    let (half, rest): (Vec<_>, Vec<_>) =
        (0..MESSAGES).map(|number| format!("line {number}\n")).partition(|line| line.len() < 10);
    assert!(!half.is_empty() && !rest.is_empty());
    let reading = tokio::spawn(finish(sender));
    input.write_all(half.concat().as_bytes()).await.unwrap();
    let leader = cluster.leader_for(&alice).await.unwrap();
    input.write_all(rest.concat().as_bytes()).await.unwrap();
    drop(input);
    cluster.kill9(leader).unwrap();
    let (code, sent) = reading.await.unwrap();
    assert_eq!((code, sent.len()), (Some(0), MESSAGES));
    let (code, read) = finish(follower).await;
    assert_eq!((code, read.len()), (Some(0), MESSAGES));
    // Order of the pair, by content: what was sent line by line is read line by line.
    let survivor = cluster.running()[0];
    let log = read_inbox(&cluster, &alice, survivor).await.unwrap();
    assert_eq!(log.len(), MESSAGES, "one entry for each line");
    let expected: Vec<_> =
        half.iter().chain(&rest).map(|line| iris_tests::oracle::hash(line.trim_end().as_bytes())).collect();
    let stored: Vec<_> = log.iter().map(|seen| seen.hash).collect();
    assert!(stored == expected, "the order of the lines is the order of the log");
    cluster.heal().await.unwrap();
}
