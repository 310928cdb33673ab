//! How an entry is laid out inside the engine: version u8, index u64 little endian, then the caller's bytes. The engine
//! checksums each block of entries and checks it whenever it reads one from disk; the index in the record ties a block to
//! its place. The engine asks for protobuf 2's `Message`; this is the least of it, without any protobuf encoding.

use std::any::Any;
use std::io::{Error as IoError, ErrorKind, Read};
use std::sync::OnceLock;

use bytes::Bytes;
use protobuf::reflect::MessageDescriptor;
use protobuf::well_known_types::Empty;
use protobuf::{Clear, CodedInputStream, CodedOutputStream, Message, ProtobufError, ProtobufResult, UnknownFields};
use raft_engine::MessageExt;

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8;

/// One entry as the engine sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    pub(crate) index: u64,
    pub(crate) bytes: Bytes,
    unknown: UnknownFields,
}

/// Tells the engine how to find a record's index.
pub(super) struct Records;

impl MessageExt for Records {
    type Entry = Record;

    fn index(record: &Record) -> u64 {
        record.index
    }
}

impl Record {
    pub(crate) fn new(index: u64, bytes: Bytes) -> Self {
        Self { index, bytes, unknown: UnknownFields::default() }
    }

    fn head(&self) -> [u8; HEAD_LEN] {
        let mut head = [VERSION; HEAD_LEN];
        head[1..].copy_from_slice(&self.index.to_le_bytes());
        head
    }

    fn decode(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        let Some((&[version, ref index @ ..], _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Err(format!("a log record of {} bytes", bytes.len()));
        };
        if version != VERSION {
            return Err(format!("a log record of version {version}, this Iris reads {VERSION}"));
        }
        self.index = u64::from_le_bytes(*index);
        self.bytes = Bytes::from(bytes).slice(HEAD_LEN..);
        Ok(())
    }
}

impl Clear for Record {
    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Record {
    // Only asked for when a message lacks a required field, which this one can't.
    fn descriptor(&self) -> &'static MessageDescriptor {
        Empty::descriptor_static()
    }

    fn is_initialized(&self) -> bool {
        true
    }

    fn merge_from(&mut self, stream: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        self.decode(bytes).map_err(|why| ProtobufError::IoError(IoError::new(ErrorKind::InvalidData, why)))
    }

    fn write_to_with_cached_sizes(&self, stream: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
        stream.write_raw_bytes(&self.head())?;
        stream.write_raw_bytes(&self.bytes)
    }

    // The way the engine writes: straight into its buffer, one copy.
    fn write_to_vec(&self, out: &mut Vec<u8>) -> ProtobufResult<()> {
        out.extend_from_slice(&self.head());
        out.extend_from_slice(&self.bytes);
        Ok(())
    }

    fn compute_size(&self) -> u32 {
        u32::try_from(HEAD_LEN + self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn get_cached_size(&self) -> u32 {
        self.compute_size()
    }

    fn get_unknown_fields(&self) -> &UnknownFields {
        &self.unknown
    }

    fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
        &mut self.unknown
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn new() -> Self {
        Self::default()
    }

    fn default_instance() -> &'static Self {
        static INSTANCE: OnceLock<Record> = OnceLock::new();
        INSTANCE.get_or_init(Self::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_refuses_what_it_is_not() {
        let record = Record::new(77, Bytes::from_static(b"body"));
        let mut bytes = Vec::new();
        record.write_to_vec(&mut bytes).unwrap();
        assert_eq!(Record::parse_from_bytes(&bytes).unwrap(), record);
        assert_eq!(record.write_to_bytes().unwrap(), bytes);
        bytes[0] = 2;
        assert!(Record::parse_from_bytes(&bytes).is_err());
        assert!(Record::parse_from_bytes(&bytes[..8]).is_err());
        assert!(Record::parse_from_bytes(&[]).is_err());
    }
}
