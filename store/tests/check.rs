//! The offline check: damage and contradictions are found, and nothing is changed by looking.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{append, contents, entries, options, wait};
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::check::{AreaReport, Checkpointed, GroupSpan, LogJudge, check_across, check_log, check_warm};
use iris_store::warm::{Engine, made_with};
use iris_store::{GroupId, Item, NewMessage, RaftLog, ShardStore, StoreError, StoreOptions, encode_batch, warm};
use rusqlite::Connection;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (path, bytes) in contents(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
}

/// Entries are as [`entries`] makes them.
struct Judge;

impl LogJudge for Judge {
    fn entry(&self, _group: GroupId, index: u64, bytes: &Bytes) -> Result<(), String> {
        (bytes == &entries(index..index + 1, "body")[0].bytes).then_some(()).ok_or_else(|| "other bytes".to_owned())
    }
    fn keys(&self) -> &'static [&'static [u8]] {
        &[b"vote"]
    }
    fn value(&self, _group: GroupId, _key: &[u8], bytes: &[u8]) -> Result<(), String> {
        (bytes == b"term 7").then_some(()).ok_or_else(|| "other bytes".to_owned())
    }
}

async fn write_log(dir: &Path) {
    let log = RaftLog::open(options(dir)).unwrap();
    for group in [1, 100] {
        append(&log.group(GroupId(group)), entries(5..25, "body")).await;
        log.group(GroupId(group)).put(b"vote", b"term 7".to_vec()).await.unwrap();
    }
    log.group(GroupId(100)).purge_to(9).await.unwrap();
    append(&log.group(GroupId(100)), entries(25..30, "body")).await;
    log.shutdown();
    assert!(wait(log.closed()).await.is_none());
}

#[tokio::test]
async fn a_log_is_read_to_the_end_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).await;
    // As a kill leaves it: with the space that the last file was given ahead.
    let last =
        contents(dir.path()).into_keys().rfind(|path| path.extension().is_some_and(|is| is == "raftlog")).unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.extend([0; 100_000]);
    std::fs::write(&last, &bytes).unwrap();
    let before = contents(dir.path());
    let (report, groups) = check_log(dir.path(), &Judge);
    assert_eq!(report.findings, []);
    assert_eq!(report.counts, [("groups", 2), ("entries", 40), ("values", 2)]);
    let span = |group, span, purged| GroupSpan { group: GroupId(group), span: Some(span), purged };
    assert_eq!(groups, [span(1, (5, 24), None), span(100, (10, 29), Some(9))]);
    // Something else than zeros there is no record that anyone was told of, or damage.
    let at = bytes.len() - 50_000;
    bytes[at] = 1;
    std::fs::write(&last, &bytes).unwrap();
    let (report, _) = check_log(dir.path(), &Judge);
    assert!(report.findings.len() == 1 && report.findings[0].why.contains("no record"), "{report:?}");
    std::fs::write(&last, &before[&last]).unwrap();
    assert!(contents(dir.path()) == before, "nothing was changed");
    let (report, _) = check_log(&dir.path().join("not there"), &Judge);
    assert!(!report.is_fine() && !dir.path().join("not there").exists());
}

#[tokio::test]
async fn every_flipped_byte_of_a_log_is_found() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_log(dir.path()).await;
    let mut missed = Vec::new();
    for (path, good) in contents(dir.path()) {
        // Says how far the others are synced, and is not needed to read them.
        if path.ends_with("synced") {
            continue;
        }
        for at in (0..good.len()).step_by(7) {
            let copied = copies.path().join("log");
            copy(dir.path(), &copied);
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            std::fs::write(copied.join(path.file_name().unwrap()), bad).unwrap();
            if check_log(&copied, &Judge).0.is_fine() {
                missed.push((path.file_name().unwrap().to_owned(), at));
            }
            std::fs::remove_dir_all(&copied).unwrap();
        }
    }
    assert_eq!(missed, []);
}

fn message(n: u64) -> Item {
    let user = |n: u64| UserId::new(format!("user{n}")).unwrap();
    Item::Message(NewMessage {
        sender: user(n % 3),
        key: MessageKey(u128::from(n).to_be_bytes()),
        recipient: user(n % 7),
        kind: 1,
        stamp: EntryId(1_000 + n),
        body: Bytes::from(format!("needle {n:04}")),
    })
}

/// A data folder as a killed node leaves it: SQLite's WAL full, its index there.
fn write_warm(engine: Engine, data: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let tier = warm::open(engine, folder.path()).unwrap();
    for shard in [1, 2] {
        let store = ShardStore::open(tier.clone(), ShardId(shard), StoreOptions::default()).unwrap();
        let items: Vec<Item> = (0..100).map(message).collect();
        store.apply(1, Bytes::from_static(b"id"), &encode_batch(&items)).unwrap();
        let cursor = Item::Cursor {
            user: UserId::new("user1").unwrap(),
            device: iris_protocol::DeviceId::new("phone").unwrap(),
            cursor: EntryId(1_050),
            seen: EntryId(1_050),
        };
        store.apply(2, Bytes::from_static(b"id"), &encode_batch(&[cursor])).unwrap();
        store.checkpoint().unwrap();
    }
    copy(folder.path(), data);
}

fn has_finding(report: &AreaReport, wanted: &str) {
    let found = report.findings.iter().any(|finding| format!("{} {}", finding.what, finding.why).contains(wanted));
    assert!(found, "{wanted:?} in {report:#?}");
}

#[test]
fn rows_are_read_and_left_as_they_are() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_warm(engine, dir.path());
        let before = contents(dir.path());
        let (report, shards) = check_warm(dir.path());
        assert_eq!(report.findings, [], "{engine}");
        assert_eq!(report.counts, [("shards", 2), ("entries", 200), ("cursors", 2), ("dedup keys", 200)]);
        assert_eq!(shards.keys().copied().collect::<Vec<_>>(), [ShardId(1), ShardId(2)]);
        assert!(contents(dir.path()) == before, "{engine}: nothing was changed");
    }
}

#[test]
fn a_flipped_byte_in_any_copy_of_a_message_is_found() {
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_warm(engine, dir.path());
        let mut flipped = 0;
        for (path, good) in contents(dir.path()) {
            // Newest versions of pages lie at the end of SQLite's log and of sled's file.
            let places: Vec<usize> = (0..good.len()).filter(|&at| good[at..].starts_with(b"needle 00")).collect();
            if places.is_empty() || path.ends_with("engine") {
                continue;
            }
            let mut bad = good.clone();
            places.iter().for_each(|at| bad[at + 2] ^= 1);
            flipped += places.len();
            std::fs::write(&path, bad).unwrap();
        }
        assert!(flipped >= 100, "{engine}: {flipped}");
        let (report, _) = check_warm(dir.path());
        assert!(!report.is_fine(), "{engine}: {report:#?}");
    }
}

#[test]
fn any_flipped_byte_of_sqlites_log_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_warm(Engine::Sqlite, dir.path());
    let path = dir.path().join("inboxes.db-wal");
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 300).chain(0..60) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        let (report, _) = check_warm(dir.path());
        assert!(!report.is_fine(), "byte {at} of {}", good.len());
    }
    // A second round through the file leaves frames of the first behind its end.
    std::fs::write(&path, &good).unwrap();
    let db = Connection::open(dir.path().join("inboxes.db")).unwrap();
    db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    db.execute("DELETE FROM cursors", []).unwrap();
    let copied = dir.path().join("copy");
    copy(dir.path(), &copied);
    assert_eq!(std::fs::metadata(copied.join("inboxes.db-wal")).unwrap().len(), good.len() as u64);
    let (report, _) = check_warm(&copied);
    assert_eq!((report.findings, report.counts[2]), (vec![], ("cursors", 0)));
}

#[test]
fn rows_that_contradict_each_other_are_found() {
    let vnode = "UPDATE entries SET vnode = vnode + 1 WHERE id = 1007";
    let stamp = "UPDATE shards SET slot = (SELECT max(slot) FROM shards)";
    for (damage, wanted) in [
        (vnode, "entry 1007 of user0"),
        (vnode, "another vnode"),
        (stamp, "checksum of its slot"),
        ("UPDATE entries SET sum = sum + 1 WHERE id = 1009", "entry 1009 of user2 checksum"),
        ("UPDATE cursors SET cursor = 1", "a cursor checksum"),
        ("UPDATE dedup SET digest = 1 WHERE id = 1011", "checksum, of the key of entry 1011"),
        ("UPDATE dedup SET bucket = 77 WHERE id = 1011", "bucket 77"),
        ("UPDATE shards SET row = x'00'", "the row of shard 1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_warm(Engine::Sqlite, dir.path());
        Connection::open(dir.path().join("inboxes.db")).unwrap().execute_batch(damage).unwrap();
        let (report, _) = check_warm(dir.path());
        has_finding(&report, wanted);
    }
    // Right by their checksums, but not what the shard's row says.
    let dir = tempfile::tempdir().unwrap();
    let tier = warm::open(Engine::Sqlite, dir.path()).unwrap();
    let user = UserId::new("a").unwrap();
    let entry = |id| iris_store::Entry {
        id: EntryId(id),
        sender: user.clone(),
        kind: 1,
        key: MessageKey([1; 16]),
        body: Bytes::new(),
    };
    let device = iris_protocol::DeviceId::new("d").unwrap();
    let key = warm::DedupKey { key: MessageKey([1; 16]), sender: user.clone(), id: EntryId(9), digest: 1 };
    // Another shard's table of buckets, whose keys are of later entries.
    let store = ShardStore::open(tier.clone(), ShardId(4), StoreOptions::default()).unwrap();
    store.apply(1, Bytes::from_static(b"id"), &encode_batch(&[message(1)])).unwrap();
    store.checkpoint().unwrap();
    let dedup = tier.shard(ShardId(4)).unwrap().unwrap().dedup;
    let bucket = dedup.buckets[0].id;
    let row = warm::ShardRow { last_stamp: EntryId(5), dedup, ..warm::ShardRow::default() };
    let records = [
        warm::WarmRecord::Entry { user: user.clone(), entry: entry(7) },
        warm::WarmRecord::Cursor(warm::CursorRow { user: user.clone(), device, cursor: EntryId(8), seen: EntryId(1) }),
        warm::WarmRecord::Dedup { bucket, key },
    ];
    tier.install(ShardId(3), &row, &mut records.into_iter().map(Ok)).unwrap();
    drop((store, tier));
    let (report, _) = check_warm(dir.path());
    has_finding(&report, "shard 3: entry 7 of a it is beyond the shard's last id 5");
    has_finding(&report, "shard 3: the cursor of a on d 8 is beyond");
    has_finding(&report, "shard 3: the dedup key of entry 9 in bucket 0 it is outside");
    assert_eq!(report.findings.len(), 3);
}

#[test]
fn a_checkpoint_and_its_log_must_meet() {
    let log = |span, purged| vec![GroupSpan { group: GroupId(100), span, purged }];
    let cases = [
        (log(None, None), None, ""),
        (vec![], None, ""),
        (log(Some((0, 9)), None), None, ""),
        (log(Some((0, 9)), None), Some(9), ""),
        (log(Some((5, 9)), Some(4)), Some(4), ""),
        (log(None, Some(9)), Some(9), ""),
        (vec![], Some(3), "is at 3, but its log holds nothing"),
        (log(Some((5, 9)), Some(4)), Some(3), "holds 3, but its log begins behind 4"),
        (log(Some((5, 9)), None), Some(3), "begins behind 4"),
        (log(None, Some(9)), Some(8), "begins behind 9"),
        (log(Some((5, 9)), Some(4)), None, "holds nothing, but its log begins behind 4"),
    ];
    for (groups, applied, wanted) in cases {
        let state = Checkpointed { group: GroupId(100), name: "shard 0".to_owned(), applied };
        let report = check_across(&groups, &[state]);
        if wanted.is_empty() {
            assert_eq!(report.findings, [], "{groups:?} {applied:?}");
        } else {
            has_finding(&report, wanted);
        }
    }
}

#[test]
fn a_checkpoint_ahead_of_its_log_is_noted_and_no_damage() {
    let log = |span, purged| vec![GroupSpan { group: GroupId(100), span, purged }];
    let cases = [
        (log(Some((0, 9)), None), 10, "is at 10, but its log ends at 9"),
        (log(Some((5, 9)), Some(4)), 100, "is at 100, but its log ends at 9"),
        (log(None, None), 3, "is at 3, but its log holds nothing"),
    ];
    for (groups, applied, wanted) in cases {
        let state = Checkpointed { group: GroupId(100), name: "shard 0".to_owned(), applied: Some(applied) };
        let report = check_across(&groups, &[state]);
        assert!(report.is_fine(), "{:?}", report.findings);
        assert!(report.notes.len() == 1 && report.notes[0].why.contains(wanted), "{:?}", report.notes);
        assert!(report.counts.contains(&("ahead of their log", 1)), "whoever shows only counts shows it too");
    }
}

#[test]
fn a_folder_keeps_the_engine_it_was_made_with() {
    for (made, other) in [(Engine::Sqlite, Engine::Sled), (Engine::Sled, Engine::Sqlite)] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert_eq!(made_with(&data).unwrap(), None);
        drop(warm::open(made, &data).unwrap());
        assert_eq!(made_with(&data).unwrap(), Some(made));
        let error = warm::open(other, &data).err().unwrap();
        assert!(matches!(error, StoreError::Engine { .. }), "{error}");
        assert!(error.to_string().contains(&format!("set store.engine = \"{made}\"")), "{error}");
        drop(warm::open(made, &data).unwrap());
        assert_eq!(made.to_string().parse(), Ok(made));
        std::fs::write(data.join("engine"), "x").unwrap();
        assert!(matches!(warm::open(made, &data), Err(StoreError::Corrupt { .. })));
        let (report, _) = check_warm(&data);
        has_finding(&report, "is damaged");
    }
    assert!("Sqlite".parse::<Engine>().is_err());
    let (report, _) = check_warm(tempfile::tempdir().unwrap().path());
    has_finding(&report, "no node has made one here");
}
