//! Writes a snapshot file: under another name until it is whole and on the disk.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::layout::{self, CONTENT_LEN_MAX, Head};
use super::records::RECORD_LEN_MAX;
use super::{SnapshotFile, SnapshotId, Stage, Subject, file, file_path, remove_others};
use crate::StoreError;
use crate::checked_file::{create_private_dir, io_error, private_file, sync_dir};
use crate::state::AppliedMark;

/// A snapshot in the making; dropped unfinished, it is gone.
#[derive(Debug)]
pub struct SnapshotWriter {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    id: SnapshotId,
    subject: Subject,
    /// Content of the next chunk.
    buffer: Vec<u8>,
    chunks: u64,
    bytes: u64,
    finished: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot in `dir`, which is made if need be.
    ///
    /// # Errors
    /// The system's.
    pub fn create(dir: &Path, subject: Subject, mark: AppliedMark) -> Result<Self, StoreError> {
        create_private_dir(dir).map_err(|source| io_error(dir, "creating the folder of snapshots", source))?;
        let id = SnapshotId::fresh();
        let path = file_path(dir, subject, id, Stage::Written);
        let head = Head { id, subject, mark }.encode().map_err(|why| file::damaged(&path, why))?;
        let file = private_file(&path).map_err(|source| io_error(&path, "creating a snapshot", source))?;
        let (dir, buffer) = (dir.to_owned(), Vec::with_capacity(CONTENT_LEN_MAX));
        let mut writer = Self { dir, path, file, id, subject, buffer, chunks: 0, bytes: 0, finished: false };
        writer.write(&head)?;
        Ok(writer)
    }

    /// Adds a record of at most [`RECORD_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// The system's, or a record too long.
    pub fn record(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let len = u32::try_from(bytes.len()).ok().filter(|&len| len as usize <= RECORD_LEN_MAX);
        let len = len.ok_or_else(|| file::damaged(&self.path, format!("a record of {} bytes", bytes.len())))?;
        self.add(&len.to_le_bytes())?;
        self.add(bytes)
    }

    /// Makes it whole and durable; earlier ones of the same subject are removed. The file goes when what is returned is dropped.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        self.end_chunk()?;
        self.write(&layout::encode_trailer(self.id, self.chunks, self.bytes))?;
        self.file.sync_all().map_err(|source| io_error(&self.path, "fsync of a snapshot", source))?;
        let whole = file_path(&self.dir, self.subject, self.id, Stage::Whole);
        publish(&self.path, &whole)?;
        self.finished = true;
        remove_others(&self.dir, self.subject, self.id)?;
        SnapshotFile::open_own(&whole)
    }

    fn add(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CONTENT_LEN_MAX - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CONTENT_LEN_MAX {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = layout::encode_chunk(self.id, self.chunks, &self.buffer);
        self.write(&chunk)?;
        self.chunks += 1;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|source| io_error(&self.path, "writing a snapshot", source))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "an unfinished snapshot was already gone");
        }
    }
}

/// Gives a file that is on the disk its name.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|source| io_error(from, "renaming a snapshot", source))?;
    sync_dir(to).map_err(|source| io_error(to, "fsync of its folder", source))
}
