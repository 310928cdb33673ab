//! A file system for looking at a log without changing it: reads come from the real files, whatever raft-engine writes when it
//! recovers stays in memory. Remembers what recovery would have cut off.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use super::lock;

/// Bytes looked at in one go.
const PIECE_LEN: usize = 64 * 1024;

/// Something at the end of a log file that recovery doesn't take for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TornTail {
    pub(super) file: PathBuf,
    /// Where it begins.
    pub(super) at: u64,
    pub(super) len: u64,
}

/// The file system.
#[derive(Debug, Default)]
pub(super) struct OverlayFs {
    files: Mutex<HashMap<PathBuf, Arc<OverlayFile>>>,
}

impl OverlayFs {
    /// What recovery cut off that isn't the space a file was given ahead, which is all zeros.
    pub(super) fn torn(&self) -> Vec<TornTail> {
        let files = lock(&self.files);
        let mut torn: Vec<TornTail> = files.values().filter_map(|file| lock(&file.content).torn.clone()).collect();
        torn.sort_by(|a, b| a.file.cmp(&b.file));
        torn
    }

    fn insert(&self, path: &Path, real: Option<File>, len: usize) -> OverlayHandle {
        let content = Content { real, base: len, tail: Vec::new(), torn: None };
        let file = Arc::new(OverlayFile { path: path.to_owned(), content: Mutex::new(content) });
        lock(&self.files).insert(path.to_owned(), file.clone());
        OverlayHandle(file)
    }
}

#[derive(Debug)]
struct OverlayFile {
    path: PathBuf,
    content: Mutex<Content>,
}

/// The first bytes of the real file, and what was written behind them.
#[derive(Debug)]
struct Content {
    real: Option<File>,
    base: usize,
    tail: Vec<u8>,
    torn: Option<TornTail>,
}

impl Content {
    fn len(&self) -> usize {
        self.base + self.tail.len()
    }

    fn read(&self, at: usize, buf: &mut [u8]) -> Result<usize> {
        if at < self.base {
            let wanted = buf.len().min(self.base - at);
            let Some(real) = &self.real else { return Ok(0) };
            return real.read_at(&mut buf[..wanted], at as u64);
        }
        let rest = self.tail.get(at - self.base..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn truncate(&mut self, len: usize, path: &Path) -> Result<()> {
        if len < self.base {
            let cut = self.base - len;
            // The first cut is recovery's; later ones are of its own making.
            if self.torn.is_none() && !self.is_zero(len)? {
                self.torn = Some(TornTail { file: path.to_owned(), at: len as u64, len: cut as u64 });
            }
            self.base = len;
            self.tail.clear();
        } else {
            self.tail.truncate(len - self.base);
        }
        Ok(())
    }

    fn is_zero(&self, from: usize) -> Result<bool> {
        let (mut at, mut piece) = (from, vec![0; PIECE_LEN]);
        while at < self.base {
            let len = self.read(at, &mut piece)?;
            if len == 0 || piece[..len].iter().any(|byte| *byte != 0) {
                return Ok(len == 0);
            }
            at += len;
        }
        Ok(true)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        if at < self.base {
            // Over real bytes: what follows them moves to memory.
            let mut moved = vec![0; self.base - at];
            let mut done = 0;
            while done < moved.len() {
                match self.read(at + done, &mut moved[done..])? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    len => done += len,
                }
            }
            moved.append(&mut self.tail);
            (self.base, self.tail) = (at, moved);
        }
        let begin = at - self.base;
        if self.tail.len() < begin + bytes.len() {
            self.tail.resize(begin + bytes.len(), 0);
        }
        self.tail[begin..begin + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct OverlayHandle(Arc<OverlayFile>);

impl Handle for OverlayHandle {
    fn truncate(&self, offset: usize) -> Result<()> {
        lock(&self.0.content).truncate(offset, &self.0.path)
    }

    fn file_size(&self) -> Result<usize> {
        Ok(lock(&self.0.content).len())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// A place in an open file.
#[derive(Debug)]
pub(super) struct OverlayPlace {
    file: Arc<OverlayFile>,
    at: usize,
}

impl Read for OverlayPlace {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = lock(&self.file.content).read(self.at, buf)?;
        self.at += len;
        Ok(len)
    }
}

impl Write for OverlayPlace {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        lock(&self.file.content).write(self.at, buf)?;
        self.at += buf.len();
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for OverlayPlace {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let len = lock(&self.file.content).len();
        let at = match to {
            SeekFrom::Start(at) => usize::try_from(at).ok(),
            SeekFrom::Current(by) => isize::try_from(by).ok().and_then(|by| self.at.checked_add_signed(by)),
            SeekFrom::End(by) => isize::try_from(by).ok().and_then(|by| len.checked_add_signed(by)),
        };
        self.at = at.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at as u64)
    }
}

impl WriteExt for OverlayPlace {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        lock(&self.file.content).truncate(offset, &self.file.path)?;
        self.at = offset;
        Ok(())
    }

    fn allocate(&mut self, _offset: usize, _size: usize) -> Result<()> {
        Ok(())
    }
}

impl FileSystem for OverlayFs {
    type Handle = OverlayHandle;
    type Reader = OverlayPlace;
    type Writer = OverlayPlace;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<OverlayHandle> {
        Ok(self.insert(path.as_ref(), None, 0))
    }

    fn open<P: AsRef<Path>>(&self, path: P, _permission: Permission) -> Result<OverlayHandle> {
        if let Some(file) = lock(&self.files).get(path.as_ref()) {
            return Ok(OverlayHandle(file.clone()));
        }
        let real = File::open(path.as_ref())?;
        let len = usize::try_from(real.metadata()?.len()).map_err(Error::other)?;
        Ok(self.insert(path.as_ref(), Some(real), len))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        lock(&self.files).remove(path.as_ref());
        Ok(())
    }

    fn rename<P: AsRef<Path>>(&self, _from: P, _to: P) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "nothing is renamed in a check"))
    }

    fn new_reader(&self, handle: Arc<OverlayHandle>) -> Result<OverlayPlace> {
        Ok(OverlayPlace { file: handle.0.clone(), at: 0 })
    }

    fn new_writer(&self, handle: Arc<OverlayHandle>) -> Result<OverlayPlace> {
        self.new_reader(handle)
    }
}
