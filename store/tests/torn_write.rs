//! Fault 5, TORN-WRITE, at the log: the power goes at every byte of the last record, which nobody was told is durable. What came
//! before it is there, the record is there whole or not at all, and the log goes on.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use common::{all, append, append_later, entries, options, wait};
use iris_store::{GroupId, LogOptions, RaftLog};

const BODY: &str = "some bytes that are not all the same, 0123456789";

type Files = BTreeMap<String, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    std::fs::read_dir(dir).unwrap().map(read).collect()
}

/// The last record: in which file, and which bytes of it differ from what was there before.
fn last_record(before: &Files, after: &Files) -> (String, Range<usize>) {
    // Beside the note of how far the log is synced, which is as it was when the power goes.
    let is_log = |name: &str| name.ends_with(".raftlog");
    let changed: Vec<_> =
        after.iter().filter(|(name, bytes)| is_log(name) && before.get(*name) != Some(bytes)).collect();
    let [(name, bytes)] = changed[..] else { panic!("one write changes one file, not {}", changed.len()) };
    let old = |at: usize| before[name].get(at).copied().unwrap_or(0);
    let differs = |at: &usize| old(*at) != bytes[*at];
    let (first, last) = ((0..bytes.len()).find(differs).unwrap(), (0..bytes.len()).rfind(differs).unwrap());
    (name.clone(), first..last + 1)
}

/// A log whose last write has entries of two groups and a vote; its files before that write and after it.
async fn written(dir: &Path) -> (Files, Files) {
    let log = RaftLog::open(options(dir)).unwrap();
    let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&one, entries(1..4, BODY)).await;
    append(&two, entries(1..3, BODY)).await;
    one.put(b"vote", b"term 1".to_vec()).await.unwrap();
    let before = files(dir);
    append(&one, entries(4..6, BODY)).await;
    (before, files(dir))
}

/// What a start finds after such a tear; whether the record survived.
async fn found_in(dir: &Path) -> bool {
    let survived = {
        let log = RaftLog::open(options(dir)).unwrap();
        let one = all(&log.group(GroupId(1)));
        assert_eq!(all(&log.group(GroupId(2))), entries(1..3, BODY));
        assert_eq!(log.group(GroupId(1)).get(b"vote").unwrap().as_deref(), Some(&b"term 1"[..]));
        assert!(one == entries(1..4, BODY) || one == entries(1..6, BODY), "half of a record: {one:?}");
        let next = one.len() as u64 + 1;
        wait(append_later(&log.group(GroupId(1)), entries(next..next + 1, BODY)).await.unwrap())
            .await
            .unwrap()
            .unwrap();
        next == 6
    };
    let log = RaftLog::open(options(dir)).unwrap();
    let all_of_it = if survived { 1..7 } else { 1..5 };
    assert_eq!(all(&log.group(GroupId(1))), entries(all_of_it, BODY), "the log went on behind the tear");
    survived
}

async fn torn_at_every_byte(file_ends_there: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = written(&dir.path().join("log")).await;
    let (name, record) = last_record(&before, &after);
    assert!(record.len() > 100, "{record:?}");
    for at in record.start..=record.end {
        let torn = dir.path().join(format!("torn-{at}"));
        std::fs::create_dir(&torn).unwrap();
        for (file, bytes) in &before {
            let mut bytes = bytes.clone();
            if *file == name {
                bytes.resize(after[file].len(), 0);
                bytes[record.start..at].copy_from_slice(&after[file][record.start..at]);
                if file_ends_there {
                    bytes.truncate(at);
                }
            }
            std::fs::write(torn.join(file), bytes).unwrap();
        }
        let survived = found_in(&torn).await;
        assert_eq!(survived, at == record.end, "torn behind byte {} of {}", at - record.start, record.len());
        std::fs::remove_dir_all(&torn).unwrap();
    }
}

fn refused(dir: &Path, files: &Files) -> String {
    std::fs::create_dir(dir).unwrap();
    for (file, bytes) in files {
        std::fs::write(dir.join(file), bytes).unwrap();
    }
    RaftLog::open(options(dir)).expect_err("synced records are gone").to_string()
}

/// A disk that says yes to an fsync and forgets: the file ends between two records.
#[tokio::test]
async fn a_log_that_is_shorter_than_it_was_synced_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (before, mut after) = written(&dir.path().join("log")).await;
    let (name, _) = last_record(&before, &after);
    let end = before[&name].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    after.get_mut(&name).unwrap().truncate(end);
    let refused = refused(&dir.path().join("left"), &after);
    assert!(refused.contains("bytes, and was synced up to"), "{refused}");
}

/// The same, and the newest of several files is not there any more.
#[tokio::test]
async fn a_log_without_its_newest_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("log");
    let mut written = {
        let log = RaftLog::open(LogOptions { segment_bytes: 4_096, ..options(&from) }).unwrap();
        for index in 1..200 {
            append(&log.group(GroupId(1)), entries(index..index + 1, BODY)).await;
        }
        files(&from)
    };
    let logs: Vec<String> = written.keys().filter(|name| name.ends_with(".raftlog")).cloned().collect();
    assert!(logs.len() > 1, "{logs:?}");
    written.remove(logs.last().unwrap());
    let refused = refused(&dir.path().join("left"), &written);
    assert!(refused.contains("is gone, and was synced up to"), "{refused}");
}

/// A disk that was full for the head of a new file: the log went on with the one before it, and gave it room in advance again.
#[tokio::test]
async fn an_empty_file_behind_the_one_in_use_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (_, after) = written(&dir.path().join("log")).await;
    let left = dir.path().join("left");
    std::fs::create_dir(&left).unwrap();
    for (file, bytes) in &after {
        std::fs::write(left.join(file), bytes).unwrap();
    }
    std::fs::write(left.join("0000000000000002.raftlog"), b"").unwrap();
    assert!(found_in(&left).await, "all of it is there");
}

/// The log gives its files room in advance: behind the tear are zeros.
#[tokio::test]
async fn a_record_torn_at_any_byte_before_zeros_goes_alone() {
    torn_at_every_byte(false).await;
}

#[tokio::test]
async fn a_record_torn_at_any_byte_at_the_end_of_the_file_goes_alone() {
    torn_at_every_byte(true).await;
}
