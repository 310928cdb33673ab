//! The bytes of a snapshot file. Pure: encodes and checks head, chunks and trailer; every size is checked before anything is
//! set aside for it.
//!
//! Little endian. Head: magic 8 bytes, length u32, [`Head`] in its versioned encoding, xxh3 u64 of length and encoding.
//! Chunk: number u64, length u32, xxh3 u64 of id, number, length and content, content. Trailer: magic 8 bytes, chunks u64,
//! bytes u64, xxh3 u64 of id, chunks and bytes.

use iris_protocol::versioned::{self, Versioned};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{SnapshotId, SnapshotManifest, Subject};
use crate::state::AppliedMark;

/// Bytes of a chunk, its head included: what a bulk stream keeps in flight without delaying Raft.
pub const CHUNK_LEN_MAX: usize = 64 * 1024;

pub(super) const CHUNK_HEAD_LEN: usize = 8 + 4 + 8;
/// Content of every chunk but the last.
pub(super) const CONTENT_LEN_MAX: usize = CHUNK_LEN_MAX - CHUNK_HEAD_LEN;

const HEAD_MAGIC: &[u8; 8] = b"iris-sn1";
const TRAILER_MAGIC: &[u8; 8] = b"iris-sne";
pub(super) const HEAD_START_LEN: usize = 8 + 4;
const SUM_LEN: usize = 8;
pub(super) const TRAILER_LEN: usize = 8 + 8 + 8 + SUM_LEN;

/// A mark holds a membership of a handful of nodes.
const HEAD_LEN_MAX: usize = 64 * 1024;

/// What the file begins with: the manifest but for the totals, which nobody knows yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) id: SnapshotId,
    pub(super) subject: Subject,
    pub(super) mark: AppliedMark,
}

impl Versioned for Head {
    const NAME: &'static str = "snapshot head";
    const VERSION: u8 = 1;
}

impl Head {
    pub(super) fn of(manifest: &SnapshotManifest) -> Self {
        Self { id: manifest.id, subject: manifest.subject, mark: manifest.mark.clone() }
    }

    pub(super) fn manifest(self, chunks: u64, bytes: u64) -> SnapshotManifest {
        SnapshotManifest { id: self.id, subject: self.subject, mark: self.mark, chunks, bytes }
    }

    /// Its bytes in the file, if they are not too many.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let encoded = versioned::encode(self);
        let len = u32::try_from(encoded.len()).ok().filter(|&len| len as usize <= HEAD_LEN_MAX);
        let len = len.ok_or_else(|| format!("a head of {} bytes", encoded.len()))?;
        let mut out = Vec::with_capacity(HEAD_START_LEN + encoded.len() + SUM_LEN);
        out.extend_from_slice(HEAD_MAGIC);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&encoded);
        out.extend_from_slice(&sum(&[&len.to_le_bytes(), &encoded]).to_le_bytes());
        Ok(out)
    }

    /// How many bytes follow the first [`HEAD_START_LEN`].
    pub(super) fn rest_len(start: &[u8; HEAD_START_LEN]) -> Result<usize, String> {
        let (magic, len) = start.split_at(8);
        if magic != HEAD_MAGIC {
            return Err("it isn't a snapshot of Iris".to_owned());
        }
        let len = u32::from_le_bytes(len.try_into().map_err(|_| "no length")?) as usize;
        if len > HEAD_LEN_MAX {
            return Err(format!("a head of {len} bytes"));
        }
        Ok(len + SUM_LEN)
    }

    pub(super) fn decode(rest: &[u8]) -> Result<Self, String> {
        let (encoded, found) = rest.split_last_chunk::<SUM_LEN>().ok_or("its head ends early")?;
        if u64::from_le_bytes(*found) != sum(&[&(encoded.len() as u32).to_le_bytes(), encoded]) {
            return Err("the checksum of its head is wrong".to_owned());
        }
        versioned::decode(encoded).map_err(|error| error.to_string())
    }
}

pub(super) fn encode_chunk(id: SnapshotId, number: u64, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_le_bytes();
    let mut out = Vec::with_capacity(CHUNK_HEAD_LEN + content.len());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&len);
    out.extend_from_slice(&chunk_sum(id, number, len, content).to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// The content of the chunk with this number, if these bytes are it: whole, in place, and as long as it must be.
pub(super) fn check_chunk<'a>(manifest: &SnapshotManifest, number: u64, bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let (head, content) = bytes.split_first_chunk::<CHUNK_HEAD_LEN>().ok_or("a chunk that ends early")?;
    let (found, head) = head.split_first_chunk::<8>().ok_or("no number")?;
    let (len, head) = head.split_first_chunk::<4>().ok_or("no length")?;
    let (found_sum, _) = head.split_first_chunk::<8>().ok_or("no checksum")?;
    let found = u64::from_le_bytes(*found);
    if found != number {
        return Err(format!("chunk {found} where {number} was expected"));
    }
    if content.len() != content_len(manifest, number) || u32::from_le_bytes(*len) as usize != content.len() {
        return Err(format!("chunk {number} has {} bytes", content.len()));
    }
    if u64::from_le_bytes(*found_sum) != chunk_sum(manifest.id, number, *len, content) {
        return Err(format!("the checksum of chunk {number} is wrong"));
    }
    Ok(content)
}

/// How long the content of a chunk must be; zero beyond the last.
pub(super) fn content_len(manifest: &SnapshotManifest, number: u64) -> usize {
    let before = number.saturating_mul(CONTENT_LEN_MAX as u64);
    let rest = manifest.bytes.saturating_sub(before);
    if number < manifest.chunks { rest.min(CONTENT_LEN_MAX as u64) as usize } else { 0 }
}

/// Where a chunk begins, behind the head.
pub(super) fn chunk_offset(number: u64) -> u64 {
    number.saturating_mul(CHUNK_LEN_MAX as u64)
}

/// Whether the totals agree: they come from a peer.
pub(super) fn check_totals(chunks: u64, bytes: u64) -> Result<(), String> {
    if bytes.div_ceil(CONTENT_LEN_MAX as u64) == chunks && chunks <= u64::MAX / 2 / CHUNK_LEN_MAX as u64 {
        Ok(())
    } else {
        Err(format!("{bytes} bytes are not {chunks} chunks"))
    }
}

pub(super) fn encode_trailer(id: SnapshotId, chunks: u64, bytes: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(TRAILER_LEN);
    out.extend_from_slice(TRAILER_MAGIC);
    out.extend_from_slice(&chunks.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&sum(&[&id.0, &chunks.to_le_bytes(), &bytes.to_le_bytes()]).to_le_bytes());
    out
}

/// Chunks and bytes.
pub(super) fn decode_trailer(id: SnapshotId, trailer: &[u8; TRAILER_LEN]) -> Result<(u64, u64), String> {
    let (magic, rest) = trailer.split_first_chunk::<8>().ok_or("no magic")?;
    let (chunks, rest) = rest.split_first_chunk::<8>().ok_or("no chunks")?;
    let (bytes, rest) = rest.split_first_chunk::<8>().ok_or("no bytes")?;
    let (found, _) = rest.split_first_chunk::<8>().ok_or("no checksum")?;
    if magic != TRAILER_MAGIC {
        return Err("it has no end".to_owned());
    }
    if u64::from_le_bytes(*found) != sum(&[&id.0, chunks, bytes]) {
        return Err("the checksum of its end is wrong".to_owned());
    }
    let (chunks, bytes) = (u64::from_le_bytes(*chunks), u64::from_le_bytes(*bytes));
    check_totals(chunks, bytes).map(|()| (chunks, bytes))
}

fn chunk_sum(id: SnapshotId, number: u64, len: [u8; 4], content: &[u8]) -> u64 {
    sum(&[&id.0, &number.to_le_bytes(), &len, content])
}

fn sum(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.digest()
}
