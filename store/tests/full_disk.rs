//! The Raft log on a full disk: what finds no room waits, nothing is called durable, reads go on, and once there is room all goes on
//! as if nothing had been.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::{DEADLINE, all, append, append_later, entries, options, wait};
use iris_store::testing::LossyFs;
use iris_store::{GroupId, LogError, RaftLog};

const ONE: GroupId = GroupId(100);

fn wait_until_it_waits(log: &RaftLog) {
    let begun = Instant::now();
    while !log.stats().waits_for_room {
        assert!(begun.elapsed() < DEADLINE, "it never waited for room");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_finds_no_room_waits_and_is_written_once_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Arc::new(LossyFs::default());
    let log = RaftLog::open_with(options(dir.path()), fs.clone()).unwrap();
    let group = log.group(ONE);
    append(&group, entries(1..4, "before")).await;
    fs.is_full(true);
    let mut late = append_later(&group, entries(4..6, "while")).await.unwrap();
    wait_until_it_waits(&log);
    // Read as before; nothing is called durable; what comes meanwhile queues up behind it.
    assert_eq!(all(&group).len(), 5);
    let vote = tokio::spawn({
        let group = group.clone();
        async move { group.put(b"vote", b"mine".to_vec()).await }
    });
    assert!(late.try_recv().is_err() && !vote.is_finished());
    fs.is_full(false);
    wait(late).await.unwrap().unwrap();
    wait(vote).await.unwrap().unwrap();
    assert!(!log.stats().waits_for_room);
    append(&group, entries(6..8, "after")).await;
    drop((group, log));
    // A power cut: only what was fsynced is there.
    drop(fs);
    let again = RaftLog::open(options(dir.path())).unwrap().group(ONE);
    let expected: Vec<_> =
        [entries(1..4, "before"), entries(4..6, "while"), entries(6..8, "after")].into_iter().flatten().collect();
    assert_eq!(all(&again), expected);
    assert_eq!(again.get(b"vote").unwrap().as_deref(), Some(b"mine".as_slice()));
}

#[tokio::test]
async fn a_log_that_is_closed_while_it_waits_says_that_nothing_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Arc::new(LossyFs::default());
    let log = RaftLog::open_with(options(dir.path()), fs.clone()).unwrap();
    let group = log.group(ONE);
    append(&group, entries(1..2, "before")).await;
    fs.is_full(true);
    let late = append_later(&group, entries(2..3, "never")).await.unwrap();
    wait_until_it_waits(&log);
    log.shutdown();
    assert!(matches!(wait(late).await.unwrap(), Err(LogError::Failed { .. })));
    assert!(wait(log.closed()).await.is_some());
    drop(fs);
    std::mem::forget((log, group));
}
