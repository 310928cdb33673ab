//! The demo at a smaller scale (A3, A4, A6, A7, C5): real messages among many users, two kill -9, receivers that come back.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Display;

use iris_tests::cluster::Cluster;
use iris_tests::scenario::{Play, Progress, play};
use iris_tests::seed::Seed;

/// Progress into the test's captured output.
struct Captured;

impl Progress for Captured {
    fn say(&mut self, line: &dyn Display) {
        eprintln!("{line}");
    }

    fn acked(&mut self, _acked: usize, _of: usize) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_once_and_in_order_through_two_kills() {
    let seed = Seed::pick();
    let mut cluster = Cluster::start(3).await.unwrap();
    let plan = Play { users: 40, messages: 2_000, depth: 32, per_s: 500, seed: seed.value() };
    let report = Box::pin(play(&mut cluster, &plan, &mut Captured)).await.unwrap();
    assert!(
        report.is_success(),
        "{report}\nreceived: {}\nstored: {}\nerrors: {:?}",
        report.received,
        report.stored,
        report.errors
    );
}
