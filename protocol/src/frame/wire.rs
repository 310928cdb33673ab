//! Reading and writing the fields frames are made of. Every read checks what is left first.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::{DeviceId, NameError, UserId};

/// Why bytes are not a frame. The connection that sent them is answered with an error and closed; nobody else notices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length field of zero: not even a type byte.
    #[error("a frame of length 0: every frame has at least its type byte")]
    Empty,
    /// Longer than allowed here.
    #[error("a frame of {len} bytes, at most {max} are allowed here")]
    TooLong {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The frame ends inside a field.
    #[error("the frame ends inside its field '{field}'")]
    Short {
        /// The field's name in docs/protocol.md.
        field: &'static str,
    },
    /// The frame goes on after its last field.
    #[error("{extra} bytes left over after the frame's last field")]
    LeftOver {
        /// Bytes left.
        extra: usize,
    },
    /// A type this side does not take.
    #[error("unknown frame type 0x{kind:02x}")]
    UnknownType {
        /// The type byte.
        kind: u8,
    },
    /// A field over its own limit.
    #[error("field '{field}' has {len} bytes, at most {max} are allowed")]
    FieldTooLong {
        /// The field's name.
        field: &'static str,
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A value the document does not name.
    #[error("field '{field}' has the value {value}, which means nothing")]
    BadValue {
        /// The field's name.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// A name that is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Text that is not UTF-8.
    #[error("field '{field}' is not UTF-8")]
    NotUtf8 {
        /// The field's name.
        field: &'static str,
    },
}

/// A frame's body being read, field by field.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    fn need(&self, len: usize, field: &'static str) -> Result<(), FrameError> {
        if self.0.len() < len { Err(FrameError::Short { field }) } else { Ok(()) }
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.need(1, field)?;
        Ok(self.0.get_u8())
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        self.need(2, field)?;
        Ok(self.0.get_u16())
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.need(4, field)?;
        Ok(self.0.get_u32())
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.need(8, field)?;
        Ok(self.0.get_u64())
    }

    pub(super) fn key(&mut self, field: &'static str) -> Result<[u8; 16], FrameError> {
        self.need(16, field)?;
        let mut key = [0; 16];
        self.0.copy_to_slice(&mut key);
        Ok(key)
    }

    fn bytes(&mut self, len: usize, max: usize, field: &'static str) -> Result<Bytes, FrameError> {
        if len > max {
            return Err(FrameError::FieldTooLong { field, len, max });
        }
        self.need(len, field)?;
        Ok(self.0.split_to(len))
    }

    pub(super) fn bytes8(&mut self, max: usize, field: &'static str) -> Result<Bytes, FrameError> {
        let len = usize::from(self.u8(field)?);
        self.bytes(len, max, field)
    }

    pub(super) fn bytes16(&mut self, max: usize, field: &'static str) -> Result<Bytes, FrameError> {
        let len = usize::from(self.u16(field)?);
        self.bytes(len, max, field)
    }

    pub(super) fn bytes32(&mut self, max: usize, field: &'static str) -> Result<Bytes, FrameError> {
        let len = self.u32(field)? as usize;
        self.bytes(len, max, field)
    }

    pub(super) fn text8(&mut self, max: usize, field: &'static str) -> Result<String, FrameError> {
        to_text(&self.bytes8(max, field)?, field)
    }

    pub(super) fn text16(&mut self, max: usize, field: &'static str) -> Result<String, FrameError> {
        to_text(&self.bytes16(max, field)?, field)
    }

    pub(super) fn user(&mut self, field: &'static str) -> Result<UserId, FrameError> {
        // A longer one than allowed is refused by the name's own check, which says so better.
        let bytes = self.bytes16(usize::from(u16::MAX), field)?;
        Ok(UserId::new(bytes)?)
    }

    pub(super) fn device(&mut self, field: &'static str) -> Result<Option<DeviceId>, FrameError> {
        let bytes = self.bytes8(usize::from(u8::MAX), field)?;
        if bytes.is_empty() { Ok(None) } else { Ok(Some(DeviceId::new(bytes)?)) }
    }

    pub(super) fn end<T>(self, value: T) -> Result<T, FrameError> {
        if self.0.is_empty() { Ok(value) } else { Err(FrameError::LeftOver { extra: self.0.len() }) }
    }
}

fn to_text(bytes: &[u8], field: &'static str) -> Result<String, FrameError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| FrameError::NotUtf8 { field })
}

/// Text cut to `max` bytes at a character's edge: what we send keeps to the limits we ask of others.
fn cut(text: &str, max: usize) -> &[u8] {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

pub(super) fn put_text8(out: &mut BytesMut, text: &str) {
    let bytes = cut(text, usize::from(u8::MAX));
    out.put_u8(bytes.len() as u8);
    out.put_slice(bytes);
}

pub(super) fn put_text16(out: &mut BytesMut, text: &str, max: usize) {
    let bytes = cut(text, max.min(usize::from(u16::MAX)));
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

pub(super) fn put_bytes32(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}
