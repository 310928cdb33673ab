//! What is written: checkpoints, installed snapshots, and the transactions they are made of. A checkpoint is one transaction
//! with one fsync. An install is many, none of which reads or is read by anyone else, and none of which is fsynced but the
//! last: SQLite's log keeps their order, so the fsync that makes the swap durable makes all before it durable.

use iris_protocol::ShardId;
use iris_protocol::vnode::vnode_of;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::sync::atomic::Ordering;

use super::{Fault, Inner, rows, schema};
use crate::StoreError;
use crate::warm::turns::lock;
use crate::warm::{Changes, ShardRow, WarmRecord};

/// Records of one step of an install, and their bytes: some 20 ms of the writing connection.
const STEP_RECORDS: usize = 2_000;
const STEP_BYTES: usize = 1024 * 1024;

/// Bytes of records after which an install moves SQLite's log into the file, so that no checkpoint's commit has to.
const MOVE_EVERY_BYTES: usize = 32 * 1024 * 1024;

/// How much somebody waits for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Next in turn, and durable when it returns.
    Durable,
    /// One step of many: lets others pass, and is durable with the next durable one.
    Step,
}

impl Inner {
    /// Runs one writing transaction.
    pub(super) fn write<T>(
        &self,
        weight: Weight,
        action: &'static str,
        write: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.check_poison()?;
        let mut conn = if weight == Weight::Durable { self.writer.next() } else { self.writer.patient() };
        let done = transact(&mut conn, weight, write).map_err(|fault| {
            // A full disk was rolled back and can be tried again once there is room, as can what never was SQLite's fault;
            // anything else leaves doubt.
            if let Fault::Sqlite(error) = &fault
                && !found_no_room(error)
            {
                self.poisoned.store(true, Ordering::SeqCst);
            }
            fault.told(&self.path, action)
        })?;
        // Whatever comes of it, the transaction is committed.
        self.tend_wal(&conn, schema::WAL_PAGES, schema::WAL_BYTES_MAX);
        if weight == Weight::Durable {
            self.note.take(&conn);
        }
        Ok(done)
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(StoreError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }

    pub(super) fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.write(Weight::Durable, "writing a checkpoint", |tx| {
            let slot = match rows::slot(tx, shard)? {
                Some(slot) => slot,
                None => claim(tx, new_slot(tx)?)?,
            };
            write_changes(tx, slot, changes)?;
            rows::put_shard(tx, shard, slot, changes.row)
        })?;
        self.tidy()
    }

    pub(super) fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        // What an earlier install left first: the disk needs room for the old and the new, not for a third.
        self.remove_garbage()?;
        // Before the slot is committed as garbage: from then on a sweep may come across it.
        let filling = self.write(Weight::Step, "beginning an install", |tx| Ok(Filling::new(self, new_slot(tx)?)))?;
        let slot = filling.slot;
        // What is garbage now, the next checkpoints remove: the caller waits to go on.
        self.fill(slot, records).and_then(|()| {
            self.write(Weight::Durable, "finishing an install", |tx| {
                let old = rows::slot(tx, shard)?;
                claim(tx, slot)?;
                if let Some(old) = old {
                    tx.execute("INSERT INTO garbage (slot) VALUES (?1)", [old])?;
                }
                rows::put_shard(tx, shard, slot, row)
            })
        })
    }

    /// Writes the records into a slot nobody reads.
    fn fill(
        &self,
        slot: i64,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        let mut moved_at = 0;
        loop {
            // Read before the lock is taken: the file they come from may be slow.
            let (mut step, mut bytes) = (Vec::with_capacity(STEP_RECORDS), 0);
            while step.len() < STEP_RECORDS && bytes < STEP_BYTES {
                let Some(record) = records.next().transpose()? else { break };
                bytes += len(&record);
                step.push(record);
            }
            if step.is_empty() {
                return Ok(());
            }
            self.write(Weight::Step, "installing", |tx| step.iter().try_for_each(|record| put(tx, slot, record)))?;
            moved_at += bytes;
            if moved_at >= MOVE_EVERY_BYTES {
                moved_at = 0;
                self.move_wal()?;
            }
        }
    }

    pub(super) fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.write(Weight::Durable, "removing a shard", |tx| {
            if let Some(slot) = rows::slot(tx, shard)? {
                tx.execute("INSERT INTO garbage (slot) VALUES (?1)", [slot])?;
                tx.execute("DELETE FROM shards WHERE shard = ?1", [shard.0])?;
            }
            Ok(())
        })?;
        self.remove_garbage()
    }
}

/// A slot that is being filled, and must not be removed as long as this lives.
struct Filling<'a> {
    inner: &'a Inner,
    slot: i64,
}

impl<'a> Filling<'a> {
    fn new(inner: &'a Inner, slot: i64) -> Self {
        lock(&inner.installing).insert(slot);
        Self { inner, slot }
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        lock(&self.inner.installing).remove(&self.slot);
    }
}

/// One transaction: committed when it returns, or rolled back.
fn transact<T>(
    conn: &mut Connection,
    weight: Weight,
    write: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    conn.execute_batch(match weight {
        Weight::Durable => "PRAGMA synchronous = FULL",
        Weight::Step => "PRAGMA synchronous = NORMAL",
    })?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = write(&tx)?;
    tx.commit()?;
    Ok(done)
}

/// A full disk, in SQLite's words: for a file, and for the log's index in shared memory. The transaction was rolled back.
fn found_no_room(error: &rusqlite::Error) -> bool {
    let index = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error().is_some_and(|error| error.code == ErrorCode::DiskFull || error.extended_code == index)
}

/// A slot that is nobody's; garbage until it is claimed.
fn new_slot(tx: &Connection) -> Result<i64, Fault> {
    tx.execute("INSERT INTO garbage DEFAULT VALUES", [])?;
    Ok(tx.last_insert_rowid())
}

fn claim(tx: &Connection, slot: i64) -> Result<i64, Fault> {
    tx.execute("DELETE FROM garbage WHERE slot = ?1", [slot])?;
    Ok(slot)
}

fn write_changes(tx: &Connection, slot: i64, changes: &Changes<'_>) -> Result<(), Fault> {
    for inbox in changes.inboxes {
        for entry in inbox.entries {
            rows::put_entry(tx, slot, inbox.vnode, inbox.user, entry)?;
        }
    }
    for trim in changes.trims {
        rows::put_trimmed(tx, slot, trim.vnode, &trim.user, trim.up_to)?;
    }
    let mut remove = tx.prepare_cached("DELETE FROM cursors WHERE slot = ?1 AND user = ?2 AND device = ?3")?;
    for (user, device) in changes.cursors_removed {
        remove.execute(rusqlite::params![slot, user.as_str(), device.as_str()])?;
    }
    for row in changes.cursors {
        rows::put_cursor(tx, slot, row)?;
    }
    for bucket in changes.dedup {
        for key in &bucket.keys {
            rows::put_dedup(tx, slot, bucket.bucket, key)?;
        }
    }
    for bucket in changes.dedup_removed {
        rows::put_dropped(tx, slot, *bucket)?;
    }
    Ok(())
}

fn put(tx: &Connection, slot: i64, record: &WarmRecord) -> Result<(), Fault> {
    match record {
        WarmRecord::Entry { user, entry } => rows::put_entry(tx, slot, vnode_of(user), user, entry),
        WarmRecord::Cursor(row) => rows::put_cursor(tx, slot, row),
        WarmRecord::Dedup { bucket, key } => rows::put_dedup(tx, slot, *bucket, key),
    }
}

/// About what a record takes in the file.
fn len(record: &WarmRecord) -> usize {
    const ROW: usize = 100;
    match record {
        WarmRecord::Entry { entry, .. } => ROW + entry.body.len(),
        WarmRecord::Cursor(_) | WarmRecord::Dedup { .. } => ROW,
    }
}
