//! The frames of `iris/2` (docs/protocol.md): one enum a direction, encoded into and decoded from a buffer. Lengths are
//! checked before anything is taken or allocated (B5); bodies are slices of the read buffer, not copies. Knows no session
//! state: whether a frame is allowed now is the session's business.

mod client;
mod code;
mod server;
mod wire;

pub use client::{ClientFrame, Durability, Send, SubscribeFrom};
pub use code::Code;
pub use server::{Delivery, ServerFrame, Status};
pub use wire::FrameError;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol revision this crate speaks, and the only one so far.
pub const VERSION: u16 = 2;

/// The ALPN name of this protocol (B1).
pub const ALPN: &[u8] = b"iris/2";

/// Bytes of the length field.
const LEN_FIELD: usize = 4;

/// Takes one whole frame off the front of `buf`, if it is there.
///
/// # Errors
/// A length of zero or over `len_max`: checked as soon as the four bytes are here, before the rest is awaited.
fn split_frame(buf: &mut BytesMut, len_max: usize) -> Result<Option<(u8, Bytes)>, FrameError> {
    let Some(field) = buf.first_chunk::<LEN_FIELD>() else { return Ok(None) };
    let len = u32::from_be_bytes(*field) as usize;
    if len == 0 {
        return Err(FrameError::Empty);
    }
    if len > len_max {
        return Err(FrameError::TooLong { len, max: len_max });
    }
    if buf.len() < LEN_FIELD + len {
        return Ok(None);
    }
    let mut frame = buf.split_to(LEN_FIELD + len).freeze();
    frame.advance(LEN_FIELD);
    let kind = frame.get_u8();
    Ok(Some((kind, frame)))
}

/// Writes a frame: its length is filled in once its body is there.
fn put_frame(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    body(out);
    let len = (out.len() - start - LEN_FIELD) as u32;
    out[start..start + LEN_FIELD].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests;
