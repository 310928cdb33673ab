//! What a shard's log carries: batches of messages and cursor moves in a hand-written, versioned encoding (postcard would
//! copy every body). Owns encoding and decoding; what an item does is the state's business.
//!
//! Layout, little endian: version u8, item count u32, then the items. A message: tag 1, kind u16, stamp u64, key 16 bytes,
//! sender length u16, recipient length u16, body length u32, sender, recipient, body. A cursor: tag 2, cursor u64, user
//! length u16, device length u16, user, device.

use bytes::{BufMut, Bytes, BytesMut};
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::limits::{BODY_LEN_MAX, DEVICE_LEN_MAX, USER_LEN_MAX};
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use serde::{Deserialize, Serialize};

/// The encoding this code writes and the only one so far.
const VERSION: u8 = 1;
const TAG_MESSAGE: u8 = 1;
const TAG_CURSOR: u8 = 2;
const HEAD_LEN: usize = 1 + 4;
const MESSAGE_HEAD_LEN: usize = 1 + 2 + 8 + 16 + 2 + 2 + 4;
const CURSOR_HEAD_LEN: usize = 1 + 8 + 2 + 2;

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
    /// Opaque bytes, at most [`BODY_LEN_MAX`].
    pub body: Bytes,
}

/// One thing a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Append to an inbox, unless the key was seen.
    Message(NewMessage),
    /// Everything up to `cursor` was received by a device (A8). Moves forward only, never beyond the shard's last id.
    Cursor {
        /// The inbox.
        user: UserId,
        /// The device.
        device: DeviceId,
        /// The last entry received.
        cursor: EntryId,
    },
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

/// A decoded item that borrows from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemRef<'a> {
    Message(MessageRef<'a>),
    Cursor { user: &'a str, device: &'a str, cursor: EntryId },
}

/// A message that borrows its names; the body shares the command's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessageRef<'a> {
    pub(crate) sender: &'a str,
    pub(crate) key: MessageKey,
    pub(crate) recipient: &'a str,
    pub(crate) kind: u16,
    pub(crate) stamp: EntryId,
    pub(crate) body: Bytes,
}

/// Encodes a batch: one pass, one allocation.
#[must_use]
pub fn encode_batch(items: &[Item]) -> Bytes {
    let len = HEAD_LEN + items.iter().map(encoded_len).sum::<usize>();
    let mut out = BytesMut::with_capacity(len);
    out.put_u8(VERSION);
    out.put_u32_le(u32::try_from(items.len()).expect("a batch has at most BATCH_MESSAGES_MAX items"));
    for item in items {
        match item {
            Item::Message(message) => encode_message(&mut out, message),
            Item::Cursor { user, device, cursor } => {
                out.put_u8(TAG_CURSOR);
                out.put_u64_le(cursor.0);
                put_len_u16(&mut out, user.as_bytes());
                put_len_u16(&mut out, device.as_bytes());
                out.put_slice(user.as_bytes());
                out.put_slice(device.as_bytes());
            }
        }
    }
    debug_assert_eq!(out.len(), len);
    out.freeze()
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
    }
}

/// Decodes a batch into owned items; bodies share the command's buffer.
///
/// # Errors
/// Another version, or not a command.
pub fn decode_batch(command: &Bytes) -> Result<Vec<Item>, CommandError> {
    let name = |what| move |_| CommandError::Malformed { what, at: 0 };
    decode_refs(command)?
        .into_iter()
        .map(|item| match item {
            ItemRef::Message(message) => Ok(Item::Message(NewMessage {
                sender: UserId::new(message.sender).map_err(name("a sender's name that isn't one"))?,
                key: message.key,
                recipient: UserId::new(message.recipient).map_err(name("a recipient's name that isn't one"))?,
                kind: message.kind,
                stamp: message.stamp,
                body: message.body,
            })),
            ItemRef::Cursor { user, device, cursor } => Ok(Item::Cursor {
                user: UserId::new(user).map_err(name("a user's name that isn't one"))?,
                device: DeviceId::new(device).map_err(name("a device's name that isn't one"))?,
                cursor,
            }),
        })
        .collect()
}

/// Decodes a whole batch, so that a malformed command changes nothing.
pub(crate) fn decode_refs(command: &Bytes) -> Result<Vec<ItemRef<'_>>, CommandError> {
    let mut reader = Reader { command, at: 0 };
    let version = reader.take(1, "no version")?[0];
    if version != VERSION {
        return Err(CommandError::Version { found: version });
    }
    let count = reader.u32("no item count")? as usize;
    // An item has at least CURSOR_HEAD_LEN bytes: a false count can't make us allocate more than the command's own size.
    if count > command.len() / CURSOR_HEAD_LEN {
        return Err(reader.malformed("a count beyond the bytes"));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(reader.item()?);
    }
    if reader.at != command.len() {
        return Err(reader.malformed("bytes left over"));
    }
    Ok(items)
}

struct Reader<'a> {
    command: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> CommandError {
        CommandError::Malformed { what, at: self.at }
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CommandError> {
        let slice = self.at.checked_add(len).and_then(|end| self.command.get(self.at..end));
        let slice = slice.ok_or(CommandError::Malformed { what, at: self.at })?;
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CommandError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, CommandError> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, CommandError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn id(&mut self, what: &'static str) -> Result<EntryId, CommandError> {
        let id = EntryId(u64::from_le_bytes(self.array(what)?));
        if id > ENTRY_ID_MAX { Err(self.malformed("an id of 64 bits")) } else { Ok(id) }
    }

    fn name(&mut self, len: usize, max: usize) -> Result<&'a str, CommandError> {
        if len == 0 || len > max {
            return Err(self.malformed("a name too short or too long"));
        }
        let bytes = self.take(len, "a name that ends early")?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("a name that isn't UTF-8"))?;
        // The rule of `UserId::new`, without its allocation: after this, a name can be made of it.
        let control =
            if text.is_ascii() { bytes.iter().any(u8::is_ascii_control) } else { text.chars().any(char::is_control) };
        if control { Err(self.malformed("a name with a control character")) } else { Ok(text) }
    }

    fn item(&mut self) -> Result<ItemRef<'a>, CommandError> {
        match self.take(1, "no tag")?[0] {
            TAG_MESSAGE => self.message().map(ItemRef::Message),
            TAG_CURSOR => {
                let cursor = self.id("no cursor")?;
                let (user, device) = (self.u16("no length")?.into(), self.u16("no length")?.into());
                Ok(ItemRef::Cursor {
                    user: self.name(user, USER_LEN_MAX)?,
                    device: self.name(device, DEVICE_LEN_MAX)?,
                    cursor,
                })
            }
            _ => Err(self.malformed("an unknown tag")),
        }
    }

    fn message(&mut self) -> Result<MessageRef<'a>, CommandError> {
        let kind = self.u16("no kind")?;
        let stamp = self.id("no stamp")?;
        let key = MessageKey(self.array("no key")?);
        let (sender, recipient) = (self.u16("no length")?.into(), self.u16("no length")?.into());
        let body = self.u32("no length")? as usize;
        if body > BODY_LEN_MAX {
            return Err(self.malformed("a body too long"));
        }
        Ok(MessageRef {
            kind,
            stamp,
            key,
            sender: self.name(sender, USER_LEN_MAX)?,
            recipient: self.name(recipient, USER_LEN_MAX)?,
            body: self.command.slice_ref(self.take(body, "a body that ends early")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> NewMessage {
        NewMessage {
            sender: UserId::new("sender").unwrap(),
            key: MessageKey([7; 16]),
            recipient: UserId::new("ünï").unwrap(),
            kind: 3,
            stamp: EntryId(99),
            body: Bytes::from_static(b"body"),
        }
    }

    fn cursor() -> Item {
        let (user, device) = (UserId::new("u").unwrap(), DeviceId::new("phone").unwrap());
        Item::Cursor { user, device, cursor: EntryId(5) }
    }

    #[test]
    fn bodies_share_the_commands_buffer() {
        let command = encode_batch(&[Item::Message(message()), cursor()]);
        let items = decode_batch(&command).unwrap();
        assert_eq!(items, [Item::Message(message()), cursor()]);
        let Item::Message(decoded) = &items[0] else { panic!() };
        assert!(command.as_ptr_range().contains(&decoded.body.as_ptr()));
        assert_eq!(decode_batch(&encode_batch(&[])).unwrap(), []);
    }

    // The bytes on disk are for ever: this pins them.
    #[test]
    fn the_layout_is_pinned() {
        let bytes = encode_batch(&[cursor()]);
        assert_eq!(&bytes[..], b"\x01\x01\0\0\0\x02\x05\0\0\0\0\0\0\0\x01\0\x05\0uphone");
        let bytes = encode_batch(&[Item::Message(message())]);
        let head = b"\x01\x01\0\0\0\x01\x03\0\x63\0\0\0\0\0\0\0\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07";
        assert_eq!(&bytes[..head.len()], head);
        assert_eq!(&bytes[head.len()..], "\x06\0\x05\0\x04\0\0\0senderünïbody".as_bytes());
    }

    #[test]
    fn every_cut_and_another_version_are_refused() {
        let command = encode_batch(&[Item::Message(message()), cursor()]);
        for len in 0..command.len() {
            assert!(decode_batch(&command.slice(..len)).is_err(), "{len}");
        }
        let mut other = command.to_vec();
        other.push(0);
        assert!(decode_batch(&Bytes::from(other.clone())).is_err());
        other[0] = 2;
        assert_eq!(decode_batch(&Bytes::from(other)), Err(CommandError::Version { found: 2 }));
        let huge = Item::Message(NewMessage { stamp: EntryId(1 << 63), ..message() });
        assert!(decode_batch(&encode_batch(&[huge])).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Some(count) = bytes.get_mut(1..5) {
                count.copy_from_slice(&1u32.to_le_bytes());
            }
            let _ = decode_batch(&Bytes::from(bytes));
        }

        // Apply relies on it: what decodes can be made a name.
        #[test]
        fn the_rule_of_names_is_the_protocols(name in "[ -~\u{0}-\u{ff}]{0,8}") {
            let mut bytes = encode_batch(&[cursor()]).to_vec();
            bytes[14..16].copy_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.splice(18..19, name.bytes());
            prop_assert_eq!(decode_refs(&Bytes::from(bytes)).is_ok(), UserId::new(&name).is_ok());
        }
    }
}
