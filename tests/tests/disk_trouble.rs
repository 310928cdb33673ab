//! The warm tier on a disk in trouble: without room it says so and goes on later; once an fsync has failed it writes nothing more,
//! also where SQLite itself would not have noticed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use iris_client::{EntryId, MessageKey, UserId};
use iris_protocol::ShardId;
use iris_store::state::Entry;
use iris_store::warm::{Changes, Engine, ShardRow, WarmRecord, open};
use iris_store::{AppliedMark, StoreError, WarmStore};
use iris_tests::lossy_disk::LossyDisk;

const SHARD: ShardId = ShardId(1);
const BODY_LEN: usize = 60 * 1024;

/// More than an install writes before it moves SQLite's log into the file, twice.
const RECORDS: u64 = 1_200;

fn disk_at(dir: &Path) -> Option<LossyDisk> {
    if let Some(reason) = LossyDisk::unavailable() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(LossyDisk::mount(&dir.join("disk")).unwrap())
}

fn record(id: u64) -> WarmRecord {
    let user = UserId::new("alice").unwrap();
    let entry = Entry {
        id: EntryId(id),
        sender: UserId::new("bob").unwrap(),
        kind: 0,
        key: MessageKey(u128::from(id).to_be_bytes()),
        body: vec![7; BODY_LEN].into(),
    };
    WarmRecord::Entry { user, entry }
}

fn row(index: u64) -> ShardRow {
    let mark = AppliedMark { index, log_id: vec![1].into(), membership: vec![1].into() };
    ShardRow { mark, last_stamp: EntryId(index), ..ShardRow::default() }
}

fn store(engine: Engine, disk: &LossyDisk) -> Arc<dyn WarmStore> {
    open(engine, &disk.at().join("data")).unwrap()
}

#[test]
fn a_full_disk_is_said_and_goes_by() {
    let dir = tempfile::tempdir().unwrap();
    for engine in Engine::ALL {
        let Some(disk) = disk_at(dir.path()) else { return };
        let warm = store(engine, &disk);
        warm.checkpoint(SHARD, &Changes::new(&row(1))).unwrap();
        disk.set_room(Some(0));
        // SQLite writes over what its log has had before: as often as it takes.
        let full = (2..500).find_map(|index| warm.checkpoint(SHARD, &Changes::new(&row(index))).err());
        let full = full.expect("it never found the disk full");
        assert!(full.is_want(), "{engine}: {full}");
        let refused = warm.install(SHARD, &row(600), &mut (1..RECORDS).map(|id| Ok(record(id)))).unwrap_err();
        assert!(refused.is_want(), "{engine}: {refused}");
        disk.set_room(None);
        warm.install(SHARD, &row(600), &mut (1..50).map(|id| Ok(record(id)))).unwrap();
        warm.checkpoint(SHARD, &Changes::new(&row(700))).unwrap();
        drop(warm);
        assert_eq!(store(engine, &disk).shard(SHARD).unwrap().unwrap().mark.index, 700, "{engine}");
    }
}

/// The steps of an install are not fsynced, so only the move of SQLite's log finds out.
#[test]
fn a_failed_fsync_of_a_move_of_the_log_poisons_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = disk_at(dir.path()) else { return };
    let warm = store(Engine::Sqlite, &disk);
    warm.checkpoint(SHARD, &Changes::new(&row(1))).unwrap();
    let mut records = (1..RECORDS).map(|id| {
        disk.fail_sync(id > 10);
        Ok(record(id))
    });
    warm.install(SHARD, &row(9), &mut records).unwrap_err();
    disk.fail_sync(false);
    let next = warm.checkpoint(SHARD, &Changes::new(&row(2))).unwrap_err();
    assert!(matches!(next, StoreError::Poisoned { .. }), "{next}");
    // A new start sees what the disk has, and goes on.
    std::mem::forget(warm);
}
