//! What fuzz targets see of this crate's decoders: each function reads bytes as the product does and gives back what it would
//! write for them.

use bytes::Bytes;
use iris_protocol::versioned::{self, DecodeError};
use protobuf::Message;

use crate::checked_file;
use crate::command::{CommandError, Item, KeysSeen, decode_batch, decode_command};
use crate::log::{Bounds, Record};
use crate::warm::{WarmRecord, decode_record, encode_record};

/// A checked file's version and content, from its bytes.
///
/// # Errors
/// It is damaged, or none.
pub fn read_checked_file(file: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let version = checked_file::check(file)?;
    file.get(checked_file::head(version, &[]).len()..).map(|content| (version, content)).ok_or("no content")
}

/// A checked file's bytes.
#[must_use]
pub fn write_checked_file(version: u16, content: &[u8]) -> Vec<u8> {
    [&checked_file::head(version, content), content].concat()
}

/// A record of the log as raft-engine reads it: its index and the entry.
///
/// # Errors
/// It is none.
pub fn read_record(bytes: &[u8]) -> Result<(u64, Bytes), String> {
    Record::parse_from_bytes(bytes).map(|record| (record.index, record.bytes)).map_err(|error| error.to_string())
}

/// A record's bytes.
///
/// # Errors
/// Never in fact; the trait allows for it.
pub fn write_record(index: u64, bytes: Bytes) -> Result<Vec<u8>, String> {
    Record::new(index, bytes).write_to_bytes().map_err(|error| error.to_string())
}

/// The bounds of a group's log, read and written again.
///
/// # Errors
/// They are none.
pub fn bounds(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    versioned::decode::<Bounds>(bytes).map(|bounds| versioned::encode(&bounds))
}

/// All of a shard's command.
///
/// # Errors
/// Another version, or not a command.
pub fn read_command(command: &Bytes) -> Result<(Vec<Item>, KeysSeen), CommandError> {
    let seen = decode_command(command)?.seen;
    decode_batch(command).map(|items| (items, seen))
}

/// A record of a snapshot.
///
/// # Errors
/// It is none.
pub fn read_warm_record(bytes: &Bytes) -> Result<WarmRecord, String> {
    decode_record(bytes)
}

/// A record's bytes.
#[must_use]
pub fn write_warm_record(record: &WarmRecord) -> Vec<u8> {
    let mut out = Vec::new();
    encode_record(record, &mut out);
    out
}
