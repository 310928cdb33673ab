//! `iris store check` on the folder of a real node, with either engine: fine after a clean stop and after a kill, refused while
//! the node runs, damage found wherever it is, and not a byte changed by looking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use iris_tests::binaries::Binary;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::wait::within;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);
const MESSAGES: usize = 300;

fn iris(arguments: &[&str], data: &Path) -> Command {
    let mut command = Command::new(Binary::Iris.path().unwrap());
    command.args(arguments).arg("--data").arg(data);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Exit code, stdout, stderr.
async fn run(mut command: Command, input: &str) -> (Option<i32>, String, String) {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("a command", DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn send(data: &Path, round: usize) {
    let bodies: String = (0..MESSAGES).map(|n| format!("needle {round} {n:05}\n")).collect();
    let sent = run(iris(&["send", "--as", "bob", "--to", "alice", "-"], data), &bodies).await;
    assert_eq!(sent.0, Some(0), "{}", sent.2);
}

/// Exit code and what was said of each area.
async fn check(data: &Path) -> (Option<i32>, Vec<Value>) {
    let (code, stdout, stderr) = run(iris(&["store", "check", "--json"], data), "").await;
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!(report["ok"], code == Some(0));
    (code, report["areas"].as_array().unwrap().clone())
}

async fn is_fine(data: &Path) {
    let before = contents(data);
    let (code, areas) = check(data).await;
    assert_eq!(code, Some(0), "{areas:#?}");
    assert!(areas[0]["counts"]["entries"].as_u64().unwrap() > 0, "{areas:#?}");
    assert_eq!(areas[2]["counts"]["shards"], 8, "{areas:#?}");
    let after = contents(data);
    assert!(before.keys().eq(after.keys()), "{:?} {:?}", before.keys(), after.keys());
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after[*path] != **bytes).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        let path = file.path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if file.file_type().unwrap().is_file() {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// A copy of the folder with one thing damaged must be found to be so, in an area.
async fn finds(data: &Path, area: &str, damage: impl Fn(&Path, &mut Vec<u8>) -> bool) {
    let copy = tempfile::tempdir().unwrap();
    let mut damaged = 0;
    for (path, mut bytes) in contents(data) {
        let name = path.strip_prefix(data).unwrap();
        damaged += usize::from(damage(name, &mut bytes));
        let target = copy.path().join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
    assert!(damaged > 0, "nothing to damage in {area}");
    let (code, areas) = check(copy.path()).await;
    assert_eq!(code, Some(1), "{area}: {areas:#?}");
    let wrong: Vec<&Value> = areas.iter().filter(|one| one["ok"] == false).map(|one| &one["area"]).collect();
    assert!(wrong.contains(&&Value::from(area)), "{area}: {areas:#?}");
    let (code, stdout, stderr) = run(iris(&["store", "check"], copy.path()), "").await;
    assert!(code == Some(1) && stdout.contains("WRONG") && stderr.contains("damaged"), "{stdout}{stderr}");
}

/// Flips a bit in every copy of a text.
fn flip(bytes: &mut [u8], text: &[u8]) -> bool {
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(text)).collect();
    places.iter().for_each(|at| bytes[at + 1] ^= 4);
    !places.is_empty()
}

async fn with(engine: &str) {
    let options = Options::nodes(1).with("store", "engine", format!("{engine:?}")).with("store", "checkpoint_ms", 200);
    let mut cluster = Cluster::start_with(options).await.unwrap();
    let data = cluster.node(0).data.clone();
    send(&data, 1).await;
    let (code, _, stderr) = run(iris(&["store", "check"], &data), "").await;
    assert!(code == Some(1) && stderr.contains("another node runs"), "{stderr}");
    cluster.stop(0).await.unwrap();
    is_fine(&data).await;
    cluster.heal().await.unwrap();
    send(&data, 2).await;
    cluster.kill9(0).unwrap();
    is_fine(&data).await;

    finds(&data, "log", |name, bytes| name.starts_with("log") && flip(bytes, b"needle 2 00")).await;
    finds(&data, "inboxes", |name, bytes| {
        name.to_string_lossy().starts_with("inboxes") && (flip(bytes, b"needle 1 00") | flip(bytes, b"needle 2 00"))
    })
    .await;
    finds(&data, "inboxes", |name, bytes| name.ends_with("engine") && flip(bytes, engine.as_bytes())).await;
    finds(&data, "meta", |name, bytes| {
        let meta = name.ends_with("meta");
        if meta {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }
        meta
    })
    .await;
    // Without its log, the checkpoints are of a log that isn't there.
    finds(&data, "checkpoints against log", |name, bytes| {
        let log = name.extension().is_some_and(|is| is == "raftlog" || is == "rewrite");
        if log {
            bytes.clear();
        }
        log
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_sqlite_is_checked() {
    with("sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_sled_is_checked() {
    with("sled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_a_node_and_one_of_another_engine_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(iris(&["store", "check"], empty.path()), "").await;
    assert!(code == Some(1) && stderr.contains("the data folder of a node"), "{stderr}");
    assert_eq!(contents(empty.path()).len(), 0, "nothing is made in it");

    let mut cluster = Cluster::start(1).await.unwrap();
    cluster.stop(0).await.unwrap();
    let data = cluster.node(0).data.clone();
    let mut up = iris(&["up"], &data);
    up.args(["--listen", "127.0.0.1:0", "--p2p", "127.0.0.1:0"]).env("IRIS_STORE__ENGINE", "sled");
    let (code, _, stderr) = run(up, "").await;
    assert!(code == Some(1) && stderr.contains("set store.engine = \"sqlite\""), "{stderr}");
}
