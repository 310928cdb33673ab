//! The SQLite adapter of the warm tier: one file for all shards of a node, one connection that writes, a few that read, one
//! more for each view. A checkpoint is one transaction with one fsync; reads are short transactions, so that no reader but a
//! view holds SQLite's log (the WAL) open.

mod rows;
mod schema;
mod sweep;
mod verify;
mod view;
mod wal;
mod wal_mover;
mod wal_note;
mod write;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use iris_protocol::vnode::vnode_of;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use rusqlite::{Connection, OpenFlags, params};

use super::turns::{Turns, lock};
use super::{BucketId, Changes, CursorRow, DedupKey, FirstAppend, ShardRow, Verified, WarmRecord, WarmStore, WarmView};
use crate::StoreError;
use crate::checked_file::{create_private_dir, io_error, sync_dir};
use crate::settle::settle;
use crate::state::{Entry, PageFill, PageLimits};
use rows::{CURSOR, DEDUP, ENTRY};
use schema::{prepare_reader, prepare_writer, sqlite_error};
pub(super) use verify::verify_copy;
use view::View;
use wal_note::WalNote;

/// Reading connections: more than a home machine has cores; whoever finds none free waits for one short read.
const READERS: usize = 4;

/// The warm tier in one SQLite file. Cheap to clone.
#[derive(Clone)]
pub struct Warm {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    writer: Turns<Connection>,
    readers: Mutex<Vec<Connection>>,
    returned: Condvar,
    /// Moves the WAL into the file while others write.
    mover: Mutex<Connection>,
    /// How much of the WAL is synced and needed.
    note: WalNote,
    /// Pages of the WAL, as of the last commit.
    wal_pages: Arc<AtomicUsize>,
    /// Slots that are being filled: garbage in the file, until they are swapped in, that must not be removed.
    installing: Mutex<HashSet<i64>>,
    /// Views that are open.
    views: AtomicUsize,
    /// A durable write failed: what is on disk is unknown until the file is opened again.
    poisoned: AtomicBool,
}

impl Warm {
    /// Opens the file, or creates it (and its folder) for this user only.
    ///
    /// # Errors
    /// The disk's, a file of another version or of something else, or one that another process holds.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        for file in [path.to_owned(), wal_path(path)] {
            settle(&file).map_err(|source| io_error(&file, "fsync of what is there", source))?;
        }
        let note = WalNote::open(path);
        // Opening it drops what SQLite takes for torn.
        note.check(path)?;
        let writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        prepare_writer(path, &writer)?;
        let mover = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        schema::prepare_mover(path, &mover)?;
        let readers = (0..READERS).map(|_| open_reader(path)).collect::<Result<_, _>>()?;
        let inner = Inner {
            path: path.to_owned(),
            writer: Turns::new(writer),
            readers: Mutex::new(readers),
            returned: Condvar::new(),
            mover: Mutex::new(mover),
            note,
            wal_pages: Arc::default(),
            installing: Mutex::default(),
            views: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
        };
        let follows = inner.follow_wal(&mut inner.writer.next());
        follows.map_err(|source| sqlite_error(path, "opening the database", source))?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warm").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_NO_MUTEX | access)
        .map_err(|source| sqlite_error(path, "opening the database", source))
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    prepare_reader(path, &reader)?;
    Ok(reader)
}

impl Inner {
    fn open_reader(&self) -> Result<Connection, StoreError> {
        open_reader(&self.path)
    }

    /// Runs one short read, of one moment, on a connection of the pool.
    fn read<T>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, Fault>,
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
        // Ends when it goes, before the connection does.
        let moment = conn.unchecked_transaction().map_err(|source| sqlite_error(&self.path, action, source))?;
        read(&moment).map_err(|fault| fault.told(&self.path, action))
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

/// What went wrong, before the file's name is put to it.
enum Fault {
    Sqlite(rusqlite::Error),
    Corrupt { what: String, why: String },
    Store(StoreError),
}

impl Fault {
    fn told(self, path: &Path, action: &'static str) -> StoreError {
        match self {
            Self::Sqlite(source) => sqlite_error(path, action, source),
            Self::Corrupt { what, why } => StoreError::Corrupt { path: path.to_owned(), what, why },
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl WarmStore for Warm {
    fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        self.inner.read("reading the shards", view::shards)
    }

    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        self.inner.read("reading a shard's row", |conn| rows::shard_row(conn, shard))
    }

    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError> {
        self.inner.read("reading cursors", |conn| {
            let Some(slot) = rows::slot(conn, shard)? else { return Ok(()) };
            let mut select = conn.prepare_cached(&format!("SELECT {CURSOR} FROM cursors WHERE slot = ?1"))?;
            let mut rows = select.query([slot])?;
            while let Some(row) = rows.next()? {
                each(rows::cursor(row)?);
            }
            Ok(())
        })
    }

    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.inner.checkpoint(shard, changes)
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
            let Some(slot) = rows::slot(conn, shard)? else { return Ok((Vec::new(), false)) };
            let vnode = vnode_of(user);
            let after = after.max(rows::trimmed(conn, slot, vnode, user.as_str())?);
            let sql = format!(
                "SELECT {ENTRY} FROM entries
                 WHERE slot = ?1 AND vnode = ?2 AND user = ?3 AND id > ?4 AND id <= ?5 ORDER BY id"
            );
            let mut select = conn.prepare_cached(&sql)?;
            let (after, up_to) = (after.0.cast_signed(), up_to.0.cast_signed());
            let mut rows = select.query(params![slot, vnode.0, user.as_str(), after, up_to])?;
            let mut page = PageFill::new(limits);
            while let Some(row) = rows.next()? {
                let entry = rows::entry(row, 0, user)?;
                if !page.fits(entry.body.len()) {
                    return Ok((page.entries, true));
                }
                page.push(entry);
            }
            Ok((page.entries, false))
        })
    }

    fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError> {
        self.inner.read("looking up dedup keys", |conn| {
            let slot = match rows::slot(conn, shard)? {
                Some(slot) if !rows::dropped(conn, slot, bucket)? => slot,
                _ => return Ok(vec![None; keys.len()]),
            };
            keys.iter().map(|key| rows::find_dedup(conn, slot, bucket, *key)).collect()
        })
    }

    fn dedup_keys(&self, shard: ShardId, bucket: BucketId, each: &mut dyn FnMut(DedupKey)) -> Result<(), StoreError> {
        self.inner.read("reading dedup keys", |conn| {
            let slot = match rows::slot(conn, shard)? {
                Some(slot) if !rows::dropped(conn, slot, bucket)? => slot,
                _ => return Ok(()),
            };
            let sql = format!("SELECT {DEDUP} FROM dedup WHERE slot = ?1 AND bucket = ?2");
            let mut select = conn.prepare_cached(&sql)?;
            let mut rows = select.query(params![slot, bucket.0])?;
            while let Some(row) = rows.next()? {
                each(rows::dedup(row)?.1);
            }
            Ok(())
        })
    }

    fn view(&self, shard: ShardId) -> Result<Option<Box<dyn WarmView>>, StoreError> {
        Ok(View::open(&self.inner, shard)?.map(|view| Box::new(view) as Box<dyn WarmView>))
    }

    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        self.inner.install(shard, row, records)
    }

    fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.inner.remove(shard)
    }

    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
        self.inner.read("checking the database", |conn| view::verify(conn, each))
    }

    fn scrub(&self) -> Result<(), StoreError> {
        view::scrub(&self.inner)
    }

    fn path(&self) -> &Path {
        &self.inner.path
    }
}

/// The file of the log.
fn wal_path(path: &Path) -> PathBuf {
    let mut wal = path.to_owned().into_os_string();
    wal.push("-wal");
    wal.into()
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
