//! Room on a disk: how much is free, and whether an error says that something was wanting (room, quota, open files) rather than
//! broken: what failed for that may be tried again once there is some.

use std::io::{Error, ErrorKind};
use std::path::Path;

use rusqlite::ErrorCode;

use crate::StoreError;

/// Bytes that this user may still write to the disk `path` lies on; none if the system doesn't say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether it failed for want of room or of open files.
pub(crate) fn is_want(error: &Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        || error.raw_os_error().is_some_and(|number| {
            [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&number)
        })
}

impl StoreError {
    /// Whether it failed for want of room or of open files, and left things as they were: it may be tried again. What a
    /// failed write left in doubt is never this.
    #[must_use]
    pub fn is_want(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_want(source),
            Self::Sqlite { source, .. } => match source.sqlite_error() {
                // SQLite's word for every file that it could not open.
                Some(error) => matches!(error.code, ErrorCode::DiskFull | ErrorCode::CannotOpen),
                None => false,
            },
            Self::NoRoom { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_is_told_from_damage() {
        for number in [libc_number(rustix::io::Errno::NOSPC), libc_number(rustix::io::Errno::MFILE)] {
            assert!(is_want(&Error::from_raw_os_error(number)));
        }
        assert!(!is_want(&Error::from_raw_os_error(libc_number(rustix::io::Errno::IO))));
        assert!(!is_want(&Error::other("fsync")));
        assert!(free_bytes(Path::new("/")).is_some() && free_bytes(Path::new("/not there")).is_none());
    }

    fn libc_number(errno: rustix::io::Errno) -> i32 {
        errno.raw_os_error()
    }
}
