//! Reading a shard as a whole: a view that is pinned by a read transaction of its own, and the check of everything.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iris_protocol::{EntryId, ShardId, UserId, VnodeId};
use rusqlite::{Connection, Row};

use super::rows::{self, CURSOR, DEDUP, ENTRY, corrupt};
use super::{Fault, Inner};
use crate::StoreError;
use crate::state::Entry;
use crate::warm::{Finding, ShardRow, Verified, WarmRecord, WarmView};

/// A shard at one checkpoint. Its connection's transaction keeps what it needs until it is dropped.
pub(super) struct View {
    conn: Connection,
    slot: i64,
    row: ShardRow,
    /// Dropped after the connection, whose transaction it counts.
    counted: Counted,
}

/// From before a view's transaction begins until after it has ended: it is in the way of emptying the WAL.
struct Counted(Arc<Inner>);

impl Counted {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.views.fetch_add(1, Ordering::SeqCst);
        Self(inner.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.views.fetch_sub(1, Ordering::SeqCst);
    }
}

impl View {
    pub(super) fn open(inner: &Arc<Inner>, shard: ShardId) -> Result<Option<Self>, StoreError> {
        let told = |fault: Fault| fault.told(&inner.path, "opening a view");
        let counted = Counted::new(inner);
        let conn = inner.open_reader()?;
        // Ends with the connection.
        conn.execute_batch("BEGIN").map_err(|error| told(error.into()))?;
        let Some(slot) = rows::slot(&conn, shard).map_err(told)? else { return Ok(None) };
        let Some(row) = rows::shard_row(&conn, shard).map_err(told)? else { return Ok(None) };
        Ok(Some(Self { conn, slot, row, counted }))
    }
}

impl WarmView for View {
    fn row(&self) -> &ShardRow {
        &self.row
    }

    fn each(&mut self, each: &mut dyn FnMut(WarmRecord) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let read = records(&self.conn, self.slot, &mut |found| match found {
            Ok((_, record)) => each(record).map_err(Fault::Store),
            Err(fault) => Err(fault),
        });
        read.map_err(|fault| fault.told(&self.counted.0.path, "reading a view"))
    }
}

type Found = Result<(Option<VnodeId>, WarmRecord), Fault>;

/// Hands over every record of a slot that counts, damaged ones as errors; ends at the first error that comes back.
fn records(conn: &Connection, slot: i64, each: &mut dyn FnMut(Found) -> Result<(), Fault>) -> Result<(), Fault> {
    entries(conn, slot, each)?;
    let sql = format!("SELECT {CURSOR} FROM cursors WHERE slot = ?1");
    rows_of(conn, &sql, slot, &mut |row| each(rows::cursor(row).map(|row| (None, WarmRecord::Cursor(row)))))?;
    let sql = format!(
        "SELECT {DEDUP} FROM dedup WHERE slot = ?1 AND bucket NOT IN (SELECT bucket FROM dropped WHERE slot = ?1)"
    );
    rows_of(conn, &sql, slot, &mut |row| {
        each(rows::dedup(row).map(|(bucket, key)| (None, WarmRecord::Dedup { bucket, key })))
    })
}

fn entries(conn: &Connection, slot: i64, each: &mut dyn FnMut(Found) -> Result<(), Fault>) -> Result<(), Fault> {
    let sql = format!("SELECT vnode, user, {ENTRY} FROM entries WHERE slot = ?1 ORDER BY vnode, user, id");
    let mut inbox: Option<(VnodeId, UserId, EntryId)> = None;
    rows_of(conn, &sql, slot, &mut |row| {
        let mut read = || -> Result<Option<(VnodeId, UserId, Entry)>, Fault> {
            let (vnode, name) = (VnodeId(row.get(0)?), rows::text(row, 1)?);
            let same = inbox.take().filter(|(at, user, _)| *at == vnode && user.as_bytes() == name);
            let (_, user, trimmed) = match same {
                Some(same) => same,
                None => {
                    let user = UserId::new(name).map_err(|error| corrupt("an inbox's name".to_owned(), error))?;
                    let trimmed = rows::trimmed(conn, slot, vnode, user.as_str())?;
                    (vnode, user, trimmed)
                }
            };
            let entry = rows::entry(row, 2, &user);
            inbox = Some((vnode, user.clone(), trimmed));
            Ok(Some((vnode, user, entry?)).filter(|(_, _, entry)| entry.id > trimmed))
        };
        match read() {
            Ok(None) => Ok(()),
            Ok(Some((vnode, user, entry))) => each(Ok((Some(vnode), WarmRecord::Entry { user, entry }))),
            Err(fault) => each(Err(fault)),
        }
    })
}

fn rows_of(
    conn: &Connection,
    sql: &str,
    slot: i64,
    each: &mut dyn FnMut(&Row<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut select = conn.prepare_cached(sql)?;
    let mut rows = select.query([slot])?;
    while let Some(row) = rows.next()? {
        each(row)?;
    }
    Ok(())
}

/// Checks SQLite's own structures, then every row. What can be stepped over is told to `each`.
pub(super) fn verify(conn: &Connection, each: &mut dyn FnMut(Verified)) -> Result<(), Fault> {
    let mut check = conn.prepare("PRAGMA integrity_check(20)")?;
    let mut lines = check.query([])?;
    loop {
        let line: String = match lines.next() {
            Ok(Some(row)) => row.get(0)?,
            Ok(None) => break,
            // Damage so deep that the check itself ends.
            Err(error) => {
                each(damage("the database", error));
                break;
            }
        };
        if line != "ok" {
            each(damage("the database", line));
        }
    }
    drop(lines);
    for shard in shards(conn)? {
        if let Err(fault) = verify_shard(conn, shard, each) {
            each(told(fault, shard));
        }
    }
    Ok(())
}

fn verify_shard(conn: &Connection, shard: ShardId, each: &mut dyn FnMut(Verified)) -> Result<(), Fault> {
    let Some(slot) = rows::slot(conn, shard)? else { return Ok(()) };
    let Some(row) = rows::shard_row(conn, shard)? else { return Ok(()) };
    each(Verified::Shard(shard, row));
    records(conn, slot, &mut |found| {
        each(match found {
            Ok((vnode, record)) => Verified::Record { vnode, record },
            Err(fault) => told(fault, shard),
        });
        Ok(())
    })
}

/// Checks everything on a connection of its own, and ends at the first damage. SQLite's own structures have no checksums: a bit
/// of an index shows only here, as rows that it does not lead to.
pub(super) fn scrub(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let told = |fault: Fault| fault.told(&inner.path, "checking the database");
    let _counted = Counted::new(inner);
    let conn = inner.open_reader()?;
    // Ends with the connection.
    conn.execute_batch("BEGIN").map_err(|error| told(error.into()))?;
    let mut first = None;
    verify(&conn, &mut |verified| {
        if let Verified::Damaged(Finding { what, why }) = verified {
            first.get_or_insert(Fault::Corrupt { what, why });
        }
    })
    .map_err(told)?;
    first.map_or(Ok(()), |fault| Err(told(fault)))
}

pub(super) fn shards(conn: &Connection) -> Result<Vec<ShardId>, Fault> {
    let mut select = conn.prepare_cached("SELECT shard FROM shards ORDER BY shard")?;
    let found = select.query_map([], |row| row.get(0).map(ShardId))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn told(fault: Fault, shard: ShardId) -> Verified {
    match fault {
        Fault::Corrupt { what, why } => damage(&format!("shard {shard}: {what}"), why),
        Fault::Sqlite(error) => damage(&format!("shard {shard}"), error),
        Fault::Store(error) => damage(&format!("shard {shard}"), error),
    }
}

fn damage(what: &str, why: impl std::fmt::Display) -> Verified {
    Verified::Damaged(Finding { what: what.to_owned(), why: why.to_string() })
}
