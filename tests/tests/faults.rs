//! Every row of the fault battery in its short form (faults.md). `make faults` runs the long ones.
#![allow(clippy::unwrap_used, clippy::panic)]

use iris_tests::faults::Length;
use iris_tests::faults::rows::{ALL, by_name};
use iris_tests::faults::run::{Ended, Wish, run};
use iris_tests::seed::Seed;

async fn short(name: &str) {
    let seed = Seed::pick();
    let wish =
        Wish { seed: seed.value(), rounds: None, minutes: None, length: Length::Short, loopback: false, keep: false };
    let ended = Box::pin(run(by_name(name).unwrap(), &wish)).await.unwrap();
    assert!(!matches!(ended, Ended::Failed(..)), "{name}: {ended:?}");
}

/// A test for each row, so that each has a name, a deadline and an output of its own.
macro_rules! rows {
    ($($test:ident $name:literal,)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                short($name).await;
            }
        )*
    };
}

rows! {
    leader_kill9 "LEADER-KILL9",
    all_power_cut "ALL-POWER-CUT",
    one_power_cut "ONE-POWER-CUT",
    negative_control "NEGATIVE-CONTROL",
    torn_write "TORN-WRITE",
    bitflip "BITFLIP",
    empty_disk "EMPTY-DISK-REJOIN",
    fsync_eio "FSYNC-EIO",
    disk_full "DISK-FULL",
    slow_disk "SLOW-DISK",
    clock "CLOCK",
    partition "PARTITION",
    sigstop_leader "SIGSTOP-LEADER",
    membership_churn "MEMBERSHIP-CHURN",
    hot_inbox "HOT-INBOX",
    cascade "CASCADE",
    sigterm "SIGTERM",
    latency "LATENCY",
    soak "SOAK",
}

#[test]
fn every_row_is_tested() {
    for row in ALL {
        assert!(TESTED.contains(&row.name), "{} has no test here", row.name);
    }
}
