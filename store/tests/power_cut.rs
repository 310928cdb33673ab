//! Power cuts and dying disks under the Raft log: what was answered as durable is there afterwards, and nothing is answered
//! as durable once an fsync failed.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{all, append, append_later, entries, options, wait};
use iris_store::testing::LossyFs;
use iris_store::{GroupId, LogError, RaftLog};

const GROUPS: u64 = 4;

/// Appends to several groups without waiting, a vote and a truncation between, and cuts the power. Returns each group's
/// last index that was answered as durable.
async fn write_and_cut(dir: &Path, ignore_sync: bool) -> BTreeMap<u64, u64> {
    let fs = Arc::new(LossyFs::default());
    let mut small = options(dir);
    small.segment_bytes = 16 << 10;
    let log = RaftLog::open_with(small, fs.clone()).unwrap();
    append(&log.group(GroupId(99)), entries(1..2, "before")).await;
    fs.ignore_sync(ignore_sync);
    let acked = Arc::new(Mutex::new(BTreeMap::new()));
    for round in 0..40 {
        for group in 1..=GROUPS {
            let acked = acked.clone();
            let index = round + 1;
            let done = Box::new(move |result: Result<(), LogError>| {
                if result.is_ok() {
                    acked.lock().unwrap().insert(group, index);
                }
            });
            log.group(GroupId(group)).append(entries(index..index + 1, &"x".repeat(200)), done).await.unwrap();
        }
        if round == 20 {
            let log = log.group(GroupId(1));
            log.put(b"vote", b"term 7".to_vec()).await.unwrap();
            append(&log, entries(22..24, "lost")).await;
            log.truncate_after(Some(21)).await.unwrap();
        }
    }
    // The power goes while the last ones are on their way: from here on nothing reaches the real files, and no fsync says
    // yes. What was answered until the writer ends had reached them.
    fs.fail_sync(true);
    // In case the writer had nothing left to do.
    drop(append_later(&log.group(GroupId(98)), entries(1..2, "x")).await);
    assert!(matches!(wait(log.closed()).await, Some(LogError::Failed { .. })));
    acked.lock().unwrap().clone()
}

/// The real files, somewhere else: a failed log keeps its folder locked until the process ends.
fn what_is_left(dir: &Path) -> PathBuf {
    let copy = dir.with_extension("left");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// What is missing after the cut.
async fn missing_after_cut(ignore_sync: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let acked = write_and_cut(&path, ignore_sync).await;
    let log = match RaftLog::open(options(&what_is_left(&path))) {
        Ok(log) => log,
        // The cut may fall behind a file's birth: of a disk that lied, not even its head is left.
        Err(error) if ignore_sync => return vec![format!("everything: {error}")],
        Err(error) => panic!("{error}"),
    };
    let mut missing = Vec::new();
    if all(&log.group(GroupId(99))).len() != 1 {
        missing.push("the entry before".to_owned());
    }
    assert!(!acked.is_empty());
    for (group, index) in acked {
        let found = all(&log.group(GroupId(group)));
        if found.last().is_none_or(|last| last.index < index) {
            missing.push(format!("group {group}: {index} of {:?}", found.last().map(|last| last.index)));
        }
        assert_eq!(found, entries(1..found.len() as u64 + 1, &"x".repeat(200)), "whole, in order, nothing truncated");
    }
    if log.group(GroupId(1)).get(b"vote").unwrap().as_deref() != Some(b"term 7") {
        missing.push("the vote".to_owned());
    }
    missing
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_answered() {
    for _ in 0..3 {
        assert_eq!(missing_after_cut(false).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_notices_a_disk_that_lies_about_fsync() {
    let missing = missing_after_cut(true).await;
    if missing.iter().any(|what| what.starts_with("everything")) {
        return;
    }
    assert!(missing.iter().any(|what| what.starts_with("group")), "{missing:?}");
    assert!(missing.iter().any(|what| what == "the vote"), "{missing:?}");
    assert!(!missing.iter().any(|what| what == "the entry before"), "{missing:?}");
}

#[tokio::test]
async fn a_failed_fsync_ends_the_log_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    {
        let fs = Arc::new(LossyFs::default());
        let log = RaftLog::open_with(options(&path), fs.clone()).unwrap();
        let group = log.group(GroupId(1));
        append(&group, entries(1..3, "good")).await;
        fs.fail_sync(true);
        let done = append_later(&group, entries(3..4, "doubtful")).await.unwrap();
        assert!(matches!(wait(done).await.unwrap(), Err(LogError::Failed { .. })));
        assert!(matches!(wait(log.closed()).await, Some(LogError::Failed { .. })));
        // The disk recovers; the log doesn't believe it.
        fs.fail_sync(false);
        assert!(matches!(append_later(&group, entries(4..5, "no")).await, Err(LogError::Failed { .. })));
        assert!(matches!(group.put(b"vote", vec![1]).await, Err(LogError::Failed { .. })));
        assert!(matches!(group.read(1..3, 100), Err(LogError::Failed { .. })));
        assert!(matches!(group.get(b"vote"), Err(LogError::Failed { .. })));
        log.shutdown();
        assert!(matches!(wait(log.closed()).await, Some(LogError::Failed { .. })));
        // Closing the files would fail too, and must not take the process down before it could say why.
        fs.fail_sync(true);
    }
    let found = all(&RaftLog::open(options(&what_is_left(&path))).unwrap().group(GroupId(1)));
    assert_eq!(found[..2], entries(1..3, "good"));
}
