//! What a shard's log carries: batches of messages, cursor moves and what retention removes, in a hand-written, versioned
//! encoding (postcard would copy every body). Owns the items and their encoding, `decode` the way back; what an item does is
//! the state's business.
//!
//! Layout, little endian: version u8, keys seen u64 (see [`KeysSeen`]), item count u32, then the items.
//! - A message: tag 1, kind u16, stamp u64, key 16 bytes, sender length u16, recipient length u16, body length u32, sender,
//!   recipient, body.
//! - A cursor: tag 2, cursor u64, seen u64, user length u16, device length u16, user, device.
//! - A known key: tag 3, first u64, conflict u8.
//! - A trim: tag 4, up to u64, entries u32, user length u16, user.
//! - An expired device: tag 5, before u64, user length u16, device length u16, user, device.

mod decode;
#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use serde::{Deserialize, Serialize};

pub use decode::decode_batch;
pub(crate) use decode::{CommandRef, ItemRef, MessageRef, decode_command};

/// The encoding this code writes and the only one it reads.
const VERSION: u8 = 2;
const TAG_MESSAGE: u8 = 1;
const TAG_CURSOR: u8 = 2;
const TAG_KNOWN: u8 = 3;
const TAG_TRIM: u8 = 4;
const TAG_EXPIRE: u8 = 5;
const HEAD_LEN: usize = 1 + 8 + 4;
const MESSAGE_HEAD_LEN: usize = 1 + 2 + 8 + 16 + 2 + 2 + 4;
const CURSOR_HEAD_LEN: usize = 1 + 8 + 8 + 2 + 2;
const KNOWN_LEN: usize = 1 + 8 + 1;
const TRIM_HEAD_LEN: usize = 1 + 8 + 4 + 2;
const EXPIRE_HEAD_LEN: usize = 1 + 8 + 2 + 2;

/// A message on its way into an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Who sends it.
    pub sender: UserId,
    /// The sender's idempotency key (A3).
    pub key: MessageKey,
    /// Whose inbox it goes to.
    pub recipient: UserId,
    /// The open kind tag (A17).
    pub kind: u16,
    /// The leader's stamp: the entry's id unless the shard is already further (A2).
    pub stamp: EntryId,
    /// Opaque bytes, at most [`iris_protocol::limits::BODY_LEN_MAX`].
    pub body: Bytes,
}

/// One thing a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Append to an inbox, unless the key was seen.
    Message(NewMessage),
    /// Everything up to `cursor` was received by a device (A8). Moves forward only, never beyond the shard's last id. A
    /// cursor of zero only says that the device is there.
    Cursor {
        /// The inbox.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// The last entry received.
        cursor: EntryId,
        /// The leader's stamp: when the device was seen.
        seen: EntryId,
    },
    /// In the place of a message whose key the leader found among the older ones, so that apply needs no disk (A3).
    Known {
        /// The first entry's id.
        first: EntryId,
        /// The first had another recipient, kind or body.
        conflict: bool,
    },
    /// Entries that every known device has dealt with, and that are old enough, go (A9).
    Trim {
        /// The inbox.
        user: UserId,
        /// The last entry to go. Less goes if a device still needs it when this is applied.
        up_to: EntryId,
        /// How many entries the leader saw up to there: counted, nothing more.
        entries: u32,
    },
    /// A device that was not seen for long no longer holds entries back (A8).
    Expire {
        /// The inbox.
        user: UserId,
        /// The device; it stays if it was seen at or after `before` when this is applied.
        device: DeviceId,
        /// See there.
        before: EntryId,
    },
}

impl Item {
    /// Whether an edge may ask for it; all else is a shard leader's own business.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Cursor { .. })
    }
}

/// How many keys a shard had taken in when the messages of a command were looked up among the older ones. Apply looks at the
/// recent ones only, so it takes no message of a command that so many others came in between (see `state::dedup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysSeen(pub u64);

impl KeysSeen {
    /// The items were not looked up: between edge and leader, and in shards without older keys.
    pub const NOT_LOOKED_UP: Self = Self(u64::MAX);
}

/// What an item did; the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A new entry with this id.
    Appended(EntryId),
    /// The key was seen with the same content: the first entry's id.
    Duplicate(EntryId),
    /// The key was seen with another recipient, kind or body. Nothing was appended.
    KeyConflict,
    /// Where the device's cursor stands now.
    CursorMoved(EntryId),
    /// Nothing was done with this message: it was looked up too long ago. To be proposed again.
    Stale,
    /// What retention wanted was looked at.
    Done,
}

/// Why bytes are not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Written by another version.
    #[error("a command of version {found}, this Iris reads {VERSION}: upgrade this node")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The bytes end too early, go on too long, or hold a value out of bounds.
    #[error("not a command: {what} at byte {at}")]
    Malformed {
        /// What was wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
}

/// Encodes items that were not looked up.
#[must_use]
pub fn encode_batch(items: &[Item]) -> Bytes {
    encode_command(items, KeysSeen::NOT_LOOKED_UP)
}

/// Encodes a command: one pass, one allocation.
#[must_use]
pub fn encode_command(items: &[Item], seen: KeysSeen) -> Bytes {
    let len = HEAD_LEN + items.iter().map(encoded_len).sum::<usize>();
    let mut out = BytesMut::with_capacity(len);
    out.put_u8(VERSION);
    out.put_u64_le(seen.0);
    out.put_u32_le(u32::try_from(items.len()).expect("a batch has at most BATCH_MESSAGES_MAX items"));
    for item in items {
        encode_item(&mut out, item);
    }
    debug_assert_eq!(out.len(), len);
    out.freeze()
}

fn encode_item(out: &mut BytesMut, item: &Item) {
    match item {
        Item::Message(message) => encode_message(out, message),
        Item::Cursor { user, device, cursor, seen } => {
            out.put_u8(TAG_CURSOR);
            out.put_u64_le(cursor.0);
            out.put_u64_le(seen.0);
            put_len_u16(out, user.as_bytes());
            put_len_u16(out, device.as_bytes());
            out.put_slice(user.as_bytes());
            out.put_slice(device.as_bytes());
        }
        Item::Known { first, conflict } => {
            out.put_u8(TAG_KNOWN);
            out.put_u64_le(first.0);
            out.put_u8(u8::from(*conflict));
        }
        Item::Trim { user, up_to, entries } => {
            out.put_u8(TAG_TRIM);
            out.put_u64_le(up_to.0);
            out.put_u32_le(*entries);
            put_len_u16(out, user.as_bytes());
            out.put_slice(user.as_bytes());
        }
        Item::Expire { user, device, before } => {
            out.put_u8(TAG_EXPIRE);
            out.put_u64_le(before.0);
            put_len_u16(out, user.as_bytes());
            put_len_u16(out, device.as_bytes());
            out.put_slice(user.as_bytes());
            out.put_slice(device.as_bytes());
        }
    }
}

fn encode_message(out: &mut BytesMut, message: &NewMessage) {
    out.put_u8(TAG_MESSAGE);
    out.put_u16_le(message.kind);
    out.put_u64_le(message.stamp.0);
    out.put_slice(&message.key.0);
    put_len_u16(out, message.sender.as_bytes());
    put_len_u16(out, message.recipient.as_bytes());
    out.put_u32_le(u32::try_from(message.body.len()).expect("a body has at most BODY_LEN_MAX bytes"));
    out.put_slice(message.sender.as_bytes());
    out.put_slice(message.recipient.as_bytes());
    out.put_slice(&message.body);
}

fn put_len_u16(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16_le(u16::try_from(bytes.len()).expect("a name has at most USER_LEN_MAX bytes"));
}

fn encoded_len(item: &Item) -> usize {
    match item {
        Item::Message(message) => {
            MESSAGE_HEAD_LEN + message.sender.as_bytes().len() + message.recipient.as_bytes().len() + message.body.len()
        }
        Item::Cursor { user, device, .. } => CURSOR_HEAD_LEN + user.as_bytes().len() + device.as_bytes().len(),
        Item::Known { .. } => KNOWN_LEN,
        Item::Trim { user, .. } => TRIM_HEAD_LEN + user.as_bytes().len(),
        Item::Expire { user, device, .. } => EXPIRE_HEAD_LEN + user.as_bytes().len() + device.as_bytes().len(),
    }
}
