//! A whole snapshot file, for reading: by the sender chunk by chunk, by an install record by record.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::layout::{self, CHUNK_HEAD_LEN, HEAD_START_LEN, Head, TRAILER_LEN};
use super::records::Records;
use super::{SnapshotId, SnapshotManifest};
use crate::StoreError;
use crate::checked_file::io_error;

/// A snapshot that was found whole when it was opened. Stays readable when a newer one takes its place. One that this process
/// wrote goes with its handle: whoever asked for the copy may be gone by the time it is finished.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    manifest: SnapshotManifest,
    head_len: u64,
    goes_with_handle: bool,
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if !self.goes_with_handle {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "a snapshot that is not needed any more stays");
            }
            _ => {}
        }
    }
}

impl SnapshotFile {
    /// Opens a file and checks all of it.
    ///
    /// # Errors
    /// The system's, or the file isn't a whole snapshot.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = Self::open_unchecked(path)?;
        for number in 0..opened.manifest.chunks {
            opened.chunk(number)?;
        }
        Ok(opened)
    }

    /// Checks head, trailer and length.
    fn open_unchecked(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| io_error(path, "opening a snapshot", source);
        let damaged = |why: String| damaged(path, why);
        let file = File::open(path).map_err(failed)?;
        let file_len = file.metadata().map_err(failed)?.len();
        let (head, head_len) = read_head(path, &file, file_len)?;
        let after = file_len.checked_sub(TRAILER_LEN as u64).filter(|&at| at >= head_len);
        let trailer_at = after.ok_or_else(|| damaged("it ends early".to_owned()))?;
        let mut trailer = [0; TRAILER_LEN];
        file.read_exact_at(&mut trailer, trailer_at).map_err(failed)?;
        let (chunks, bytes) = layout::decode_trailer(head.id, &trailer).map_err(damaged)?;
        let body = chunks.saturating_mul(CHUNK_HEAD_LEN as u64).saturating_add(bytes);
        if head_len.saturating_add(body) != trailer_at {
            return Err(damaged("its length is wrong".to_owned()));
        }
        let manifest = head.manifest(chunks, bytes);
        Ok(Self { path: path.to_owned(), file, manifest, head_len, goes_with_handle: false })
    }

    /// Opens what this process has just written.
    pub(super) fn open_own(path: &Path) -> Result<Self, StoreError> {
        let mut own = Self::open(path)?;
        own.goes_with_handle = true;
        Ok(own)
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.manifest.id
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A chunk as it lies in the file, with its number and checksum. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such chunk, the system's, or damage.
    pub fn chunk(&self, number: u64) -> Result<Bytes, StoreError> {
        if number >= self.manifest.chunks {
            return Err(StoreError::Transfer { path: self.path.clone(), why: format!("there is no chunk {number}") });
        }
        let mut bytes = vec![0; CHUNK_HEAD_LEN + layout::content_len(&self.manifest, number)];
        let at = self.head_len + layout::chunk_offset(number);
        self.file.read_exact_at(&mut bytes, at).map_err(|source| io_error(&self.path, "reading a snapshot", source))?;
        layout::check_chunk(&self.manifest, number, &bytes).map_err(|why| damaged(&self.path, why))?;
        Ok(Bytes::from(bytes))
    }

    /// The content of a chunk.
    pub(super) fn content(&self, number: u64) -> Result<Bytes, StoreError> {
        Ok(self.chunk(number)?.slice(CHUNK_HEAD_LEN..))
    }

    /// Its records, in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records::new(self)
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> StoreError {
        damaged(&self.path, why.into())
    }
}

/// The head and its length.
pub(super) fn read_head(path: &Path, file: &File, file_len: u64) -> Result<(Head, u64), StoreError> {
    let failed = |source| io_error(path, "reading a snapshot", source);
    let early = || damaged(path, "it ends early".to_owned());
    let mut start = [0; HEAD_START_LEN];
    if file_len < HEAD_START_LEN as u64 {
        return Err(early());
    }
    file.read_exact_at(&mut start, 0).map_err(failed)?;
    let rest_len = Head::rest_len(&start).map_err(|why| damaged(path, why))?;
    let head_len = (HEAD_START_LEN + rest_len) as u64;
    if file_len < head_len {
        return Err(early());
    }
    let mut rest = vec![0; rest_len];
    file.read_exact_at(&mut rest, HEAD_START_LEN as u64).map_err(failed)?;
    Ok((Head::decode(&rest).map_err(|why| damaged(path, why))?, head_len))
}

pub(super) fn damaged(path: &Path, why: String) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what: "the snapshot".to_owned(), why }
}
