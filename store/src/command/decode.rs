//! Reading a command. Everything is checked before anything is made of it: a command that does not decode changes nothing.

use bytes::Bytes;
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::limits::{BODY_LEN_MAX, DEVICE_LEN_MAX, USER_LEN_MAX};
use iris_protocol::{DeviceId, EntryId, MessageKey, NameError, UserId};

use super::{
    CommandError, Item, KNOWN_LEN, KeysSeen, NewMessage, TAG_CURSOR, TAG_EXPIRE, TAG_KNOWN, TAG_MESSAGE, TAG_TRIM,
    VERSION,
};

/// A decoded command that borrows from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandRef<'a> {
    pub(crate) seen: KeysSeen,
    pub(crate) items: Vec<ItemRef<'a>>,
}

/// A decoded item that borrows from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemRef<'a> {
    Message(MessageRef<'a>),
    Cursor { user: &'a str, device: &'a str, cursor: EntryId, seen: EntryId },
    Known { first: EntryId, conflict: bool },
    Trim { user: &'a str, up_to: EntryId, entries: u32 },
    Expire { user: &'a str, device: &'a str, before: EntryId },
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

/// Decodes a batch into owned items; bodies share the command's buffer.
///
/// # Errors
/// Another version, or not a command.
pub fn decode_batch(command: &Bytes) -> Result<Vec<Item>, CommandError> {
    let items = decode_command(command)?.items;
    let owned = items.into_iter().map(|item| item.into_owned());
    owned.collect::<Result<_, _>>().map_err(|_| CommandError::Malformed { what: "a name that isn't one", at: 0 })
}

impl ItemRef<'_> {
    fn into_owned(self) -> Result<Item, NameError> {
        Ok(match self {
            Self::Message(message) => Item::Message(NewMessage {
                sender: UserId::new(message.sender)?,
                key: message.key,
                recipient: UserId::new(message.recipient)?,
                kind: message.kind,
                stamp: message.stamp,
                body: message.body,
            }),
            Self::Cursor { user, device, cursor, seen } => {
                Item::Cursor { user: UserId::new(user)?, device: DeviceId::new(device)?, cursor, seen }
            }
            Self::Known { first, conflict } => Item::Known { first, conflict },
            Self::Trim { user, up_to, entries } => Item::Trim { user: UserId::new(user)?, up_to, entries },
            Self::Expire { user, device, before } => {
                Item::Expire { user: UserId::new(user)?, device: DeviceId::new(device)?, before }
            }
        })
    }
}

/// Decodes a whole command.
pub(crate) fn decode_command(command: &Bytes) -> Result<CommandRef<'_>, CommandError> {
    let mut reader = Reader { command, at: 0 };
    let version = reader.take(1, "no version")?[0];
    if version != VERSION {
        return Err(CommandError::Version { found: version });
    }
    let seen = KeysSeen(u64::from_le_bytes(reader.array("no count of keys")?));
    let count = reader.u32("no item count")? as usize;
    // No item is shorter than a known key: a false count can't make us allocate far more than the command's own size.
    if count > command.len() / KNOWN_LEN {
        return Err(reader.malformed("a count beyond the bytes"));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(reader.item()?);
    }
    if reader.at != command.len() {
        return Err(reader.malformed("bytes left over"));
    }
    Ok(CommandRef { seen, items })
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
                let (cursor, seen) = (self.id("no cursor")?, self.id("no stamp")?);
                let (user, device) = self.user_and_device()?;
                Ok(ItemRef::Cursor { user, device, cursor, seen })
            }
            TAG_KNOWN => {
                let first = self.id("no first id")?;
                match self.take(1, "no flag")?[0] {
                    flag @ 0..=1 => Ok(ItemRef::Known { first, conflict: flag == 1 }),
                    _ => Err(self.malformed("a flag that is neither 0 nor 1")),
                }
            }
            TAG_TRIM => {
                let (up_to, entries) = (self.id("no last id")?, self.u32("no count")?);
                let len = self.u16("no length")?.into();
                Ok(ItemRef::Trim { user: self.name(len, USER_LEN_MAX)?, up_to, entries })
            }
            TAG_EXPIRE => {
                let before = self.id("no stamp")?;
                let (user, device) = self.user_and_device()?;
                Ok(ItemRef::Expire { user, device, before })
            }
            _ => Err(self.malformed("an unknown tag")),
        }
    }

    fn user_and_device(&mut self) -> Result<(&'a str, &'a str), CommandError> {
        let (user, device) = (self.u16("no length")?.into(), self.u16("no length")?.into());
        Ok((self.name(user, USER_LEN_MAX)?, self.name(device, DEVICE_LEN_MAX)?))
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
