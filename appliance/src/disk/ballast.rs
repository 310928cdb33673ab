//! A file that only takes room, to be given back when somebody else has filled the disk to the last byte: the reserve is a promise
//! this node keeps, not others. What comes free is enough for votes and for what makes room. Made again once there is plenty.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

/// Its name in the data folder.
const FILE: &str = "reserve";

/// The part of the reserve it takes (an eighth): half of what entries of a leader never get.
const PART: u64 = 8;

/// Bytes written at once where the system can't give a file room without that.
const PIECE: usize = 64 * 1024;

/// The file, whether it is there or not.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    is_there: bool,
}

impl Ballast {
    /// As it is in a data folder.
    pub(super) fn new(data: &Path, reserve_bytes: u64) -> Self {
        let (path, bytes) = (data.join(FILE), reserve_bytes / PART);
        let is_there = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
        Self { path, bytes, is_there }
    }

    /// Takes the room, if it is not taken. One that can't be is no harm; half of one is removed.
    pub(super) fn take(&mut self) {
        if self.is_there || self.bytes == 0 {
            return;
        }
        match fill(&self.path, self.bytes) {
            Ok(()) => self.is_there = true,
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no room could be set aside");
                let _ = std::fs::remove_file(&self.path);
            }
        }
    }

    /// Gives the room back, if it is taken.
    pub(super) fn give_back(&mut self) {
        if !std::mem::take(&mut self.is_there) {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "the room set aside can't be given back");
            }
            _ => tracing::info!(bytes = self.bytes, "gave back the room that was set aside"),
        }
    }
}

fn fill(path: &Path, bytes: u64) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    #[cfg(target_os = "linux")]
    if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_ok() {
        return file.sync_all();
    }
    write_out(&mut file, bytes)?;
    file.sync_all()
}

/// Not zeros: some file systems keep those for nothing.
fn write_out(file: &mut File, bytes: u64) -> Result<()> {
    let piece: Vec<u8> = (0..PIECE).map(|at| (at ^ at >> 8).wrapping_mul(167) as u8).collect();
    let mut left = bytes;
    while left > 0 {
        let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&piece[..len])?;
        left -= len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_once_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut ballast = Ballast::new(dir.path(), 8_000_000);
        ballast.give_back();
        ballast.take();
        ballast.take();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1_000_000);
        // The next start finds it.
        let mut ballast = Ballast::new(dir.path(), 8_000_000);
        ballast.give_back();
        assert!(!path.exists());
        let mut file = File::create(&path).unwrap();
        write_out(&mut file, 200_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 200_000);
        Ballast::new(dir.path(), 0).take();
    }
}
