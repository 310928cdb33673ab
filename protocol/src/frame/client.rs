//! Frames from the client (docs/protocol.md, "From the client").

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{FrameError, Reader, put_bytes32, put_text8, put_text16};
use super::{put_frame, split_frame};
use crate::ids::{DeviceId, EntryId, MessageKey, UserId};
use crate::limits::{DEVICE_LEN_MAX, FRAME_LEN_MAX, TOKEN_LEN_MAX, USER_LEN_MAX};

const HELLO: u8 = 0x01;
const SEND: u8 = 0x02;
const ACK: u8 = 0x03;
const SUBSCRIBE: u8 = 0x04;
const CREDIT: u8 = 0x05;
const PING: u8 = 0x06;
const BYE: u8 = 0x07;

/// `from` on the wire for "where this device's stored cursor stands".
const FROM_STORED: u64 = u64::MAX;

/// How safe a message must be before it is acked (A5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On a majority of disks.
    #[default]
    Quorum,
    /// On every replica's disk.
    Guaranteed,
    /// In memory.
    BestEffort,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeFrom {
    /// After the cursor this device last acked.
    Stored,
    /// After the given entry; [`EntryId::ZERO`] for the whole log.
    After(EntryId),
}

/// One message on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The client's number for this request, increasing within a connection.
    pub seq: u64,
    /// Idempotency key (A3).
    pub key: MessageKey,
    /// How safe before the ack.
    pub durability: Durability,
    /// Open tag (A17); 0 is a plain message.
    pub kind: u16,
    /// Whose inbox.
    pub recipient: UserId,
    /// Opaque bytes. Its limit, [`crate::limits::BODY_LEN_MAX`], is the session's to check, so that it is a refusal and no disconnect.
    pub body: Bytes,
}

/// Everything a client can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Login; the first frame.
    Hello {
        /// Lowest protocol version the client speaks.
        version_min: u16,
        /// Highest protocol version the client speaks.
        version_max: u16,
        /// A JWT (B3).
        token: String,
        /// Device name, if the token does not name one.
        device: Option<DeviceId>,
        /// The client's software, for logs.
        software: String,
    },
    /// Append to an inbox.
    Send(Send),
    /// Move this device's cursor: everything up to and including this entry is done with (A8).
    Ack {
        /// The last entry done with.
        cursor: EntryId,
    },
    /// Begin to receive (A7).
    Subscribe {
        /// Where to begin.
        from: SubscribeFrom,
        /// Entries the client is ready for.
        credit: u32,
    },
    /// More room for entries.
    Credit {
        /// Entries more.
        entries: u32,
    },
    /// Keep-alive; answered with the same nonce.
    Ping {
        /// Any number.
        nonce: u64,
    },
    /// The client is about to close.
    Bye,
}

impl ClientFrame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Hello { version_min, version_max, token, device, software } => put_frame(out, HELLO, |out| {
                out.put_u16(*version_min);
                out.put_u16(*version_max);
                put_text16(out, token, TOKEN_LEN_MAX);
                put_text8(out, device.as_ref().map_or("", DeviceId::as_str));
                put_text8(out, software);
            }),
            Self::Send(send) => put_frame(out, SEND, |out| {
                out.put_u64(send.seq);
                out.put_slice(&send.key.0);
                out.put_u8(match send.durability {
                    Durability::Quorum => 0,
                    Durability::Guaranteed => 1,
                    Durability::BestEffort => 2,
                });
                out.put_u16(send.kind);
                put_text16(out, send.recipient.as_str(), USER_LEN_MAX);
                put_bytes32(out, &send.body);
            }),
            Self::Ack { cursor } => put_frame(out, ACK, |out| out.put_u64(cursor.0)),
            Self::Subscribe { from, credit } => put_frame(out, SUBSCRIBE, |out| {
                out.put_u64(match from {
                    SubscribeFrom::Stored => FROM_STORED,
                    SubscribeFrom::After(id) => id.0,
                });
                out.put_u32(*credit);
            }),
            Self::Credit { entries } => put_frame(out, CREDIT, |out| out.put_u32(*entries)),
            Self::Ping { nonce } => put_frame(out, PING, |out| out.put_u64(*nonce)),
            Self::Bye => put_frame(out, BYE, |_| {}),
        }
    }

    /// Takes the next frame off `buf`; `None` when it is not all there yet. `len_max` is
    /// [`crate::limits::FRAME_LEN_MAX_BEFORE_LOGIN`] or [`FRAME_LEN_MAX`].
    ///
    /// # Errors
    /// Bytes that are no frame: the connection can't go on.
    pub fn decode(buf: &mut BytesMut, len_max: usize) -> Result<Option<Self>, FrameError> {
        let Some((kind, body)) = split_frame(buf, len_max)? else { return Ok(None) };
        let mut r = Reader(body);
        let frame = match kind {
            HELLO => Self::Hello {
                version_min: r.u16("version_min")?,
                version_max: r.u16("version_max")?,
                token: r.text16(TOKEN_LEN_MAX, "token")?,
                device: r.device("device")?,
                software: r.text8(DEVICE_LEN_MAX, "software")?,
            },
            SEND => Self::Send(Send {
                seq: r.u64("seq")?,
                key: MessageKey(r.key("key")?),
                durability: match r.u8("durability")? {
                    0 => Durability::Quorum,
                    1 => Durability::Guaranteed,
                    2 => Durability::BestEffort,
                    other => return Err(FrameError::BadValue { field: "durability", value: other.into() }),
                },
                kind: r.u16("kind")?,
                recipient: r.user("recipient")?,
                body: r.bytes32(FRAME_LEN_MAX, "body")?,
            }),
            ACK => Self::Ack { cursor: EntryId(r.u64("cursor")?) },
            SUBSCRIBE => Self::Subscribe {
                from: match r.u64("from")? {
                    FROM_STORED => SubscribeFrom::Stored,
                    id => SubscribeFrom::After(EntryId(id)),
                },
                credit: r.u32("credit")?,
            },
            CREDIT => Self::Credit { entries: r.u32("entries")? },
            PING => Self::Ping { nonce: r.u64("nonce")? },
            BYE => Self::Bye,
            kind => return Err(FrameError::UnknownType { kind }),
        };
        r.end(Some(frame))
    }
}
