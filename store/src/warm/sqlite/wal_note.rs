//! How much of SQLite's log (the WAL) is synced and needed, in a small file beside it. SQLite reads the WAL up to the first frame
//! whose checksum is wrong and ignores the rest without a word: right for a commit that a power cut broke off, and wrong for a
//! synced one with a flipped bit, with which checkpoints go that were durable, or half of them where some of their pages are in
//! the main file already. So the number of synced frames is noted after each durable commit, and an opening that would find
//! fewer is refused before SQLite has seen the file.
//!
//! A commit's note is not fsynced: that would double the cost of a checkpoint. A process that dies leaves it exact; after a power cut it
//! may be older and forbid less, or of another round through the WAL, which its salt tells. That nothing is needed any more is fsynced:
//! the WAL may be begun anew from then on, and a power cut in the middle of that leaves less than an older note demands.
//!
//! Little endian: magic 8 bytes, salt u64, frames u64, xxh3 u64 of all before. Less than a sector, so it is never torn.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::wal::{self, Walked};
use crate::StoreError;
use crate::checked_file::{io_error, open_private};
use crate::warm::turns::lock;

const MAGIC: &[u8; 8] = b"iris-wn1";
const NOTE_LEN: usize = 32;

/// Frames of one round through the WAL; none where all of them are in the main file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Needed {
    salt: u64,
    frames: u64,
}

pub(super) struct WalNote {
    file: Option<File>,
    wal: PathBuf,
    noted: Mutex<Needed>,
}

impl WalNote {
    /// Reads it, or makes one. One that can't be read says nothing.
    pub(super) fn open(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.to_owned().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let name = beside("-synced");
        let file = open_private(&name);
        let file = file
            .inspect_err(
                |error| tracing::warn!(path = %name.display(), %error, "how far the store is synced can't be noted"),
            )
            .ok();
        let mut bytes = [0; NOTE_LEN];
        let read = file.as_ref().is_some_and(|file| file.read_exact_at(&mut bytes, 0).is_ok());
        let noted = read.then(|| decode(&bytes)).flatten().unwrap_or_default();
        Self { file, wal: beside("-wal"), noted: Mutex::new(noted) }
    }

    /// Whether the WAL still has what is noted.
    ///
    /// # Errors
    /// It has not: damage. Or the system's.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        let Needed { salt, frames } = *lock(&self.noted);
        if frames == 0 {
            return Ok(());
        }
        let walked = wal::walk(&self.wal).map_err(|source| io_error(&self.wal, "reading it", source))?;
        let why = match walked {
            // A clean end leaves none; another round is newer than the note.
            Walked::Empty => return Ok(()),
            Walked::Frames { salt: found, .. } if found != salt => return Ok(()),
            Walked::Frames { whole, .. } if whole >= frames => return Ok(()),
            Walked::Frames { whole, .. } => format!("{whole} of {frames} synced frames are whole"),
            Walked::BadHead(why) => why.to_owned(),
        };
        Err(StoreError::Corrupt { path: path.to_owned(), what: "its log (the -wal file)".to_owned(), why })
    }

    /// Notes where the WAL stands after a durable commit.
    pub(super) fn take(&self, conn: &Connection) {
        if let Some((all, moved)) = standing(conn)
            && let Ok(Some(salt)) = salt_of(&self.wal)
        {
            self.put(Needed { salt, frames: if moved == all { 0 } else { all } });
        }
    }

    /// Notes, after a move into the main file, whether the WAL is needed any more: the next commit may begin it anew.
    pub(super) fn moved(&self, conn: &Connection) {
        if standing(conn).is_some_and(|(all, moved)| all == moved) {
            let salt = lock(&self.noted).salt;
            self.put(Needed { salt, frames: 0 });
        }
    }

    fn put(&self, needed: Needed) {
        let mut noted = lock(&self.noted);
        if *noted == needed {
            return;
        }
        *noted = needed;
        let Some(file) = &self.file else { return };
        let written = file.write_all_at(&encode(needed), 0);
        let noted = written.and_then(|()| if needed.frames == 0 { file.sync_data() } else { Ok(()) });
        if let Err(error) = noted {
            tracing::debug!(%error, "how far the store is synced was not noted");
        }
    }
}

/// Frames in the WAL, and how many of them are in the main file. Changes nothing and waits for nobody.
fn standing(conn: &Connection) -> Option<(u64, u64)> {
    let frames = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (all, moved) = conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], frames).ok()?;
    Some((all.try_into().ok()?, moved.try_into().ok()?))
}

fn salt_of(wal: &Path) -> std::io::Result<Option<u64>> {
    let mut salt = [0; 8];
    match File::open(wal).and_then(|file| file.read_exact_at(&mut salt, wal::SALT_AT)) {
        Ok(()) => Ok(Some(u64::from_be_bytes(salt))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(needed: Needed) -> [u8; NOTE_LEN] {
    let mut bytes = [0; NOTE_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&needed.salt.to_le_bytes());
    bytes[16..24].copy_from_slice(&needed.frames.to_le_bytes());
    let sum = xxh3_64(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; NOTE_LEN]) -> Option<Needed> {
    let (content, sum) = bytes.split_last_chunk::<8>()?;
    if !content.starts_with(MAGIC) || u64::from_le_bytes(*sum) != xxh3_64(content) {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(content.get(at..at + 8)?.try_into().ok()?));
    Some(Needed { salt: number(8)?, frames: number(16)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_and_damage_says_nothing() {
        let needed = Needed { salt: 0x0123_4567_89ab_cdef, frames: 77 };
        let bytes = encode(needed);
        assert_eq!(decode(&bytes), Some(needed));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 8;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
    }
}
