//! The product's warm stores on a disk that loses power, in a process that is killed with it: what a checkpoint or an append
//! said is there, whatever of the rest survived.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use iris_store::testing::{CRASH_CHILD, warm_store_conforms, warm_store_crash_child, warm_store_survives_kills};
use iris_store::warm::{SledWarm, WarmStore};
use iris_store::{GroupId, LogEntry, LogOptions, RaftLog, Warm};

use iris_tests::lossy_disk::{LossyDisk, Tear};
use iris_tests::seed::{Seed, rounds};
use tempfile::TempDir;

fn disk() -> Option<(TempDir, LossyDisk)> {
    if let Some(reason) = LossyDisk::unavailable() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = LossyDisk::mount(dir.path()).unwrap();
    Some((dir, disk))
}

fn open(engine: &str, path: &Path) -> Arc<dyn WarmStore> {
    match engine {
        "sqlite" => Arc::new(Warm::open(&path.join("warm.db")).unwrap()),
        "sled" => Arc::new(SledWarm::open(&path.join("warm")).unwrap()),
        other => panic!("{other}"),
    }
}

/// Does nothing but in the child, which runs only this.
#[test]
fn the_child_whose_power_is_cut() {
    if let Ok(store) = std::env::var(CRASH_CHILD) {
        let (engine, path) = store.split_once(' ').unwrap();
        warm_store_crash_child(&*open(engine, Path::new(path)));
    }
}

fn survives_power_cuts(engine: &str, tear: impl Fn(u64) -> Tear) {
    let Some((dir, disk)) = disk() else { return };
    let seed = Seed::pick();
    let child = || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["the_child_whose_power_is_cut", "--exact", "--nocapture"]);
        child.stderr(Stdio::null()).env(CRASH_CHILD, format!("{engine} {}", dir.path().display()));
        child
    };
    let (cuts, lost) = (Cell::new(0), Cell::new(0));
    let open = || {
        let cut = disk.power_cut(tear(seed.value() + cuts.get()));
        cuts.set(cuts.get() + 1);
        lost.set(lost.get() + cut.bytes);
        open(engine, dir.path())
    };
    warm_store_survives_kills(rounds(12) as u64, seed.value(), &child, &open);
    assert!(lost.get() > 0, "no cut found anything to lose");
}

#[test]
fn sqlite_survives_power_cuts() {
    survives_power_cuts("sqlite", |_| Tear::Clean);
}

#[test]
fn sqlite_survives_power_cuts_that_tear() {
    survives_power_cuts("sqlite", Tear::Random);
}

#[test]
fn sled_survives_power_cuts() {
    survives_power_cuts("sled", |_| Tear::Clean);
}

#[test]
fn sled_survives_power_cuts_that_tear() {
    survives_power_cuts("sled", Tear::Random);
}

/// A folder whose name was never synced takes everything with it that was.
#[tokio::test]
async fn a_log_is_there_after_a_cut_with_the_folders_it_made() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("data/log");
    let entry = LogEntry { index: 1, bytes: "durable".into() };
    {
        let log = RaftLog::open(LogOptions::new(&path)).unwrap();
        let (done, told) = tokio::sync::oneshot::channel();
        log.group(GroupId(1)).append(vec![entry.clone()], Box::new(|result| drop(done.send(result)))).await.unwrap();
        told.await.unwrap().unwrap();
        disk.ignore_sync(true);
    }
    disk.power_cut(Tear::Clean);
    disk.ignore_sync(false);
    let log = RaftLog::open(LogOptions::new(&path)).unwrap();
    assert_eq!(log.group(GroupId(1)).read(1..2, 1_000).unwrap(), [entry]);
}

#[test]
fn both_warm_stores_conform_on_it() {
    for engine in ["sqlite", "sled"] {
        let Some((dir, _disk)) = disk() else { return };
        warm_store_conforms(&|| open(engine, dir.path()));
    }
}
