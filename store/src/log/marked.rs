//! A file system that remembers how far the log was synced, so that damage at its end is not taken for a torn write. raft-engine
//! cuts the end of its last file off where it meets something that is no record: right for a write that a power cut broke off,
//! which nobody was told of, and wrong for a synced record with a flipped bit, with which votes and acked entries would go.
//! After each fsync the file's number and length are noted in a small file; a recovery that would cut off, or write over, what
//! was noted is refused and changes nothing. So is one of files that don't reach as far as was noted: the engine takes those that are
//! there for all there were.
//!
//! The note itself is not fsynced: that would double the cost of a write. A process that dies leaves it exact. A power cut may
//! leave an older one, which forbids less: then the newest records are again only as safe as raft-engine's own rule has them,
//! but for what lies in older files, which were synced before the next one was made.
//!
//! The note, little endian: magic 8 bytes; number and length of the newest file of each of the engine's two queues, four u64; xxh3
//! u64 of all before. Less than a sector, so it is never torn. One that can't be read says nothing.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use xxhash_rust::xxh3::xxh3_64;

use super::lock;
use crate::checked_file::open_private;

/// The note's name in the log's folder; the engine leaves files with other names than its own alone.
pub(super) const MARK_NAME: &str = "synced";

const MAGIC: &[u8; 8] = b"iris-sy1";
const MARK_LEN: usize = 8 + 4 * 8 + 8;

/// The engine's queues: what is appended, and what is rewritten of it.
const QUEUES: [&str; 2] = ["raftlog", "rewrite"];

/// Up to where a queue is synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Synced {
    file: u64,
    len: u64,
}

/// What all handles share.
struct Marks {
    note: Option<File>,
    synced: Mutex<[Synced; 2]>,
    /// The newest file of each queue when the log was opened.
    newest: [u64; 2],
    /// Until the engine has opened: what is noted must not be touched.
    recovering: AtomicBool,
    refused: Mutex<Option<String>>,
}

/// Which file this is: its queue and its number.
pub(super) fn place(path: &Path) -> Option<(usize, u64)> {
    let queue = QUEUES.iter().position(|queue| path.extension().is_some_and(|is| is == *queue))?;
    Some((queue, path.file_stem()?.to_str()?.parse().ok()?))
}

fn encode(synced: &[Synced; 2]) -> [u8; MARK_LEN] {
    let mut bytes = [0; MARK_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    let numbers = synced.iter().flat_map(|synced| [synced.file, synced.len]);
    for (at, number) in numbers.enumerate() {
        bytes[8 + at * 8..16 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    let sum = xxh3_64(&bytes[..MARK_LEN - 8]);
    bytes[MARK_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; MARK_LEN]) -> Option<[Synced; 2]> {
    let (content, sum) = bytes.split_last_chunk::<8>()?;
    if !content.starts_with(MAGIC) || u64::from_le_bytes(*sum) != xxh3_64(content) {
        return None;
    }
    let number = |at: usize| {
        let bytes = content.get(8 + at * 8..16 + at * 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    Some([Synced { file: number(0)?, len: number(1)? }, Synced { file: number(2)?, len: number(3)? }])
}

impl Marks {
    fn open(dir: &Path) -> Self {
        let path = dir.join(MARK_NAME);
        let note = open_private(&path);
        let note = note
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "how far the log is synced can't be noted"),
            )
            .ok();
        let mut bytes = [0; MARK_LEN];
        let read = note.as_ref().is_some_and(|note| note.read_exact_at(&mut bytes, 0).is_ok());
        let synced = read.then(|| decode(&bytes)).flatten().unwrap_or_default();
        let mut newest = [0; 2];
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Some((queue, file)) = place(&entry.path()) {
                newest[queue] = newest[queue].max(file);
            }
        }
        let (synced, recovering) = (Mutex::new(synced), AtomicBool::new(true));
        Self { note, synced, newest, recovering, refused: Mutex::default() }
    }

    /// A file was synced when it had this length.
    fn synced(&self, place: Option<(usize, u64)>, len: u64) {
        let Some((queue, file)) = place else { return };
        let mut synced = lock(&self.synced);
        let now = Synced { file, len };
        if now <= synced[queue] {
            return;
        }
        synced[queue] = now;
        // One that can't be written, on a full disk, stays older than it could be.
        if let Some(note) = &self.note {
            let _ = note.write_all_at(&encode(&synced), 0);
        }
    }

    /// Whether the files reach as far as they were synced; if not, which doesn't.
    fn whole(&self, dir: &Path) -> std::result::Result<(), String> {
        for (queue, synced) in lock(&self.synced).iter().enumerate().filter(|(_, synced)| synced.len > 0) {
            let Synced { file, len } = *synced;
            let path = dir.join(format!("{file:016}.{}", QUEUES[queue]));
            match std::fs::metadata(&path) {
                Ok(meta) if meta.len() < len => {
                    return Err(format!("{} has {} bytes, and was synced up to {len}", path.display(), meta.len()));
                }
                // Dropped since by a version of Iris that noted nothing.
                Err(error) if error.kind() == ErrorKind::NotFound && self.newest[queue] > file => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(format!("{} is gone, and was synced up to {len}", path.display()));
                }
                // What else is the matter with it, the engine says.
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether recovery may change a file from `at` on.
    fn check(&self, path: &Path, at: u64) -> Result<()> {
        let Some((queue, file)) = place(path).filter(|_| self.recovering.load(Ordering::SeqCst)) else { return Ok(()) };
        let synced = lock(&self.synced)[queue];
        let to = match file == synced.file {
            true => synced.len,
            false if file < synced.file.max(self.newest[queue]) => u64::MAX,
            false => 0,
        };
        // What is given ahead lies behind what was written.
        let end = std::fs::metadata(path).map_or(to, |meta| to.min(meta.len()));
        if at >= end {
            return Ok(());
        }
        let why = format!("{} holds no record at {at}, and was synced up to {end}", path.display());
        lock(&self.refused).get_or_insert_with(|| why.clone());
        Err(Error::other(why))
    }
}

/// The file system.
pub(super) struct MarkedFs<F> {
    fs: F,
    marks: Arc<Marks>,
}

impl<F: FileSystem> MarkedFs<F> {
    /// Over another one, for the log in `dir`, which exists.
    ///
    /// # Errors
    /// Its files don't reach as far as they were synced: which, and how far.
    pub(super) fn new(fs: F, dir: &Path) -> std::result::Result<Self, String> {
        let marks = Marks::open(dir);
        marks.whole(dir)?;
        Ok(Self { fs, marks: Arc::new(marks) })
    }

    /// The engine has opened: from now on it does with its files what it likes.
    pub(super) fn recovered(&self) {
        self.marks.recovering.store(false, Ordering::SeqCst);
    }

    /// What recovery would have cut off, if it would have.
    pub(super) fn refused(&self) -> Option<String> {
        lock(&self.marks.refused).clone()
    }

    fn handle(&self, path: &Path, inner: F::Handle) -> MarkedHandle<F::Handle> {
        let (inner, written) = (Arc::new(inner), AtomicU64::new(0));
        MarkedHandle { inner, path: path.to_owned(), written, marks: self.marks.clone() }
    }
}

/// An open file.
pub(super) struct MarkedHandle<H> {
    inner: Arc<H>,
    path: PathBuf,
    /// The end of what was written by this process.
    written: AtomicU64,
    marks: Arc<Marks>,
}

impl<H: Handle> Handle for MarkedHandle<H> {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.marks.check(&self.path, offset as u64)?;
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> Result<()> {
        let written = self.written.load(Ordering::SeqCst);
        self.inner.sync()?;
        if written > 0 {
            self.marks.synced(place(&self.path), written);
        }
        Ok(())
    }
}

/// A place in an open file.
pub(super) struct MarkedWriter<H, W> {
    writer: W,
    handle: Arc<MarkedHandle<H>>,
    at: u64,
}

impl<H: Handle, W: Write> Write for MarkedWriter<H, W> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.handle.marks.check(&self.handle.path, self.at)?;
        let len = self.writer.write(buf)?;
        self.at += len as u64;
        self.handle.written.fetch_max(self.at, Ordering::SeqCst);
        Ok(len)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush()
    }
}

impl<H: Handle, W: Seek> Seek for MarkedWriter<H, W> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.writer.seek(to)?;
        Ok(self.at)
    }
}

impl<H: Handle, W: WriteExt> WriteExt for MarkedWriter<H, W> {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.handle.marks.check(&self.handle.path, offset as u64)?;
        self.writer.truncate(offset)?;
        self.at = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.writer.allocate(offset, size)
    }
}

impl<F: FileSystem> FileSystem for MarkedFs<F> {
    type Handle = MarkedHandle<F::Handle>;
    type Reader = F::Reader;
    type Writer = MarkedWriter<F::Handle, F::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Self::Handle> {
        Ok(self.handle(path.as_ref(), self.fs.create(path.as_ref())?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Self::Handle> {
        Ok(self.handle(path.as_ref(), self.fs.open(path.as_ref(), permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.fs.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        self.fs.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> Result<Self::Reader> {
        self.fs.new_reader(handle.inner.clone())
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> Result<Self::Writer> {
        let writer = self.fs.new_writer(handle.inner.clone())?;
        Ok(MarkedWriter { writer, handle, at: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_and_damage_says_nothing() {
        let synced = [Synced { file: 3, len: 4_000 }, Synced { file: 1, len: 70 }];
        let bytes = encode(&synced);
        assert_eq!(decode(&bytes), Some(synced));
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 8;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
    }
}
