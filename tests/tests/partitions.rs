//! Cut networks are found by everybody, told once with who sees whom, counted, and shown with a reason (C7): a cut of one
//! direction, one that the third node does not feel, and a node cut off from all others. In network namespaces; where those
//! can't be had, the test says that it was skipped, and shows nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use iris_client::{Outgoing, UserId};
use iris_protocol::admin::{BreakerState, HealthLevel, StatusReport};
use iris_tests::faults::bed::{Bed, options};
use iris_tests::faults::{Length, RowRun};
use iris_tests::netns;
use iris_tests::wait::{NotYet, wait_for, within};

const DEADLINE: Duration = Duration::from_secs(60);
/// Three looks of a node.
const MISSED_AFTER: Duration = Duration::from_secs(6);
const TOLD: &str = "two nodes can't reach each other though both are up";
const TOLD_AFTER: &str = "out of sight and ran all the time";

/// Waits until every one of these nodes reports what is asked for.
async fn all_report(bed: &Bed, nodes: &[usize], what: &str, holds: impl Fn(&StatusReport) -> bool) {
    wait_for(what, DEADLINE, async || {
        for node in nodes {
            let report = bed.cluster.status(*node).await.map_err(|error| NotYet::from(format!("{error:#}")))?;
            if !holds(&report) {
                return Err(format!("node {}: {:?}, {}", report.node, report.network, report.health.sentence).into());
            }
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn send(bed: &Bed, index: usize, body: &str) {
    let (bob, alice) = (UserId::new("bob").unwrap(), UserId::new("alice").unwrap());
    let client = bed.cluster.client_at(&bob, "sender", index).await.unwrap();
    let sent = client.send_and_wait(Outgoing::new(alice, body.to_owned()));
    within("the message to be committed", DEADLINE, sent).await.unwrap().unwrap();
    client.close(Duration::from_secs(1)).await;
}

fn names_the_cut(report: &StatusReport) -> bool {
    report.health.sentence.contains("node-1 can't reach node-2 though both are up")
        && report.network.cuts.iter().map(|cut| (cut.one.0, cut.other.0)).eq([(1, 2)])
        && report.health.level != HealthLevel::Safe
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_cut_is_told_once_by_everybody_counted_and_shown() {
    if let Some(reason) = netns::unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let dir = tempfile::Builder::new().prefix("iris-test-").tempdir().unwrap();
    let run = RowRun { seed: 1, rounds: 1, length: Length::Short, dir: dir.path(), loopback: false, minutes: None };
    let mut bed = Bed::start_with(&run, options(&run, 3)).await.unwrap();
    let (all, whole) = ([0, 1, 2], |report: &StatusReport| report.network.cuts.is_empty());
    all_report(&bed, &all, "a whole network", |report| {
        let links = &report.network.links;
        whole(report) && links.len() == 2 && links.iter().all(|link| link.breaker == BreakerState::Closed)
    })
    .await;

    type MakeCut = fn(&Bed) -> anyhow::Result<()>;
    let cuts: [(&str, MakeCut); 2] =
        [("what 1 sends 2 is lost", |bed| bed.cut(0, 1)), ("1 and 2 are cut, and 3 is not", |bed| bed.cut_both(0, 1))];
    for ((what, make), times) in cuts.into_iter().zip(1..) {
        make(&bed).unwrap();
        all_report(&bed, &all, what, names_the_cut).await;
        for index in all {
            send(&bed, index, what).await;
        }
        bed.end_cuts().unwrap();
        all_report(&bed, &all, "the cut to be healed", |report| whole(report) && report.counters.partitions == times)
            .await;
        for index in all {
            assert_eq!(
                bed.cluster.node(index).count_logged(TOLD),
                usize::try_from(times).unwrap(),
                "{what}: once each"
            );
            assert!(bed.cluster.node(index).has_logged("sees"), "with who sees whom");
        }
    }

    bed.isolate(0).unwrap();
    let alone = |report: &StatusReport| report.health.sentence.contains("it is this node that is cut off");
    all_report(&bed, &[0], "the lone node to say that it sees nobody", alone).await;
    let others = |report: &StatusReport| whole(report) && report.health.sentence.contains("node-1");
    all_report(&bed, &[1, 2], "the others to miss it", others).await;
    // What is healed before anybody looked twice was never missed.
    let since = Instant::now();
    while since.elapsed() < MISSED_AFTER {
        send(&bed, 1, "by the majority").await;
    }
    bed.end_cuts().unwrap();
    all_report(&bed, &all, "all to know afterwards that it was a cut", |report| report.counters.partitions >= 3).await;
    for index in all {
        assert!(bed.cluster.node(index).has_logged(TOLD_AFTER));
    }
    bed.cluster.wait_ready().await.unwrap();
    send(&bed, 0, "by all").await;
}
