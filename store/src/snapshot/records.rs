//! The records in a snapshot's chunks: a length u32 and that many bytes each, across chunks as they come.

use bytes::{Bytes, BytesMut};

use super::SnapshotFile;
use crate::StoreError;

/// Bytes of one record: the meta group's whole state is one, an entry is 64 KiB and some.
pub const RECORD_LEN_MAX: usize = 16 * 1024 * 1024;

/// Reads a snapshot's records in order; ends after the first error.
#[derive(Debug)]
pub struct Records<'a> {
    file: &'a SnapshotFile,
    next_chunk: u64,
    /// Content read and not yet given out.
    buffer: Bytes,
    /// Content not yet read.
    left: u64,
    failed: bool,
}

impl<'a> Records<'a> {
    pub(super) fn new(file: &'a SnapshotFile) -> Self {
        Self { file, next_chunk: 0, buffer: Bytes::new(), left: file.manifest().bytes, failed: false }
    }

    fn record(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.buffer.is_empty() && self.left == 0 {
            return Ok(None);
        }
        let len = self.take(4)?;
        let len = u32::from_le_bytes(len[..].try_into().map_err(|_| self.file.damaged("no length"))?) as usize;
        if len > RECORD_LEN_MAX {
            return Err(self.file.damaged(format!("a record of {len} bytes")));
        }
        self.take(len).map(Some)
    }

    fn take(&mut self, len: usize) -> Result<Bytes, StoreError> {
        if len as u64 > self.left + self.buffer.len() as u64 {
            return Err(self.file.damaged("a record that ends early"));
        }
        if self.buffer.len() >= len {
            return Ok(self.buffer.split_to(len));
        }
        let mut out = BytesMut::with_capacity(len);
        while out.len() < len {
            if self.buffer.is_empty() {
                self.buffer = self.file.content(self.next_chunk)?;
                self.next_chunk += 1;
                self.left -= self.buffer.len() as u64;
            }
            out.extend_from_slice(&self.buffer.split_to(self.buffer.len().min(len - out.len())));
        }
        Ok(out.freeze())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.record().transpose();
        self.failed = matches!(record, Some(Err(_)));
        record
    }
}
