//! Before a file is opened: what will be read from it must be what its disk has. The process before this one may have ended
//! between a write and its fsync, or because an fsync failed. In the first case the system has what was written in memory and
//! would hand it out as if it were stored; in the second Linux calls it clean, so that no later fsync ever writes it, and hands it
//! out until it needs the memory. So: fsync everything, which writes the first kind, then have the system forget what it holds,
//! so that of the second kind only what the disk really has is seen.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::path::Path;

use crate::checked_file::sync_dir;

/// Settles a file, or everything below a folder; what isn't there is settled.
pub(crate) fn settle(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(found) if found.is_dir() => {
            for child in std::fs::read_dir(path)? {
                settle(&child?.path())?;
            }
            // The names in it.
            File::open(path)?.sync_all()
        }
        Ok(_) => {
            let file = File::open(path)?;
            file.sync_all()?;
            forget(&file)?;
            sync_dir(path)
        }
        Err(error) => Err(error),
    }
}

/// Drops the system's copy of a file that is on disk.
#[cfg(target_os = "linux")]
fn forget(file: &File) -> Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        // A kernel or a file system that can't: what was just synced is on disk all the same.
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        forgotten => Ok(forgotten?),
    }
}

/// Other systems keep a failed write marked as such.
#[cfg(not(target_os = "linux"))]
fn forget(_file: &File) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_settled_and_what_is_not_there_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("below/one"), b"one").unwrap();
        settle(dir.path()).unwrap();
        settle(&dir.path().join("below/one")).unwrap();
        settle(&dir.path().join("nothing")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("below/one")).unwrap(), b"one");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_forgets_what_it_held() {
        // On a disk: a file system in memory has nothing else to read from.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 4096]).unwrap();
        if !is_held(&path) {
            eprintln!("skipped: this file system doesn't say what is held in memory");
            return;
        }
        settle(&path).unwrap();
        assert!(!is_held(&path));
    }

    /// Whether the first byte can be read without asking the disk.
    #[cfg(target_os = "linux")]
    fn is_held(path: &Path) -> bool {
        let (file, mut byte) = (File::open(path).unwrap(), [0; 1]);
        let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(&file, &mut buffers, 0, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
    }
}
