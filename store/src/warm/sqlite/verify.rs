//! Checking a file that nobody uses without changing a byte of it or of its side files. Opening a database whose WAL has
//! content writes, even for reading: its index is made anew, and the last to close it moves the WAL into the file. So the check
//! opens another name of the same file (a hard link, or a copy where there are none), read-only, with a copy of the WAL beside.

use std::path::Path;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

use super::schema::{check_version, prepare_reader, sqlite_error};
use super::{connect, view, wal, wal_path};
use crate::StoreError;
use crate::checked_file::io_error;
use crate::warm::{Finding, Verified};

/// Checks the database at `path`, by way of the folder `scratch` on the same disk.
pub(in crate::warm) fn verify_copy(
    path: &Path,
    scratch: &Path,
    each: &mut dyn FnMut(Verified),
) -> Result<(), StoreError> {
    let linked = scratch.join("inboxes.db");
    if std::fs::hard_link(path, &linked).is_err() {
        std::fs::copy(path, &linked).map_err(|source| io_error(path, "copying it for the check", source))?;
    }
    let log = wal_path(path);
    if log.exists() {
        let checked = wal::check(&log).map_err(|source| io_error(&log, "reading it for the check", source))?;
        if let Some(why) = checked {
            each(Verified::Damaged(Finding { what: log.display().to_string(), why }));
        }
        let copied = std::fs::copy(&log, wal_path(&linked));
        copied.map_err(|source| io_error(&log, "copying it for the check", source))?;
    }
    let failed = |source| sqlite_error(path, "checking the database", source);
    let conn = connect(&linked, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // The link's content is the original's.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    prepare_reader(path, &conn)?;
    check_version(path, &conn)?;
    view::verify(&conn, each).map_err(|fault| fault.told(path, "checking the database"))
}
