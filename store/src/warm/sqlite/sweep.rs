//! Gives back what is no longer needed, in steps so small that a checkpoint in between hardly waits: slots that nobody reads,
//! trimmed entries, removed buckets, free pages.

use std::sync::atomic::Ordering;

use iris_protocol::{EntryId, VnodeId};
use rusqlite::{Connection, OptionalExtension, params};

use super::write::Weight;
use super::{Fault, Inner, rows};
use crate::StoreError;
use crate::warm::BucketId;
use crate::warm::turns::lock;

/// Rows of one step: some 5 ms.
const STEP_ROWS: usize = 1_000;

/// Steps after one checkpoint: more rows than one can bring, so that the file keeps its size.
const STEPS_MAX: usize = 128;

/// Pages given back to the system at a time (2,000 stalled everything for 0.6 s), and times after one checkpoint.
const VACUUM_PAGES: usize = 128;
const VACUUMS_MAX: usize = 8;

/// Free pages that are kept for what comes next: 16 MiB, or a quarter of the file.
const FREE_PAGES_MIN: i64 = 4_096;
const FREE_SHARE: i64 = 4;

const ACTION: &str = "removing what is no longer needed";

impl Inner {
    /// What a checkpoint leaves to do. A full disk is no reason to fail here: the checkpoint itself is written.
    pub(super) fn tidy(&self) -> Result<(), StoreError> {
        let tidied = self.sweep().and_then(|()| self.vacuum());
        match tidied {
            Err(error) if !self.poisoned.load(Ordering::SeqCst) => {
                tracing::warn!(%error, "removing old entries is put off");
                Ok(())
            }
            other => other,
        }
    }

    fn sweep(&self) -> Result<(), StoreError> {
        for _ in 0..STEPS_MAX {
            if !self.write(Weight::Step, ACTION, |tx| self.sweep_step(tx))? {
                break;
            }
        }
        Ok(())
    }

    /// Deletes every slot that nobody reads and nobody fills.
    pub(super) fn remove_garbage(&self) -> Result<(), StoreError> {
        while self.write(Weight::Step, ACTION, |tx| match self.garbage(tx)? {
            Some(slot) => remove_rows(tx, slot).map(|()| true),
            None => Ok(false),
        })? {}
        Ok(())
    }

    /// Whether there may be more.
    fn sweep_step(&self, tx: &Connection) -> Result<bool, Fault> {
        if let Some(slot) = self.garbage(tx)? {
            remove_rows(tx, slot)?;
            return Ok(true);
        }
        let mut room = STEP_ROWS;
        while room > 0 {
            match remove_trimmed(tx, room)? {
                Some(rows) => room = room.saturating_sub(rows + 1),
                None => return remove_dropped(tx),
            }
        }
        Ok(true)
    }

    /// A slot to remove. One that a shard points to is none, whatever the list says.
    fn garbage(&self, tx: &Connection) -> Result<Option<i64>, Fault> {
        let mut select = tx.prepare_cached("SELECT slot FROM garbage WHERE slot NOT IN (SELECT slot FROM shards)")?;
        let mut found = select.query([])?;
        while let Some(row) = found.next()? {
            let slot = row.get(0)?;
            if !lock(&self.installing).contains(&slot) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    fn vacuum(&self) -> Result<(), StoreError> {
        for _ in 0..VACUUMS_MAX {
            let more = self.write(Weight::Step, "giving space back", |tx| {
                let free: i64 = tx.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
                let pages: i64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
                if free <= FREE_PAGES_MIN.max(pages / FREE_SHARE) {
                    return Ok(false);
                }
                // It moves a page each time it is stepped.
                let mut vacuum = tx.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
                let mut moved = vacuum.query([])?;
                while moved.next()?.is_some() {}
                Ok(true)
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Some rows of a slot, and when none is left, the slot.
fn remove_rows(tx: &Connection, slot: i64) -> Result<(), Fault> {
    const ROWS: [&str; 5] = [
        "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE slot = ?1 LIMIT ?2)",
        "DELETE FROM dedup WHERE (slot, bucket, key, sender) IN
            (SELECT slot, bucket, key, sender FROM dedup WHERE slot = ?1 LIMIT ?2)",
        "DELETE FROM cursors WHERE (slot, user, device) IN
            (SELECT slot, user, device FROM cursors WHERE slot = ?1 LIMIT ?2)",
        "DELETE FROM trimmed WHERE (slot, vnode, user) IN
            (SELECT slot, vnode, user FROM trimmed WHERE slot = ?1 LIMIT ?2)",
        "DELETE FROM dropped WHERE (slot, bucket) IN (SELECT slot, bucket FROM dropped WHERE slot = ?1 LIMIT ?2)",
    ];
    for sql in ROWS {
        if tx.prepare_cached(sql)?.execute(params![slot, STEP_ROWS as i64])? > 0 {
            return Ok(());
        }
    }
    tx.execute("DELETE FROM garbage WHERE slot = ?1", [slot])?;
    Ok(())
}

/// Some entries of one trimmed inbox; how many, or nothing if no inbox is left.
fn remove_trimmed(tx: &Connection, room: usize) -> Result<Option<usize>, Fault> {
    let mut select = tx.prepare_cached("SELECT slot, vnode, user FROM trimmed LIMIT 1")?;
    let found: Option<(i64, u16, String)> =
        select.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((slot, vnode, user)) = found else { return Ok(None) };
    let up_to: EntryId = rows::trimmed(tx, slot, VnodeId(vnode), &user)?;
    let sql = "DELETE FROM entries WHERE rowid IN
        (SELECT rowid FROM entries WHERE slot = ?1 AND vnode = ?2 AND user = ?3 AND id <= ?4 ORDER BY id LIMIT ?5)";
    let removed = tx.prepare_cached(sql)?.execute(params![slot, vnode, user, up_to.0.cast_signed(), room as i64])?;
    if removed < room {
        let sql = "DELETE FROM trimmed WHERE slot = ?1 AND vnode = ?2 AND user = ?3";
        tx.prepare_cached(sql)?.execute(params![slot, vnode, user])?;
    }
    Ok(Some(removed))
}

/// Some keys of one removed bucket; whether there was one.
fn remove_dropped(tx: &Connection) -> Result<bool, Fault> {
    let mut select = tx.prepare_cached("SELECT slot, bucket FROM dropped LIMIT 1")?;
    let found: Option<(i64, u32)> = select.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((slot, bucket)) = found else { return Ok(false) };
    // Its checksum: a wrong number here would remove keys that count.
    rows::dropped(tx, slot, BucketId(bucket))?;
    let sql = "DELETE FROM dedup WHERE (slot, bucket, key, sender) IN
        (SELECT slot, bucket, key, sender FROM dedup WHERE slot = ?1 AND bucket = ?2 LIMIT ?3)";
    let removed = tx.prepare_cached(sql)?.execute(params![slot, bucket, STEP_ROWS as i64])?;
    if removed < STEP_ROWS {
        tx.prepare_cached("DELETE FROM dropped WHERE slot = ?1 AND bucket = ?2")?.execute(params![slot, bucket])?;
    }
    Ok(true)
}
