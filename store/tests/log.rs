//! The Raft log on the real file system: group commit, order, bounds, reopening.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use common::{DEADLINE, all, append, append_later, entries, options, wait};
use iris_store::{GroupId, LogError, RaftLog};

const ONE: GroupId = GroupId(100);
const TWO: GroupId = GroupId(101);

fn open(dir: &tempfile::TempDir) -> RaftLog {
    RaftLog::open(options(dir.path())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_share_an_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let mut waiting = Vec::new();
    for group in 0..16 {
        let log = log.group(GroupId(100 + group));
        waiting.push(tokio::spawn(async move {
            let done: Vec<_> = {
                let mut done = Vec::new();
                for index in 1..=50 {
                    done.push(append_later(&log, entries(index..index + 1, "x")).await.unwrap());
                }
                done
            };
            for done in done {
                wait(done).await.unwrap().unwrap();
            }
            assert_eq!(all(&log).len(), 50);
        }));
    }
    for task in waiting {
        wait(task).await.unwrap();
    }
    let stats = log.stats();
    assert_eq!(stats.entries, 800);
    assert!(stats.fsyncs * 2 < 800, "{stats:?}");
    assert_eq!(stats.fsync_us_buckets.iter().sum::<u64>(), stats.fsyncs);
}

#[tokio::test]
async fn an_entry_is_readable_when_append_returns_and_a_gap_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).group(ONE);
    assert_eq!((log.first_index(), log.last_index(), log.read(0..9, 9).unwrap()), (None, None, vec![]));
    let done = append_later(&log, entries(7..10, "a")).await.unwrap();
    assert_eq!((log.first_index(), log.last_index()), (Some(7), Some(9)));
    assert_eq!(log.read(0..100, 1 << 20).unwrap(), entries(7..10, "a"));
    assert_eq!(log.read(8..9, 0).unwrap(), entries(8..9, "a"), "at least one");
    wait(done).await.unwrap().unwrap();
    for bad in [entries(11..12, "a"), entries(9..11, "a")] {
        assert!(matches!(append_later(&log, bad).await, Err(LogError::Gap { expected: 10, .. })));
    }
    append(&log, entries(10..11, "a")).await;
    assert_eq!(all(&log), entries(7..11, "a"));
}

#[tokio::test]
async fn a_read_joins_disk_and_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.cache_bytes_max = 3 * 200;
    let log = RaftLog::open(options).unwrap().group(ONE);
    let body = "b".repeat(100);
    for index in 1..=20 {
        append(&log, entries(index..index + 1, &body)).await;
    }
    let expected = entries(1..21, &body);
    assert_eq!(all(&log), expected);
    for begin in 1..=20u64 {
        let some = log.read(begin..21, 350).unwrap();
        assert_eq!(some, expected[begin as usize - 1..][..some.len()], "from {begin}");
        let fits = 350 / expected[0].bytes.len();
        assert_eq!(some.len(), fits.min(21 - begin as usize), "from {begin}");
    }
}

/// Appends one entry; its callback says that it was reached, then holds the writer until it is let go.
async fn append_held(log: &iris_store::GroupLog, index: u64) -> (Receiver<()>, SyncSender<()>) {
    let ((here, reached), (go, held)) = (sync_channel(1), sync_channel(1));
    let hold = Box::new(move |_| {
        // Whoever doesn't wait for it may have dropped it.
        let _ = here.send(());
        held.recv_timeout(DEADLINE).unwrap();
    });
    log.append(entries(index..index + 1, "e"), hold).await.unwrap();
    (reached, go)
}

#[tokio::test]
async fn an_entry_not_yet_on_disk_never_leaves_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.cache_bytes_max = 0;
    let log = RaftLog::open(options).unwrap().group(ONE);
    let (reached_1, go_1) = append_held(&log, 1).await;
    reached_1.recv_timeout(DEADLINE).unwrap();
    // Two in one round, and a third that comes between their callbacks: it isn't written while the second one evicts.
    let (reached_2, go_2) = append_held(&log, 2).await;
    let (reached_3, go_3) = append_held(&log, 3).await;
    go_1.send(()).unwrap();
    reached_2.recv_timeout(DEADLINE).unwrap();
    let last = append_later(&log, entries(4..5, "e")).await.unwrap();
    go_2.send(()).unwrap();
    reached_3.recv_timeout(DEADLINE).unwrap();
    assert_eq!(all(&log), entries(1..5, "e"));
    go_3.send(()).unwrap();
    wait(last).await.unwrap().unwrap();
    assert_eq!(all(&log), entries(1..5, "e"));
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = open(&dir);
        append(&log.group(ONE), entries(0..30, "one")).await;
        append(&log.group(TWO), entries(5..8, "two")).await;
        log.group(ONE).put(b"vote", b"first".to_vec()).await.unwrap();
        log.group(ONE).put(b"vote", b"second".to_vec()).await.unwrap();
    }
    let log = open(&dir);
    assert_eq!(all(&log.group(ONE)), entries(0..30, "one"));
    assert_eq!(all(&log.group(TWO)), entries(5..8, "two"));
    assert_eq!(log.group(ONE).get(b"vote").unwrap().as_deref(), Some(&b"second"[..]));
    assert_eq!(log.group(TWO).get(b"vote").unwrap(), None);
    for key in [&b""[..], b"iris.bounds", b"__x"] {
        assert!(matches!(log.group(ONE).put(key, vec![]).await, Err(LogError::Key { .. })));
    }
}

#[tokio::test]
async fn a_truncated_suffix_stays_away_without_another_append() {
    for kept in [Some(4), Some(1), None, Some(0)] {
        let dir = tempfile::tempdir().unwrap();
        let expected = entries(1..kept.unwrap_or(0) + 1, "old");
        {
            let log = open(&dir).group(ONE);
            append(&log, entries(1..11, "old")).await;
            log.truncate_after(Some(10)).await.unwrap();
            log.truncate_after(kept).await.unwrap();
            assert_eq!(all(&log), expected);
        }
        for _ in 0..2 {
            assert_eq!(all(&open(&dir).group(ONE)), expected, "kept {kept:?}");
        }
        // And the log goes on from there.
        {
            let log = open(&dir).group(ONE);
            let next = kept.unwrap_or(0) + 1;
            append(&log, entries(next..next + 2, "new")).await;
        }
        let log = open(&dir).group(ONE);
        let found = all(&log);
        assert_eq!(found[..expected.len()], expected);
        assert_eq!(found[expected.len()..], entries(kept.unwrap_or(0) + 1..kept.unwrap_or(0) + 3, "new"));
    }
}

#[tokio::test]
async fn truncation_and_append_in_one_round_end_as_if_apart() {
    let dir = tempfile::tempdir().unwrap();
    let expected = {
        let log = open(&dir).group(ONE);
        append(&log, entries(1..6, "e")).await;
        // The writer is held in a callback while all three are queued: it takes them in one round.
        let (_, go) = append_held(&log, 6).await;
        let second = append_later(&log, entries(7..11, "e")).await.unwrap();
        let third = tokio::spawn({
            let log = log.clone();
            async move { log.truncate_after(Some(7)).await }
        });
        while log.last_index() != Some(7) {
            tokio::task::yield_now().await;
        }
        let fourth = append_later(&log, entries(8..9, "new")).await.unwrap();
        go.send(()).unwrap();
        wait(second).await.unwrap().unwrap();
        wait(third).await.unwrap().unwrap();
        wait(fourth).await.unwrap().unwrap();
        let mut expected = entries(1..8, "e");
        expected.extend(entries(8..9, "new"));
        assert_eq!(all(&log), expected);
        expected
    };
    assert_eq!(all(&open(&dir).group(ONE)), expected);
}

#[tokio::test]
async fn purging_frees_entries_files_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    (options.segment_bytes, options.purge_threshold_bytes, options.cache_bytes_max) = (64 << 10, 128 << 10, 0);
    let body = "p".repeat(4_000);
    let expected = {
        let log = RaftLog::open(options.clone()).unwrap();
        let (one, two) = (log.group(ONE), log.group(TWO));
        append(&two, entries(1..4, "kept through every purge")).await;
        two.truncate_after(Some(2)).await.unwrap();
        for round in 0..10 {
            append(&one, entries(round * 20..round * 20 + 20, &body)).await;
            one.purge_to(round * 20 + 15).await.unwrap();
        }
        one.purge_to(3).await.unwrap();
        assert_eq!((one.first_index(), one.last_index()), (Some(196), Some(199)));
        all(&one)
    };
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 400_000, "{bytes} bytes left of 800,000");
    {
        let log = RaftLog::open(options.clone()).unwrap();
        assert_eq!(all(&log.group(ONE)), expected);
        assert_eq!(all(&log.group(TWO)), entries(1..3, "kept through every purge"));
        // A snapshot was installed: everything goes, and the log goes on further ahead.
        log.group(ONE).purge_to(1_000).await.unwrap();
        assert_eq!(log.group(ONE).last_index(), None);
    }
    {
        let log = RaftLog::open(options.clone()).unwrap();
        assert_eq!(log.group(ONE).last_index(), None);
        append(&log.group(ONE), entries(1_001..1_003, "after")).await;
    }
    assert_eq!(all(&RaftLog::open(options).unwrap().group(ONE)), entries(1_001..1_003, "after"));
}

#[tokio::test]
async fn a_log_that_is_opened_often_is_purged_all_the_same() {
    const KEPT_BYTES: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    (options.segment_bytes, options.purge_threshold_bytes) = (128 << 10, KEPT_BYTES);
    // Never as much in one run as is kept; long entries among short ones.
    let mut next = 1;
    for _ in 0..40 {
        let log = RaftLog::open(options.clone()).unwrap();
        let (one, two) = (log.group(ONE), log.group(TWO));
        for _ in 0..20 {
            append(&one, entries(next..next + 1, &"p".repeat(6_000 + next as usize % 7 * 1_000))).await;
            append(&two, entries(next..next + 1, "short")).await;
            next += 1;
        }
        if let Some(index) = one.index_behind(KEPT_BYTES) {
            one.purge_to(index).await.unwrap();
        }
        assert_eq!((two.index_behind(KEPT_BYTES), two.first_index()), (None, Some(1)), "little is kept as it is");
    }
    let log = RaftLog::open(options).unwrap().group(ONE);
    let kept: u64 = all(&log).iter().map(|entry| entry.bytes.len() as u64).sum();
    assert!((KEPT_BYTES * 3 / 4..KEPT_BYTES * 3 / 2).contains(&kept), "{kept} bytes of entries are kept");
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 3 * KEPT_BYTES, "{bytes} bytes in files, of {} that came", next * 9_000);
}

#[tokio::test]
async fn a_shut_down_log_says_so_and_writes_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let done = append_later(&log.group(ONE), entries(1..3, "x")).await.unwrap();
    log.shutdown();
    log.shutdown();
    wait(done).await.unwrap().unwrap();
    assert!(wait(log.closed()).await.is_none());
    assert!(matches!(append_later(&log.group(ONE), entries(3..4, "x")).await, Err(LogError::Closed)));
    assert!(matches!(log.group(ONE).put(b"vote", vec![]).await, Err(LogError::Closed)));
    drop(log);
    assert_eq!(all(&open(&dir).group(ONE)), entries(1..3, "x"));
}

#[tokio::test]
async fn two_logs_read_on_one_thread_stay_apart() {
    // Same file numbers, offsets and lengths, other content: what the engine's own cache of blocks would mix up.
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let logs: Vec<_> = ["left", "rite"]
        .iter()
        .zip(&dirs)
        .map(|(body, dir)| {
            let mut options = options(dir.path());
            options.cache_bytes_max = 0;
            (*body, RaftLog::open(options).unwrap().group(ONE))
        })
        .collect();
    for (body, log) in &logs {
        append(log, entries(1..4, body)).await;
    }
    for (body, log) in &logs {
        assert_eq!(all(log), entries(1..4, body));
    }
}

#[tokio::test]
async fn a_full_queue_makes_appends_wait_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    (options.queue_len_max, options.queue_bytes_max) = (2, 1_000);
    let log = RaftLog::open(options).unwrap().group(ONE);
    let body = "q".repeat(5_000);
    for index in 0..40 {
        drop(wait(append_later(&log, entries(index..index + 1, &body))).await.unwrap());
    }
    assert_eq!(all(&log).len(), 40);
}

#[test]
fn damage_is_an_error_that_names_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"not a folder").unwrap();
    let error = RaftLog::open(options(&path)).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}
