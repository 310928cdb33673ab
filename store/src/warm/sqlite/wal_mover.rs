//! When SQLite's log (the WAL) is moved into the file: once it has grown, after a commit; during an install, on a connection of
//! its own; at a clean end. SQLite would do the first and the last by itself, and ignore what came of it: after an fsync of the log
//! or of the file failed it would try again and take the second fsync, of pages that the system calls clean since the first, for
//! success. So it is told not to ([`super::schema`]), and here any failure but a full disk or a reader in the way poisons the
//! store.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, ErrorCode};

use super::{Fault, Inner, wal_path};
use crate::StoreError;
use crate::warm::turns::lock;

const ACTION: &str = "moving SQLite's log into the file";

impl Inner {
    /// Follows how long the log is from the commits of the writing connection.
    pub(super) fn follow_wal(&self, writer: &mut Connection) -> rusqlite::Result<()> {
        let pages = self.wal_pages.clone();
        writer.wal_hook(Some(move |_: &mut _, count: i32| {
            pages.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))
    }

    /// After a commit: moves a log that has grown. One above `bytes_max`, held open by readers for too long, is emptied, which
    /// stops everything; but a view is in the way for as long as it is copied out: then this waits for a later commit rather
    /// than for it.
    ///
    /// Nothing is lost when it fails: what was committed stays in the log. A full disk, or a reader that doesn't end, is left
    /// to a later commit; after any other failure nothing more is written.
    pub(super) fn tend_wal(&self, writer: &Connection, pages_max: usize, bytes_max: u64) {
        let views = self.views.load(Ordering::SeqCst);
        let mode = if views == 0 && self.wal_bytes() > bytes_max {
            "TRUNCATE"
        } else if self.wal_pages.load(Ordering::Relaxed) >= pages_max.max(1) {
            "PASSIVE"
        } else {
            return;
        };
        if let Err(error) = self.move_on(writer, mode) {
            let later = is_for_later(&error);
            tracing::warn!(%error, path = %self.path.display(), later, "{ACTION} failed");
        }
    }

    /// Moves the log on a connection of its own, so that others go on writing meanwhile.
    pub(super) fn move_wal(&self) -> Result<(), StoreError> {
        let moved = self.move_on(&lock(&self.mover), "PASSIVE");
        moved.map_err(|error| Fault::from(error).told(&self.path, ACTION))
    }

    /// At the end: so that the next start has nothing to read of it.
    fn empty_wal(&self) {
        if self.poisoned.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.move_on(&lock(&self.mover), "TRUNCATE") {
            tracing::warn!(%error, path = %self.path.display(), "{ACTION} failed; the next start does it");
        }
    }

    fn move_on(&self, conn: &Connection, mode: &str) -> rusqlite::Result<()> {
        let moved = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        match &moved {
            Ok(()) => self.note.moved(conn),
            Err(error) if is_for_later(error) => {}
            Err(_) => self.poisoned.store(true, Ordering::SeqCst),
        }
        moved
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(wal_path(&self.path)).map_or(0, |wal| wal.len())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.empty_wal();
    }
}

fn is_for_later(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use iris_protocol::ShardId;

    use super::*;
    use crate::warm::{Changes, ShardRow, Warm, WarmStore};

    #[test]
    fn a_log_that_cannot_be_emptied_now_fails_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let warm = Warm::open(&dir.path().join("warm.db")).unwrap();
        let row = ShardRow::default();
        warm.checkpoint(ShardId(1), &Changes::new(&row)).unwrap();
        let wal = || std::fs::metadata(dir.path().join("warm.db-wal")).unwrap().len();
        {
            // SQLite refuses it within a transaction.
            let conn = warm.inner.writer.next();
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            warm.inner.tend_wal(&conn, 0, 0);
            conn.execute_batch("ROLLBACK").unwrap();
        }
        assert!(wal() > 0 && !warm.inner.poisoned.load(Ordering::SeqCst));
        warm.checkpoint(ShardId(1), &Changes::new(&row)).unwrap();
        warm.inner.tend_wal(&warm.inner.writer.next(), 0, 0);
        assert_eq!(wal(), 0, "a later one does it");
    }
}
