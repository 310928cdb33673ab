//! The SQLite adapter of the warm tier: one file for all shards of a node, one connection that writes, a few that read.
//! A checkpoint is one transaction with one fsync; reads are single statements, so that no reader holds the WAL open.
//! SQLite doesn't checksum its pages: each entry, row and block carries a checksum that is checked when it is read.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iris_protocol::versioned;
use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::schema::{WAL_BYTES_MAX, prepare_reader, prepare_writer, sqlite_error};
use super::{Changes, ShardRow, WarmStore};
use crate::StoreError;
use crate::checked_file::{create_private_dir, io_error, sync_dir};
use crate::state::{Entry, PageFill, PageLimits};

/// Reading connections: more than a home machine has cores; whoever finds none free waits for one short read.
const READERS: usize = 4;

/// The warm tier in one SQLite file. Cheap to clone.
#[derive(Clone)]
pub struct Warm {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    returned: Condvar,
    /// A checkpoint failed: what is on disk is unknown until the file is opened again.
    poisoned: AtomicBool,
}

impl Warm {
    /// Opens the file, or creates it (and its folder) for this user only.
    ///
    /// # Errors
    /// The disk's, a file of another version or of something else, or one that another process holds.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        let failed = |source| sqlite_error(path, "opening the database", source);
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let writer = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        prepare_writer(path, &writer)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
            prepare_reader(path, &reader)?;
            readers.push(reader);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                writer: Mutex::new(writer),
                readers: Mutex::new(readers),
                returned: Condvar::new(),
                poisoned: AtomicBool::new(false),
            }),
        })
    }
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Inner {
    /// Runs one short read on a connection of the pool.
    fn read<T>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let mut readers = lock(&self.readers);
        let conn = loop {
            match readers.pop() {
                Some(conn) => break conn,
                None => readers = self.returned.wait(readers).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(readers);
        let lent = Lent { inner: self, conn: Some(conn) };
        let Some(conn) = &lent.conn else { return Err(StoreError::InUse { path: self.path.clone() }) };
        read(conn).map_err(|error| match error {
            ReadError::Sqlite(source) => sqlite_error(&self.path, action, source),
            ReadError::Corrupt { what, why } => StoreError::Corrupt { path: self.path.clone(), what, why },
            ReadError::Store(error) => error,
        })
    }

    fn write_checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> rusqlite::Result<()> {
        let mut writer = lock(&self.writer);
        let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_changes(&tx, shard, changes)?;
        tx.commit()?;
        self.bound_wal(&writer)
    }

    /// The automatic move of the WAL gives up when a reader is in the way; it must not do so for ever.
    fn bound_wal(&self, writer: &Connection) -> rusqlite::Result<()> {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        if std::fs::metadata(wal).is_ok_and(|wal| wal.len() > WAL_BYTES_MAX) {
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(())
    }
}

/// A reading connection that finds its way back, whatever happens.
struct Lent<'a> {
    inner: &'a Inner,
    conn: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        lock(&self.inner.readers).extend(self.conn.take());
        self.inner.returned.notify_one();
    }
}

enum ReadError {
    Sqlite(rusqlite::Error),
    Corrupt { what: String, why: String },
    Store(StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn corrupt(what: String, why: impl std::fmt::Display) -> ReadError {
    ReadError::Corrupt { what, why: why.to_string() }
}

impl WarmStore for Warm {
    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        self.inner.read("reading a shard's row", |conn| {
            let mut select = conn.prepare_cached("SELECT row, sum FROM shards WHERE shard = ?1")?;
            let found: Option<(Vec<u8>, i64)> =
                select.query_row([shard.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((row, sum)) = found else { return Ok(None) };
            let what = || format!("the row of shard {shard}");
            if sum != xxh3_64(&row).cast_signed() {
                return Err(corrupt(what(), "checksum"));
            }
            versioned::decode(&row).map(Some).map_err(|error| corrupt(what(), error))
        })
    }

    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(UserId, DeviceId, EntryId)) -> Result<(), StoreError> {
        self.inner.read("reading cursors", |conn| {
            let mut select = conn.prepare_cached("SELECT user, device, cursor FROM cursors WHERE shard = ?1")?;
            let mut rows = select.query([shard.0])?;
            while let Some(row) = rows.next()? {
                let damaged = |error| corrupt(format!("a cursor of shard {shard}"), error);
                let user = UserId::new(text(row, 0)?).map_err(damaged)?;
                let device = DeviceId::new(text(row, 1)?).map_err(damaged)?;
                each(user, device, id(row, 2)?);
            }
            Ok(())
        })
    }

    fn dedup_blocks(
        &self,
        shard: ShardId,
        from: EntryId,
        each: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.inner.read("reading dedup keys", |conn| {
            let sql = "SELECT block FROM dedup WHERE shard = ?1 AND last >= ?2 ORDER BY last";
            let mut select = conn.prepare_cached(sql)?;
            let mut rows = select.query(params![shard.0, from.0.cast_signed()])?;
            while let Some(row) = rows.next()? {
                let block = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                each(block).map_err(ReadError::Store)?;
            }
            Ok(())
        })
    }

    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        if self.inner.poisoned.load(Ordering::SeqCst) {
            return Err(StoreError::Poisoned { path: self.inner.path.clone() });
        }
        self.inner.write_checkpoint(shard, changes).map_err(|source| {
            // A full disk was rolled back and can be tried again once there is room; anything else leaves doubt.
            if source.sqlite_error_code() != Some(ErrorCode::DiskFull) {
                self.inner.poisoned.store(true, Ordering::SeqCst);
            }
            sqlite_error(&self.inner.path, "writing a checkpoint", source)
        })
    }

    fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError> {
        self.inner.read("reading an inbox", |conn| {
            let sql = "SELECT id, kind, sender, key, sum, body FROM entries
                WHERE shard = ?1 AND vnode = ?2 AND user = ?3 AND id > ?4 AND id <= ?5 ORDER BY id";
            let mut select = conn.prepare_cached(sql)?;
            let (after, up_to) = (after.0.cast_signed(), up_to.0.cast_signed());
            let mut rows = select.query(params![shard.0, vnode_of(user).0, user.as_str(), after, up_to])?;
            let mut page = PageFill::new(limits);
            while let Some(row) = rows.next()? {
                let body = row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?;
                if !page.fits(body.len()) {
                    return Ok((page.entries, true));
                }
                page.push(entry(row, shard, user, body)?);
            }
            Ok((page.entries, false))
        })
    }

    fn path(&self) -> &Path {
        &self.inner.path
    }
}

fn write_changes(tx: &Transaction<'_>, shard: ShardId, changes: &Changes<'_>) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO entries (shard, vnode, user, id, kind, sender, key, sum, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for inbox in changes.inboxes {
        for entry in inbox.entries {
            insert.execute(params![
                shard.0,
                inbox.vnode.0,
                inbox.user.as_str(),
                entry.id.0.cast_signed(),
                entry.kind,
                entry.sender.as_str(),
                &entry.key.0[..],
                checksum(inbox.user, entry),
                &entry.body[..],
            ])?;
        }
    }
    let mut upsert = tx.prepare_cached(
        "INSERT INTO cursors (shard, user, device, cursor) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET cursor = max(cursor, excluded.cursor)",
    )?;
    for (user, device, cursor) in changes.cursors {
        upsert.execute(params![shard.0, user.as_str(), device.as_str(), cursor.0.cast_signed()])?;
    }
    let mut insert = tx.prepare_cached("INSERT INTO dedup (shard, first, last, block) VALUES (?1, ?2, ?3, ?4)")?;
    for block in changes.dedup {
        insert.execute(params![shard.0, block.first.0.cast_signed(), block.last.0.cast_signed(), block.bytes])?;
    }
    let from = changes.row.dedup_from.0.cast_signed();
    tx.prepare_cached("DELETE FROM dedup WHERE shard = ?1 AND last < ?2")?.execute(params![shard.0, from])?;
    let row = versioned::encode(changes.row);
    tx.prepare_cached("INSERT OR REPLACE INTO shards (shard, row, sum) VALUES (?1, ?2, ?3)")?.execute(params![
        shard.0,
        row,
        xxh3_64(&row).cast_signed()
    ])?;
    Ok(())
}

fn entry(row: &Row<'_>, shard: ShardId, user: &UserId, body: &[u8]) -> Result<Entry, ReadError> {
    let id = id(row, 0)?;
    let damaged = |why: &dyn std::fmt::Display| corrupt(format!("entry {id} of {user} in shard {shard}"), why);
    let key = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
    let entry = Entry {
        id,
        kind: row.get(1)?,
        sender: UserId::new(text(row, 2)?).map_err(|error| damaged(&error))?,
        key: MessageKey(key.try_into().map_err(|_| damaged(&"a key that isn't 16 bytes"))?),
        body: Bytes::copy_from_slice(body),
    };
    if row.get::<_, i64>(4)? != checksum(user, &entry) {
        return Err(damaged(&"checksum"));
    }
    Ok(entry)
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    row.get_ref(column)?.as_bytes().map_err(rusqlite::Error::from)
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<EntryId> {
    row.get::<_, i64>(column).map(|id| EntryId(id.cast_unsigned()))
}

/// Over everything an entry says, its inbox included: a row in the wrong place is as bad as a wrong byte.
fn checksum(user: &UserId, entry: &Entry) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(user.as_bytes());
    hash.update(&[0]);
    hash.update(entry.sender.as_bytes());
    hash.update(&[0]);
    hash.update(&entry.id.0.to_le_bytes());
    hash.update(&entry.kind.to_le_bytes());
    hash.update(&entry.key.0);
    hash.update(&entry.body);
    hash.digest().cast_signed()
}

/// SQLite gives its side files the rights of the main one: it must be private before SQLite sees it.
fn create_private(path: &Path) -> Result<(), StoreError> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        create_private_dir(dir).map_err(|source| io_error(path, "creating its folder", source))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => sync_dir(path).map_err(|source| io_error(path, "fsync of its folder", source)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error(path, "creating the database", error)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A statement that panicked was rolled back with its transaction; the connection is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
