//! A file system for the Raft log that keeps what is written in this process's memory until it is fsynced. Killing the
//! process, or dropping the log and opening the folder again, is then what a power cut is: exactly what was not synced is
//! gone. Names (create, delete, rename) take effect at once, contents only at `sync`.
//!
//! A simulation goes further: with `defer_sync` an fsync lasts until `settle`, and `crash` is a power cut, a torn write or the
//! mere death of a process in the middle of it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

/// The file system; share it with an `Arc`. What was not synced dies with it.
#[derive(Debug, Default)]
pub struct LossyFs {
    files: Mutex<HashMap<PathBuf, Arc<LossyFile>>>,
    switches: Arc<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    ignore_sync: AtomicBool,
    fail_sync: AtomicBool,
    defer_sync: AtomicBool,
    crashed: AtomicBool,
    is_full: AtomicBool,
    syncs: AtomicU64,
}

/// What a crash leaves of what was not synced.
pub enum Left<'a> {
    /// All of it: only the process died.
    All,
    /// Nothing: the power went.
    Nothing,
    /// The power went in the middle of a write: so much of the unsynced bytes of each file, of as many as there are.
    Torn(&'a mut dyn FnMut(usize) -> usize),
}

impl LossyFs {
    /// An fsync from now on says yes and does nothing: the negative control of a power cut test.
    pub fn ignore_sync(&self, ignore: bool) {
        self.switches.ignore_sync.store(ignore, Ordering::SeqCst);
    }

    /// An fsync from now on fails, as a dying disk's does.
    pub fn fail_sync(&self, fail: bool) {
        self.switches.fail_sync.store(fail, Ordering::SeqCst);
    }

    /// An fsync from now on is on its way until [`LossyFs::settle`].
    pub fn defer_sync(&self, defer: bool) {
        self.switches.defer_sync.store(defer, Ordering::SeqCst);
    }

    /// The fsyncs that are on their way arrive.
    ///
    /// # Errors
    /// The real file system's.
    pub fn settle(&self) -> Result<()> {
        self.each_file(|file, content| if std::mem::take(&mut content.asked) { file.flush(content) } else { Ok(()) })
    }

    /// The end of whoever uses this: what it still does has no effect on the real files.
    ///
    /// # Errors
    /// The real file system's.
    pub fn crash(&self, mut left: Left<'_>) -> Result<()> {
        self.switches.crashed.store(true, Ordering::SeqCst);
        self.each_file(|file, content| match &mut left {
            Left::All => file.flush(content),
            Left::Nothing => Ok(()),
            Left::Torn(keep) => {
                let Some(from) = content.dirty else { return Ok(()) };
                let unsynced = content.bytes.get(from..).unwrap_or_default();
                let kept = keep(unsynced.len()).min(unsynced.len());
                let mut real = OpenOptions::new().write(true).open(&*lock(&file.path))?;
                real.seek(SeekFrom::Start(from as u64))?;
                real.write_all(&unsynced[..kept])
            }
        })
    }

    /// Every file in the order of their names, so that a seed replays.
    fn each_file(&self, mut each: impl FnMut(&LossyFile, &mut Content) -> Result<()>) -> Result<()> {
        let mut files: Vec<_> = lock(&self.files).iter().map(|(path, file)| (path.clone(), file.clone())).collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        files.iter().try_for_each(|(_, file)| each(file, &mut lock(&file.content)))
    }

    fn has_crashed(&self) -> bool {
        self.switches.crashed.load(Ordering::SeqCst)
    }

    /// A write from now on finds no room, in the words of raft-engine's own file system.
    pub fn is_full(&self, full: bool) {
        self.switches.is_full.store(full, Ordering::SeqCst);
    }

    /// Fsyncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.switches.syncs.load(Ordering::SeqCst)
    }

    fn insert(&self, path: &Path, content: Vec<u8>) -> LossyHandle {
        let file = Arc::new(LossyFile {
            path: Mutex::new(path.to_owned()),
            content: Mutex::new(Content { bytes: content, dirty: None, asked: false }),
            switches: self.switches.clone(),
        });
        lock(&self.files).insert(path.to_owned(), file.clone());
        LossyHandle(file)
    }
}

#[derive(Debug)]
struct LossyFile {
    path: Mutex<PathBuf>,
    content: Mutex<Content>,
    switches: Arc<Switches>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    /// First byte that differs from the real file, if any does.
    dirty: Option<usize>,
    /// An fsync of it is on its way.
    asked: bool,
}

impl Content {
    fn touch(&mut self, from: usize) {
        self.dirty = Some(self.dirty.map_or(from, |dirty| dirty.min(from)));
    }
}

impl LossyFile {
    /// Writes what differs to the real file.
    fn flush(&self, content: &mut Content) -> Result<()> {
        let Some(from) = content.dirty.take() else { return Ok(()) };
        let mut real = OpenOptions::new().write(true).open(&*lock(&self.path))?;
        real.seek(SeekFrom::Start(from as u64))?;
        real.write_all(content.bytes.get(from..).unwrap_or_default())?;
        real.set_len(content.bytes.len() as u64)
    }

    fn truncate(&self, len: usize) {
        let mut content = lock(&self.content);
        content.bytes.truncate(len);
        content.touch(len);
    }
}

/// An open file.
#[derive(Debug)]
pub struct LossyHandle(Arc<LossyFile>);

impl Handle for LossyHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.0.truncate(offset);
        Ok(())
    }

    fn file_size(&self) -> Result<usize> {
        Ok(lock(&self.0.content).bytes.len())
    }

    fn sync(&self) -> Result<()> {
        let switches = &self.0.switches;
        switches.syncs.fetch_add(1, Ordering::SeqCst);
        if switches.fail_sync.load(Ordering::SeqCst) {
            return Err(Error::other("the disk is dying (injected)"));
        }
        if switches.ignore_sync.load(Ordering::SeqCst) || switches.crashed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut content = lock(&self.0.content);
        if switches.defer_sync.load(Ordering::SeqCst) {
            content.asked = true;
            return Ok(());
        }
        self.0.flush(&mut content)
    }
}

/// A place in an open file.
#[derive(Debug)]
pub struct LossyPlace {
    file: Arc<LossyFile>,
    at: usize,
}

impl Read for LossyPlace {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let content = lock(&self.file.content);
        let rest = content.bytes.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len)
    }
}

impl Write for LossyPlace {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        if self.file.switches.is_full.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "nospace"));
        }
        let mut content = lock(&self.file.content);
        let (at, end) = (self.at, self.at + buf.len());
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
        }
        content.bytes[at..end].copy_from_slice(buf);
        content.touch(at);
        self.at = end;
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for LossyPlace {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let len = lock(&self.file.content).bytes.len();
        let at = match to {
            SeekFrom::Start(at) => usize::try_from(at).ok(),
            SeekFrom::Current(by) => isize::try_from(by).ok().and_then(|by| self.at.checked_add_signed(by)),
            SeekFrom::End(by) => isize::try_from(by).ok().and_then(|by| len.checked_add_signed(by)),
        };
        self.at = at.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at as u64)
    }
}

impl WriteExt for LossyPlace {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.file.truncate(offset);
        self.at = offset;
        Ok(())
    }

    fn allocate(&mut self, _offset: usize, _size: usize) -> Result<()> {
        Ok(())
    }
}

impl FileSystem for LossyFs {
    type Handle = LossyHandle;
    type Reader = LossyPlace;
    type Writer = LossyPlace;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<LossyHandle> {
        File::create(path.as_ref())?;
        Ok(self.insert(path.as_ref(), Vec::new()))
    }

    fn open<P: AsRef<Path>>(&self, path: P, _permission: Permission) -> Result<LossyHandle> {
        if let Some(file) = lock(&self.files).get(path.as_ref()) {
            return Ok(LossyHandle(file.clone()));
        }
        let content = std::fs::read(path.as_ref())?;
        Ok(self.insert(path.as_ref(), content))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        if self.has_crashed() {
            return Ok(());
        }
        lock(&self.files).remove(path.as_ref());
        std::fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        if self.has_crashed() {
            return Ok(());
        }
        let mut files = lock(&self.files);
        std::fs::rename(from.as_ref(), to.as_ref())?;
        if let Some(file) = files.remove(from.as_ref()) {
            to.as_ref().clone_into(&mut lock(&file.path));
            files.insert(to.as_ref().to_owned(), file);
        }
        Ok(())
    }

    fn new_reader(&self, handle: Arc<LossyHandle>) -> Result<LossyPlace> {
        Ok(LossyPlace { file: handle.0.clone(), at: 0 })
    }

    fn new_writer(&self, handle: Arc<LossyHandle>) -> Result<LossyPlace> {
        self.new_reader(handle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
