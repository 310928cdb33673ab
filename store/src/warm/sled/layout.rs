//! What lies where in sled: the trees, their keys, and values with version and checksum. Keys begin with the slot, big endian,
//! so that a shard's rows, an inbox's entries and a bucket's keys lie together in order. A name that isn't last ends with a
//! zero byte, which no name contains.

use bytes::Bytes;
use iris_protocol::versioned::{self, Versioned};
use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId, VnodeId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::state::Entry;
use crate::warm::record::{encode_entry, encode_record};
use crate::warm::{BucketId, ShardRow, WarmRecord, decode_record};

/// The format of everything below.
pub(crate) const FORMAT: i64 = 1;
/// Where `heads` says so.
pub(super) const FORMAT_KEY: &[u8] = b"format";
/// Where `heads` has the number of the next slot.
pub(super) const NEXT_SLOT_KEY: &[u8] = b"next slot";

/// Where `heads` has the number of the last durable step.
pub(super) const STEP_KEY: &[u8] = b"step";

const VALUE_VERSION: u8 = 1;
const VALUE_HEAD_LEN: usize = 1 + 8;

/// Which tree; the numbers are in journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Entries = 1,
    Trimmed = 2,
    Cursors = 3,
    Dedup = 4,
    Dropped = 5,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Entries, Self::Trimmed, Self::Cursors, Self::Dedup, Self::Dropped];

    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The open trees.
pub(super) struct Trees {
    /// Format, next slot, a head per shard, commit records, the list of slots to remove.
    pub(super) heads: ::sled::Tree,
    pub(super) journal: ::sled::Tree,
    data: [::sled::Tree; 5],
}

impl Trees {
    pub(super) fn open(db: &::sled::Db) -> ::sled::Result<Self> {
        let open = |name: &str| db.open_tree(name);
        let data = [open("entries")?, open("trimmed")?, open("cursors")?, open("dedup")?, open("dropped")?];
        Ok(Self { heads: open("heads")?, journal: open("journal")?, data })
    }

    pub(super) fn of(&self, kind: Kind) -> &::sled::Tree {
        &self.data[kind as usize - 1]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &::sled::Tree> {
        self.data.iter().chain([&self.heads, &self.journal])
    }

    /// Nothing was ever written: a crash between creating the store and its format.
    pub(super) fn are_empty(&self) -> bool {
        self.all().all(::sled::Tree::is_empty)
    }
}

/// A shard's row and where the rest of it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) slot: u32,
    pub(super) row: ShardRow,
}

impl Versioned for Head {
    const NAME: &'static str = "shard head";
    /// Goes up with the row's.
    const VERSION: u8 = 2;
}

pub(super) const HEAD_PREFIX: &[u8] = b"shard ";
pub(super) const COMMIT_PREFIX: &[u8] = b"commit ";
pub(super) const GARBAGE_PREFIX: &[u8] = b"garbage ";

pub(super) fn head_key(shard: ShardId) -> Vec<u8> {
    [HEAD_PREFIX, &shard.0.to_be_bytes()].concat()
}

pub(super) fn commit_key(shard: ShardId) -> Vec<u8> {
    [COMMIT_PREFIX, &shard.0.to_be_bytes()].concat()
}

pub(super) fn garbage_key(slot: u32) -> Vec<u8> {
    [GARBAGE_PREFIX, &slot.to_be_bytes()].concat()
}

/// The number at the end of a key of `heads`.
pub(super) fn number<const N: usize>(key: &[u8]) -> Option<[u8; N]> {
    key.last_chunk::<N>().copied()
}

pub(super) fn journal_key(shard: ShardId, chunk: u32) -> Vec<u8> {
    [&shard.0.to_be_bytes()[..], &chunk.to_be_bytes()].concat()
}

pub(super) fn inbox_key(slot: u32, vnode: VnodeId, user: &UserId) -> Vec<u8> {
    [&slot.to_be_bytes()[..], &vnode.0.to_be_bytes(), user.as_bytes(), &[0]].concat()
}

pub(super) fn entry_key(slot: u32, vnode: VnodeId, user: &UserId, id: EntryId) -> Vec<u8> {
    let mut key = inbox_key(slot, vnode, user);
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

pub(super) fn cursor_key(slot: u32, user: &UserId, device: &DeviceId) -> Vec<u8> {
    [&slot.to_be_bytes()[..], user.as_bytes(), &[0], device.as_bytes()].concat()
}

pub(super) fn bucket_key(slot: u32, bucket: BucketId) -> Vec<u8> {
    [slot.to_be_bytes(), bucket.0.to_be_bytes()].concat()
}

pub(super) fn dedup_key(slot: u32, bucket: BucketId, key: MessageKey, sender: &UserId) -> Vec<u8> {
    [&slot.to_be_bytes()[..], &bucket.0.to_be_bytes(), &key.0, sender.as_bytes()].concat()
}

/// A record's tree, key and value.
pub(super) fn place(slot: u32, record: &WarmRecord) -> (Kind, Vec<u8>, Vec<u8>) {
    let (kind, key) = match record {
        WarmRecord::Entry { user, entry } => (Kind::Entries, entry_key(slot, vnode_of(user), user, entry.id)),
        WarmRecord::Cursor(row) => (Kind::Cursors, cursor_key(slot, &row.user, &row.device)),
        WarmRecord::Dedup { bucket, key } => (Kind::Dedup, dedup_key(slot, *bucket, key.key, &key.sender)),
    };
    let value = value(&key, |out| encode_record(record, out));
    (kind, key, value)
}

/// As [`place`], of an entry that is borrowed.
pub(super) fn place_entry(slot: u32, vnode: VnodeId, user: &UserId, entry: &Entry) -> (Vec<u8>, Vec<u8>) {
    let key = entry_key(slot, vnode, user, entry.id);
    let value = value(&key, |out| encode_entry(user, entry, out));
    (key, value)
}

/// A value with version and checksum, which goes over the key too: a row in the wrong place is as bad as a wrong byte.
pub(super) fn value(key: &[u8], content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; VALUE_HEAD_LEN];
    content(&mut out);
    out[0] = VALUE_VERSION;
    let sum = sum(key, &out[VALUE_HEAD_LEN..]);
    out[1..VALUE_HEAD_LEN].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The content of a value.
pub(super) fn check<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (head, content) = value.split_first_chunk::<VALUE_HEAD_LEN>().ok_or("it ends early")?;
    let (version, found) = head.split_first_chunk::<1>().ok_or("no version")?;
    if *version != [VALUE_VERSION] {
        return Err(format!("version {}, this Iris reads {VALUE_VERSION}", version[0]));
    }
    if found != sum(key, content).to_le_bytes() {
        return Err("checksum".to_owned());
    }
    Ok(content)
}

pub(super) fn check_record(key: &[u8], value: &[u8]) -> Result<WarmRecord, String> {
    decode_record(&Bytes::copy_from_slice(check(key, value)?))
}

pub(super) fn encode_head(shard: ShardId, head: &Head) -> Vec<u8> {
    value(&head_key(shard), |out| out.extend_from_slice(&versioned::encode(head)))
}

pub(super) fn decode_head(shard: ShardId, value: &[u8]) -> Result<Head, String> {
    versioned::decode(check(&head_key(shard), value)?).map_err(|error| error.to_string())
}

pub(super) fn id_value(key: &[u8], id: EntryId) -> Vec<u8> {
    value(key, |out| out.extend_from_slice(&id.0.to_le_bytes()))
}

pub(super) fn check_id(key: &[u8], value: &[u8]) -> Result<EntryId, String> {
    let id = check(key, value)?.try_into().map_err(|_| "not an id")?;
    Ok(EntryId(u64::from_le_bytes(id)))
}

fn sum(key: &[u8], content: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(content);
    hash.digest()
}
