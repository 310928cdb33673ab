//! Frames from the server (docs/protocol.md, "From the server").

use bytes::{BufMut, Bytes, BytesMut};

use super::code::Code;
use super::wire::{FrameError, Reader, put_bytes32, put_text8, put_text16};
use super::{put_frame, split_frame};
use crate::ids::{DeviceId, EntryId, MessageKey, NodeId, UserId};
use crate::limits::{ADDRESSES_MAX, BODY_LEN_MAX, FRAME_LEN_MAX, REASON_LEN_MAX, USER_LEN_MAX};

const WELCOME: u8 = 0x41;
const ACCEPTED: u8 = 0x42;
const REFUSED: u8 = 0x43;
const ENTRY: u8 = 0x44;
const LIVE: u8 = 0x45;
const PONG: u8 = 0x46;
const GOAWAY: u8 = 0x47;
const ERROR: u8 = 0x48;
const ACKED: u8 = 0x49;

const FLAG_DUPLICATE: u8 = 0x01;

/// What an ACCEPTED promises (A4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// On disk, fsynced, on a majority of the shard's voters.
    Committed,
    /// Fsynced in this node's outbox only.
    Queued,
}

/// One entry of the subscriber's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id; the cursor that covers it.
    pub id: EntryId,
    /// Open tag (A17).
    pub kind: u16,
    /// The sender's key.
    pub key: MessageKey,
    /// Who sent it, as their token said.
    pub sender: UserId,
    /// Opaque bytes.
    pub body: Bytes,
}

/// Everything a server can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    /// Logged in.
    Welcome {
        /// The protocol version of this connection.
        version: u16,
        /// The node that serves it.
        node: NodeId,
        /// Who the client is, by its token.
        user: UserId,
        /// The device whose cursor ACK moves.
        device: DeviceId,
        /// Unanswered SENDs the client may have.
        sends_in_flight_max: u32,
        /// Milliseconds without a frame from the client after which the connection is closed: ping before.
        idle_ms_max: u32,
    },
    /// A SEND is durable.
    Accepted {
        /// The SEND's number.
        seq: u64,
        /// What is promised.
        status: Status,
        /// The key was known: this is the first entry's id, nothing was appended.
        duplicate: bool,
        /// The entry's id in the recipient's inbox.
        id: EntryId,
    },
    /// A SEND was refused.
    Refused {
        /// The SEND's number.
        seq: u64,
        /// Why, for programs.
        code: Code,
        /// When to try again; 0 if the client may choose, or must not.
        retry_after_ms: u32,
        /// Why, for people.
        reason: String,
    },
    /// The next entry of the inbox.
    Entry(Delivery),
    /// Everything committed when the server looked has been delivered.
    Live {
        /// The last entry delivered, or where the subscription began.
        cursor: EntryId,
    },
    /// Answer to PING.
    Pong {
        /// The PING's.
        nonce: u64,
    },
    /// The node is going away: finish, and go on at another.
    GoAway {
        /// Wait this long before connecting elsewhere, so that not all come at once.
        delay_ms: u32,
        /// Why.
        reason: String,
        /// Other nodes, `host:port`.
        addresses: Vec<String>,
    },
    /// The connection is about to be closed.
    Error {
        /// Why, for programs.
        code: Code,
        /// When to come back; 0 if the client may choose.
        retry_after_ms: u32,
        /// Why, for people.
        reason: String,
    },
    /// The device's cursor is durable.
    Acked {
        /// Where it stands.
        cursor: EntryId,
    },
}

impl ServerFrame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Welcome { version, node, user, device, sends_in_flight_max, idle_ms_max } => {
                put_frame(out, WELCOME, |out| {
                    out.put_u16(*version);
                    out.put_u64(node.0);
                    put_text16(out, user.as_str(), USER_LEN_MAX);
                    put_text8(out, device.as_str());
                    out.put_u32(*sends_in_flight_max);
                    out.put_u32(*idle_ms_max);
                });
            }
            Self::Accepted { seq, status, duplicate, id } => put_frame(out, ACCEPTED, |out| {
                out.put_u64(*seq);
                out.put_u8(match status {
                    Status::Committed => 1,
                    Status::Queued => 2,
                });
                out.put_u8(if *duplicate { FLAG_DUPLICATE } else { 0 });
                out.put_u64(id.0);
            }),
            Self::Refused { seq, code, retry_after_ms, reason } => put_frame(out, REFUSED, |out| {
                out.put_u64(*seq);
                put_why(out, *code, *retry_after_ms, reason);
            }),
            Self::Entry(entry) => encode_entry(out, entry),
            Self::Live { cursor } => put_frame(out, LIVE, |out| out.put_u64(cursor.0)),
            Self::Pong { nonce } => put_frame(out, PONG, |out| out.put_u64(*nonce)),
            Self::GoAway { delay_ms, reason, addresses } => put_frame(out, GOAWAY, |out| {
                out.put_u32(*delay_ms);
                put_text16(out, reason, REASON_LEN_MAX);
                let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
                out.put_u8(addresses.len() as u8);
                for address in addresses {
                    put_text16(out, address, REASON_LEN_MAX);
                }
            }),
            Self::Error { code, retry_after_ms, reason } => {
                put_frame(out, ERROR, |out| put_why(out, *code, *retry_after_ms, reason));
            }
            Self::Acked { cursor } => put_frame(out, ACKED, |out| out.put_u64(cursor.0)),
        }
    }

    /// Takes the next frame off `buf`; `None` when it is not all there yet.
    ///
    /// # Errors
    /// Bytes that are no frame: the connection can't go on.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some((kind, body)) = split_frame(buf, FRAME_LEN_MAX)? else { return Ok(None) };
        let mut r = Reader(body);
        let frame = match kind {
            WELCOME => Self::Welcome {
                version: r.u16("version")?,
                node: NodeId(r.u64("node")?),
                user: r.user("user")?,
                device: r.device("device")?.ok_or(FrameError::Short { field: "device" })?,
                sends_in_flight_max: r.u32("sends_in_flight_max")?,
                idle_ms_max: r.u32("idle_ms_max")?,
            },
            ACCEPTED => Self::Accepted {
                seq: r.u64("seq")?,
                status: match r.u8("status")? {
                    1 => Status::Committed,
                    2 => Status::Queued,
                    other => return Err(FrameError::BadValue { field: "status", value: other.into() }),
                },
                duplicate: r.u8("flags")? & FLAG_DUPLICATE != 0,
                id: EntryId(r.u64("id")?),
            },
            REFUSED => {
                let seq = r.u64("seq")?;
                let (code, retry_after_ms, reason) = why(&mut r)?;
                Self::Refused { seq, code, retry_after_ms, reason }
            }
            ENTRY => Self::Entry(Delivery {
                id: EntryId(r.u64("id")?),
                kind: r.u16("kind")?,
                key: MessageKey(r.key("key")?),
                sender: r.user("sender")?,
                body: r.bytes32(BODY_LEN_MAX, "body")?,
            }),
            LIVE => Self::Live { cursor: EntryId(r.u64("cursor")?) },
            PONG => Self::Pong { nonce: r.u64("nonce")? },
            GOAWAY => Self::GoAway {
                delay_ms: r.u32("delay_ms")?,
                reason: r.text16(REASON_LEN_MAX, "reason")?,
                addresses: addresses(&mut r)?,
            },
            ERROR => {
                let (code, retry_after_ms, reason) = why(&mut r)?;
                Self::Error { code, retry_after_ms, reason }
            }
            ACKED => Self::Acked { cursor: EntryId(r.u64("cursor")?) },
            kind => return Err(FrameError::UnknownType { kind }),
        };
        r.end(Some(frame))
    }
}

fn encode_entry(out: &mut BytesMut, entry: &Delivery) {
    put_frame(out, ENTRY, |out| {
        out.put_u64(entry.id.0);
        out.put_u16(entry.kind);
        out.put_slice(&entry.key.0);
        put_text16(out, entry.sender.as_str(), USER_LEN_MAX);
        put_bytes32(out, &entry.body);
    });
}

fn put_why(out: &mut BytesMut, code: Code, retry_after_ms: u32, reason: &str) {
    out.put_u16(code.number());
    out.put_u32(retry_after_ms);
    put_text16(out, reason, REASON_LEN_MAX);
}

fn why(r: &mut Reader) -> Result<(Code, u32, String), FrameError> {
    Ok((Code::from_number(r.u16("code")?), r.u32("retry_after_ms")?, r.text16(REASON_LEN_MAX, "reason")?))
}

fn addresses(r: &mut Reader) -> Result<Vec<String>, FrameError> {
    let count = usize::from(r.u8("count")?);
    if count > ADDRESSES_MAX {
        return Err(FrameError::FieldTooLong { field: "addresses", len: count, max: ADDRESSES_MAX });
    }
    (0..count).map(|_| r.text16(REASON_LEN_MAX, "address")).collect()
}
