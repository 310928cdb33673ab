//! Calls between nodes: many requests and answers, in any order, on one long-lived stream per peer and channel. Owns framing,
//! matching and deadlines; what a call means is the caller's and the handler's business.
//!
//! The caller's side of a stream begins with one byte, the version of what follows. A request is `len u32, id u64, method u8, group u16, payload`; an answer `len u32, id u64, status u8, payload`; integers
//! big-endian, `len` counts what follows it.

mod client;
mod server;

pub use client::{ClientTask, RpcClient, RpcClients, RpcError};
pub use server::{RpcHandler, serve};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of one frame: the largest read of the log ([`super::log_store`]), plus one entry over it, with room to spare.
const FRAME_LEN_MAX: usize = 16 * 1024 * 1024;

/// Version of the frames on a stream; what they carry has versions of its own.
const VERSION: u8 = 1;

/// Bytes gathered into one write.
const WRITE_GATHER_MAX: usize = 256 * 1024;

/// Calls and answers waiting to be written; the callers and handlers behind them wait.
const QUEUE_LEN_MAX: usize = 1_024;

/// A stream that takes no byte for this long is broken.
const WRITE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// Bytes handed to the stream at once: what must leave within [`WRITE_DEADLINE`].
const WRITE_PART_LEN: usize = 64 * 1024;

const LEN_FIELD: usize = 4;

/// Which handler a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// Raft.
    AppendEntries = 1,
    /// Raft.
    Vote = 2,
    /// Raft.
    PreVote = 3,
    /// Raft.
    TransferLeader = 4,
    /// Append to inboxes of a shard, in order.
    Append = 10,
    /// Read a page of an inbox.
    Read = 11,
    /// Read a device's stored cursor.
    Cursor = 12,
    /// Whether the node would take a leadership now (it would not while it is going down).
    WillLead = 13,
    /// A change of the meta state, for its group's leader to propose.
    MetaCall = 14,
    /// Who is in the cluster, as the asked node knows.
    Members = 15,
    /// The same, from a member that knows of no cluster yet, to one that may.
    Beginning = 16,
    /// Whom the asked node has a link to.
    Sight = 17,
    /// How the cluster stands without the caller, which is in quarantine (C12).
    Standing = 18,
}

impl Method {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [Method; 13] = [
            Method::AppendEntries,
            Method::Vote,
            Method::PreVote,
            Method::TransferLeader,
            Method::Append,
            Method::Read,
            Method::Cursor,
            Method::WillLead,
            Method::MetaCall,
            Method::Members,
            Method::Beginning,
            Method::Sight,
            Method::Standing,
        ];
        ALL.into_iter().find(|method| *method as u8 == byte)
    }
}

/// Reads one whole frame's content; `None` at a clean end.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin), buf: &mut BytesMut) -> std::io::Result<Option<Bytes>> {
    loop {
        if let Some(field) = buf.first_chunk::<LEN_FIELD>() {
            let len = u32::from_be_bytes(*field) as usize;
            if len > FRAME_LEN_MAX {
                return Err(std::io::Error::other(format!(
                    "a peer frame of {len} bytes, at most {FRAME_LEN_MAX} are allowed"
                )));
            }
            if buf.len() >= LEN_FIELD + len {
                let mut frame = buf.split_to(LEN_FIELD + len).freeze();
                return Ok(Some(frame.split_off(LEN_FIELD)));
            }
            // The length is checked; members only get this far.
            buf.reserve(LEN_FIELD + len - buf.len());
        }
        if stream.read_buf(buf).await? == 0 {
            return if buf.is_empty() { Ok(None) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

fn put_frame(out: &mut BytesMut, head: impl FnOnce(&mut BytesMut), payload: &[u8]) {
    let start = out.len();
    out.put_u32(0);
    head(out);
    out.put_slice(payload);
    let len = (out.len() - start - LEN_FIELD) as u32;
    out[start..start + LEN_FIELD].copy_from_slice(&len.to_be_bytes());
}

/// Writes and flushes all of `out`. The deadline is for progress, not for the whole: a slow link is not a broken one.
async fn write_out(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> std::io::Result<()> {
    while !out.is_empty() {
        let part = out.len().min(WRITE_PART_LEN);
        let written = tokio::time::timeout(WRITE_DEADLINE, writer.write(&out[..part])).await??;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        out.advance(written);
    }
    tokio::time::timeout(WRITE_DEADLINE, writer.flush()).await?
}

#[cfg(test)]
mod tests;
