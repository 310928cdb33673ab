//! The SQLite file's schema, its version and the settings of a connection. Owns what a file must look like to be opened.
//!
//! Entries are a rowid table, written in order, and a narrow index by inbox: tables without rowids wrote 40 times the data,
//! and names are stored as they are, so that `sqlite3` shows an inbox to whoever looks for it. Dedup keys are small rows that
//! arrive nearly sorted (UUIDv7): for them the table is its own index. Every row carries a checksum.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use crate::StoreError;

/// `PRAGMA user_version` of the schema below. 0 is an empty file.
pub(super) const SCHEMA_VERSION: i64 = 2;

/// "Iris" in `PRAGMA application_id`.
const APPLICATION_ID: i64 = 0x4972_6973;

/// Page cache of the writing connection, and of each reading one: 64 MiB together.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
const READER_CACHE_KIB: i64 = 8 * 1024;

/// Pages after which the WAL is moved into the file: 256 MiB, so that a page changed by many checkpoints is written back once.
pub(super) const WAL_PAGES: usize = 65_536;

/// The WAL above which a checkpoint stops everything to empty it: readers held it open for too long.
pub(super) const WAL_BYTES_MAX: u64 = 2 * 65_536 * 4_096;

/// Statements that the writing connection keeps prepared: all it has.
const STATEMENTS: usize = 64;

/// No statement waits longer for another's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// `garbage` numbers the slots (never twice, hence AUTOINCREMENT) and lists those nobody may read: one being filled, or one
/// being removed. `trimmed` and `dropped` hide what a checkpoint removed until small steps have deleted it.
const SCHEMA: &str = "
BEGIN IMMEDIATE;
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY, slot INTEGER NOT NULL, slot_sum INTEGER NOT NULL, row BLOB NOT NULL, sum INTEGER NOT NULL
) STRICT;
CREATE TABLE garbage (slot INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;
CREATE TABLE entries (
    slot INTEGER NOT NULL, vnode INTEGER NOT NULL, user TEXT NOT NULL, id INTEGER NOT NULL,
    kind INTEGER NOT NULL, sender TEXT NOT NULL, key BLOB NOT NULL, sum INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_inbox ON entries (slot, vnode, user, id);
CREATE TABLE trimmed (
    slot INTEGER NOT NULL, vnode INTEGER NOT NULL, user TEXT NOT NULL, up_to INTEGER NOT NULL, sum INTEGER NOT NULL,
    PRIMARY KEY (slot, vnode, user)
) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
    slot INTEGER NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, cursor INTEGER NOT NULL, seen INTEGER NOT NULL,
    sum INTEGER NOT NULL, PRIMARY KEY (slot, user, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE dedup (
    slot INTEGER NOT NULL, bucket INTEGER NOT NULL, key BLOB NOT NULL, sender TEXT NOT NULL, id INTEGER NOT NULL,
    digest INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (slot, bucket, key, sender)
) STRICT, WITHOUT ROWID;
CREATE TABLE dropped (
    slot INTEGER NOT NULL, bucket INTEGER NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (slot, bucket)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 2;
COMMIT;
";

/// Nothing moves the WAL into the file but [`super::wal_mover`], which hears of a failed fsync: SQLite itself ignores its outcome after
/// a commit and when the last connection closes, and tries again as if nothing had been.
fn leave_the_wal(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Sets up the writing connection, and the schema in an empty file.
pub(super) fn prepare_writer(path: &Path, conn: &Connection) -> Result<(), StoreError> {
    let failed = |source| sqlite_error(path, "opening the database", source);
    conn.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    leave_the_wal(conn).map_err(failed)?;
    let fresh = check_version(path, conn)? == 0;
    if fresh {
        // Only before the first table can these be chosen.
        conn.execute_batch(&format!(
            "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {APPLICATION_ID};"
        ))
        .map_err(failed)?;
    }
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{WRITER_CACHE_KIB};
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {};",
        WAL_PAGES * 4_096
    ))
    .map_err(failed)?;
    if fresh {
        conn.execute_batch(SCHEMA).map_err(failed)?;
    }
    Ok(())
}

/// The file's version: this one, or 0 if it is empty.
pub(super) fn check_version(path: &Path, conn: &Connection) -> Result<i64, StoreError> {
    let failed = |source| sqlite_error(path, "opening the database", source);
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if version != SCHEMA_VERSION && (version != 0 || tables != 0) {
        return Err(StoreError::Version { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    Ok(version)
}

/// Sets up the connection that moves the WAL.
pub(super) fn prepare_mover(path: &Path, conn: &Connection) -> Result<(), StoreError> {
    conn.busy_timeout(BUSY_TIMEOUT)
        .and_then(|()| leave_the_wal(conn))
        .and_then(|()| {
            conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;")
        })
        .map_err(|source| sqlite_error(path, "opening the database", source))
}

/// Sets up a reading connection.
pub(super) fn prepare_reader(path: &Path, conn: &Connection) -> Result<(), StoreError> {
    conn.busy_timeout(BUSY_TIMEOUT)
        .and_then(|()| conn.execute_batch(&format!("PRAGMA query_only = ON; PRAGMA cache_size = -{READER_CACHE_KIB};")))
        .map_err(|source| sqlite_error(path, "opening the database for reading", source))
}

/// SQLite's error in our words: damage and foreign files are told apart from a failing disk.
pub(super) fn sqlite_error(path: &Path, action: &'static str, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path: path.to_owned(), what: "the database".to_owned(), why: source.to_string() }
        }
        _ => StoreError::Sqlite { path: path.to_owned(), action, source: Arc::new(source) },
    }
}
