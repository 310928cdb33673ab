//! Every row of the fault battery in its short form (faults.md). `make faults` runs the long ones.
#![allow(clippy::unwrap_used, clippy::panic)]

use iris_tests::faults::Length;
use iris_tests::faults::rows::by_name;
use iris_tests::faults::run::{Ended, Wish, run};
use iris_tests::seed::Seed;

async fn short(name: &str) {
    let seed = Seed::pick();
    let wish =
        Wish { seed: seed.value(), rounds: None, minutes: None, length: Length::Short, loopback: false, keep: false };
    let ended = Box::pin(run(by_name(name).unwrap(), &wish)).await.unwrap();
    assert!(!matches!(ended, Ended::Failed(..)), "{name}: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_kill9() {
    short("LEADER-KILL9").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock() {
    short("CLOCK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition() {
    short("PARTITION").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigstop_leader() {
    short("SIGSTOP-LEADER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_churn() {
    short("MEMBERSHIP-CHURN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cascade() {
    short("CASCADE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm() {
    short("SIGTERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency() {
    short("LATENCY").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    short("SOAK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_power_cut() {
    short("ALL-POWER-CUT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_power_cut() {
    short("ONE-POWER-CUT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negative_control() {
    short("NEGATIVE-CONTROL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_write() {
    short("TORN-WRITE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsync_eio() {
    short("FSYNC-EIO").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full() {
    short("DISK-FULL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disk() {
    short("SLOW-DISK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_disk_rejoin() {
    short("EMPTY-DISK-REJOIN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_inbox() {
    short("HOT-INBOX").await;
}
