//! Kills in the middle of checkpoints, for both warm stores.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use iris_store::Warm;
use iris_store::testing::{CRASH_CHILD, warm_store_crash_child, warm_store_survives_kills};
use iris_store::warm::{SledWarm, WarmStore};

const ROUNDS: u64 = 12;

fn open(engine: &str, path: &Path) -> Arc<dyn WarmStore> {
    match engine {
        "sqlite" => Arc::new(Warm::open(&path.join("warm.db")).unwrap()),
        "sled" => Arc::new(SledWarm::open(&path.join("warm")).unwrap()),
        other => panic!("{other}"),
    }
}

/// Does nothing but in the child, which runs only this.
#[test]
fn the_child_that_is_killed() {
    if let Ok(store) = std::env::var(CRASH_CHILD) {
        let (engine, path) = store.split_once(' ').unwrap();
        warm_store_crash_child(&*open(engine, Path::new(path)));
    }
}

fn survives_kills(engine: &str, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let child = || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["the_child_that_is_killed", "--exact", "--nocapture"]).stderr(Stdio::null());
        child.env(CRASH_CHILD, format!("{engine} {}", dir.path().display()));
        child
    };
    warm_store_survives_kills(ROUNDS, seed, &child, &|| open(engine, dir.path()));
}

#[test]
fn sqlite_survives_kills() {
    survives_kills("sqlite", 1);
}

#[test]
fn sled_survives_kills() {
    survives_kills("sled", 2);
}
