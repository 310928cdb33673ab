//! The simulation in its short form: some seeded schedules of faults, and the proof that a seed replays exactly. More of them:
//! `make sim`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use iris_tests::seed::{Seed, rounds};
use iris_tests::sim::fleet::Fleet;

async fn fleet() -> Fleet {
    Fleet::new(PathBuf::from(env!("CARGO_BIN_EXE_sim"))).await.unwrap()
}

/// Schedules of the short form, at a time.
const SCHEDULES: usize = 8;
const JOBS: usize = 2;

#[tokio::test]
async fn no_promise_is_broken_in_some_schedules() {
    let seed = Seed::pick();
    let mut broken = Vec::new();
    let each = |outcome: &iris_tests::sim::fleet::Outcome| {
        if !outcome.good {
            let replay = format!("replay with: make sim SEED={} SCHEDULES=1", outcome.seed);
            broken.push(format!("{}\n{replay}", outcome.said.join("\n")));
        }
        true
    };
    let totals = fleet().await.many(seed.value(), rounds(SCHEDULES) as u64, JOBS, each).await.unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(totals.acked > 0 && totals.fresh_reads > 0, "{totals}");
}

#[tokio::test]
async fn a_seed_replays_exactly() {
    let (fleet, seed) = (fleet().await, Seed::pick());
    let (one, two) = tokio::join!(fleet.one(seed.value(), None), fleet.one(seed.value(), None));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.said, two.said);
    assert!(one.good && one.hash().is_some(), "{:?}", one.said);
    // A hash of nothing would be the same, too.
    let other = fleet.one(seed.value() + 1, None).await.unwrap();
    assert_ne!(one.hash(), other.hash());
}
