//! Takes a snapshot in from a peer, chunk by chunk, and goes on where an earlier attempt broke off. Nothing a peer says is
//! believed before it is checked.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::layout::{self, CHUNK_HEAD_LEN, Head};
use super::{SnapshotFile, SnapshotManifest, Stage, file, file_path, remove_others, writer};
use crate::StoreError;
use crate::checked_file::{create_private_dir, io_error, private_file};

/// A snapshot on its way in. Dropped, it stays on the disk, to be taken up again.
#[derive(Debug)]
pub struct SnapshotReceiver {
    dir: PathBuf,
    path: PathBuf,
    manifest: SnapshotManifest,
    next: u64,
    /// `None` when an earlier attempt had already finished.
    file: Option<File>,
}

impl SnapshotReceiver {
    /// Begins, or goes on with what is there of exactly this snapshot. Others of the subject are removed.
    ///
    /// # Errors
    /// The system's, or a manifest that can't be.
    pub fn begin_or_resume(dir: &Path, manifest: SnapshotManifest) -> Result<Self, StoreError> {
        create_private_dir(dir).map_err(|source| io_error(dir, "creating the folder of snapshots", source))?;
        let path = file_path(dir, manifest.subject, manifest.id, Stage::Received);
        let refused = |why| StoreError::Transfer { path: path.clone(), why };
        layout::check_totals(manifest.chunks, manifest.bytes).map_err(refused)?;
        let head = Head::of(&manifest).encode().map_err(refused)?;
        remove_others(dir, manifest.subject, manifest.id)?;
        let mut receiver = Self { dir: dir.to_owned(), path, manifest, next: 0, file: None };
        // A crash between the last chunk and the install.
        if SnapshotFile::open(&receiver.whole()).is_ok_and(|whole| whole.manifest() == &receiver.manifest) {
            receiver.next = receiver.manifest.chunks;
            return Ok(receiver);
        }
        if !receiver.resume(&head)? {
            let mut file = private_file(&receiver.path).map_err(|source| receiver.failed(source))?;
            file.write_all(&head).map_err(|source| receiver.failed(source))?;
            receiver.file = Some(file);
        }
        Ok(receiver)
    }

    /// What is coming.
    #[must_use]
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// The number of the chunk to send next; the manifest's count when all are there.
    #[must_use]
    pub fn next_chunk(&self) -> u64 {
        self.next
    }

    /// Takes the next chunk. A wrong one changes nothing: it may be sent again.
    ///
    /// # Errors
    /// It isn't that chunk, or the system's.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        layout::check_chunk(&self.manifest, self.next, bytes).map_err(|why| self.refused(why))?;
        let Some(file) = self.file.as_mut().filter(|_| self.next < self.manifest.chunks) else {
            return Err(self.refused("more chunks than it has".to_owned()));
        };
        let written = file.write_all(bytes);
        written.map_err(|source| self.failed(source))?;
        self.next += 1;
        Ok(())
    }

    /// Makes it durable and checks all of it once more.
    ///
    /// # Errors
    /// Chunks are missing, the system's, or damage.
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        if self.next < self.manifest.chunks {
            let why = format!("{} of {} chunks came", self.next, self.manifest.chunks);
            return Err(self.refused(why));
        }
        if let Some(mut file) = self.file.take() {
            let trailer = layout::encode_trailer(self.manifest.id, self.manifest.chunks, self.manifest.bytes);
            file.write_all(&trailer).and_then(|()| file.sync_all()).map_err(|source| self.failed(source))?;
            writer::publish(&self.path, &self.whole())?;
        }
        SnapshotFile::open(&self.whole())
    }

    /// Whether there is something to go on with. A crash may have left anything behind the last chunk that is right.
    fn resume(&mut self, head: &[u8]) -> Result<bool, StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            file => file.map_err(|source| self.failed(source))?,
        };
        let len = file.metadata().map_err(|source| self.failed(source))?.len();
        // The same head byte for byte: id, subject and mark.
        let head_len = head.len() as u64;
        if file::read_head(&self.path, &file, len).is_ok_and(|(found, _)| found == Head::of(&self.manifest)) {
            let mut at = head_len;
            let mut chunk = Vec::new();
            while self.next < self.manifest.chunks {
                chunk.resize(CHUNK_HEAD_LEN + layout::content_len(&self.manifest, self.next), 0);
                if at + chunk.len() as u64 > len {
                    break;
                }
                file.read_exact_at(&mut chunk, at).map_err(|source| self.failed(source))?;
                if layout::check_chunk(&self.manifest, self.next, &chunk).is_err() {
                    break;
                }
                at += chunk.len() as u64;
                self.next += 1;
            }
            let mut file = file;
            file.set_len(at).and_then(|()| file.seek(SeekFrom::Start(at))).map_err(|source| self.failed(source))?;
            self.file = Some(file);
            return Ok(true);
        }
        Ok(false)
    }

    fn whole(&self) -> PathBuf {
        file_path(&self.dir, self.manifest.subject, self.manifest.id, Stage::Whole)
    }

    fn failed(&self, source: std::io::Error) -> StoreError {
        io_error(&self.path, "receiving a snapshot", source)
    }

    fn refused(&self, why: String) -> StoreError {
        StoreError::Transfer { path: self.path.clone(), why }
    }
}
