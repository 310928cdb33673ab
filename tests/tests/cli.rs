//! The command line as scripts use it (D1): identity, config, token, send, tail, status, and the
//! exit codes 0 done, 1 failed, 2 usage, 3 unreachable.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use iris_tests::cluster::Cluster;
use iris_tests::command::{Ran, iris, run};
use iris_tests::node_process::NodeProcess;
use iris_tests::place::Place;
use iris_tests::wait::{wait_for, within};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_send_tail_and_status_work_through_the_socket() {
    let cluster = Cluster::start(3).await.unwrap();
    let data = text(&cluster.node(0).data);
    let sent = run(&["send", "--data", data, "--as", "bob", "--to", "alice", "--json", "hello there"]).await;
    assert_eq!(sent.code, Some(0));
    assert_eq!(sent.json()[0]["status"], "committed");
    let read =
        run(&["tail", "--data", text(&cluster.node(1).data), "--as", "alice", "--from", "0", "--json", "--ack"]).await;
    assert_eq!((read.code, read.json().len()), (Some(0), 1));
    assert_eq!((&read.json()[0]["sender"], &read.json()[0]["id"]), (&Value::from("bob"), &sent.json()[0]["id"]));
    let plain = run(&["tail", "--data", data, "--as", "alice", "--from", "0"]).await;
    assert!(plain.code == Some(0) && plain.stdout.contains("bob: hello there"), "{}", plain.stdout);
    let acked = run(&["tail", "--data", data, "--as", "alice", "--json"]).await;
    assert_eq!((acked.code, acked.stdout.as_str()), (Some(0), ""), "acked at one node, known at another");

    let status = run(&["status", "--data", data, "--json"]).await;
    assert_eq!(status.code, Some(0));
    assert_eq!(status.json()[0]["health"]["level"], "safe");
    assert_eq!(status.json()[0]["nodes"].as_array().unwrap().len(), 3);
    let words = run(&["status", "--data", data]).await;
    assert!(words.code == Some(0) && words.stdout.to_lowercase().contains("safe"), "{}", words.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_file_is_all_another_machine_needs() {
    let cluster = Cluster::start(1).await.unwrap();
    let data = text(&cluster.node(0).data);
    let token = run(&["token", "user", "carol", "--ttl", "1h", "--data", data]).await;
    assert_eq!((token.code, token.stdout.lines().count()), (Some(0), 1));
    let file = cluster.dir().join("carol.token");
    std::fs::write(&file, &token.stdout).unwrap();
    let connect = ["--connect", &cluster.addresses()[0], "--token", text(&file)];
    let mut sending = iris(&[&["send", "--to", "carol", "--json", "-"], connect.as_slice()].concat());
    let mut child = sending.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\nthree\n").await.unwrap();
    let output = within("iris send -", DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 3);
    let read = run(&[&["tail", "--from", "0", "--json"], connect.as_slice()].concat()).await;
    let bodies: Vec<Value> = read.json().into_iter().map(|entry| entry["body_base64"].clone()).collect();
    assert_eq!(bodies, ["b25l", "dHdv", "dGhyZWU="], "one, two, three");

    std::fs::write(&file, "no.such.token").unwrap();
    let refused = run(&[&["tail"], connect.as_slice()].concat()).await;
    assert!(matches!(refused.code, Some(1 | 2)) && !refused.stderr.is_empty(), "{:?}", refused.code);
    let too_long = run(&["token", "user", "carol", "--ttl", "48h", "--data", data]).await;
    assert!(matches!(too_long.code, Some(1 | 2)), "user tokens live a day at most: {:?}", too_long.code);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_usage_from_failure_from_nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = text(dir.path());
    for usage in [vec!["frobnicate"], vec![], vec!["send"], vec!["status", "--no-such-flag"]] {
        assert_eq!(run(&usage).await.code, Some(2), "{usage:?}");
    }
    for unreachable in [
        vec!["status", "--data", nobody],
        vec!["token", "user", "alice", "--data", nobody],
        vec!["send", "--data", nobody, "--as", "bob", "--to", "alice", "hi"],
        vec!["tail", "--data", nobody, "--as", "alice"],
    ] {
        let ran = run(&unreachable).await;
        assert_eq!(ran.code, Some(3), "{unreachable:?}");
        assert!(ran.stderr.contains("iris up"), "says what to do: {}", ran.stderr);
    }
    assert_eq!(run(&["--help"]).await.code, Some(0));
    assert_eq!(run(&["--version"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_example_checks_and_mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("iris.toml");
    let example = run(&["config", "example"]).await;
    assert_eq!(example.code, Some(0));
    std::fs::write(&file, &example.stdout).unwrap();
    assert_eq!(run(&["config", "check", "--config", text(&file)]).await.code, Some(0));
    let shown = run(&["config", "show", "--config", text(&file)]).await;
    assert!(shown.code == Some(0) && shown.stdout.contains("heartbeat_ms = 100"), "{}", shown.stdout);
    for (mistake, named) in [
        ("[raft]\nheartbeat_ms = 0\n", "raft.heartbeat_ms"),
        ("[raft]\nheart_beat = 1\n", "heart_beat"),
        ("[node]\nlisten = \"everywhere\"\n", "node.listen"),
        ("[node\n", "iris.toml"),
    ] {
        std::fs::write(&file, mistake).unwrap();
        let ran = run(&["config", "check", "--config", text(&file)]).await;
        assert!(ran.code == Some(1) && ran.stderr.contains(named), "{mistake:?}: {:?} {}", ran.code, ran.stderr);
        let up = run(&["up", "--config", text(&file)]).await;
        assert!(up.code == Some(1) && up.stderr.contains(named), "a node does not start with it: {}", up.stderr);
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&["config", "check", "--config", text(&file)]).await.code, Some(1), "no such file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_prints_its_key_and_starts_without_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = run(&["identity", "--data", text(&data)]).await;
    let second = run(&["identity", "--data", text(&data)]).await;
    assert!(first.code == Some(0) && first.stdout.starts_with("12D3KooW"), "{}", first.stdout);
    assert_eq!(first.stdout, second.stdout, "made once");

    let ports = NodeProcess::new(1.into(), dir.path(), Place::loopback()).unwrap();
    let (listen, p2p) = (ports.client_port.address(), ports.p2p_port.address());
    drop(ports);
    let mut up =
        iris(&["up", "--data", text(&data), "--listen", &listen, "--p2p", &p2p, "--name", "attic"]).spawn().unwrap();
    wait_for("the node to answer", DEADLINE, async || match run(&["status", "--data", text(&data)]).await {
        Ran { code: Some(0), stdout, .. } if stdout.contains("attic") => Ok(()),
        Ran { code, stderr, .. } => Err(format!("{code:?}: {stderr}").into()),
    })
    .await
    .unwrap();
    let again = run(&["up", "--data", text(&data), "--listen", "127.0.0.1:0"]).await;
    assert_eq!(again.code, Some(1), "one node per folder: {}", again.stderr);
    assert_eq!(run(&["send", "--data", text(&data), "--as", "me", "--to", "me", "a note"]).await.code, Some(0));
    let pid = rustix::process::Pid::from_raw(up.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = within("the node to stop", DEADLINE, up.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}
