//! The values that cross the border to the warm tier: what a checkpoint writes, what a view gives back, what a check finds.
//! No behaviour.

use iris_protocol::versioned::Versioned;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId, VnodeId};
use serde::{Deserialize, Serialize};

use crate::state::{AppliedMark, DedupRow, Entry};

/// What a shard's last checkpoint says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRow {
    /// The state of the log the checkpoint holds.
    pub mark: AppliedMark,
    /// The last id given in the shard.
    pub last_stamp: EntryId,
    /// Which dedup keys are remembered, and in which buckets the warm tier has them.
    pub dedup: DedupRow,
}

impl Versioned for ShardRow {
    const NAME: &'static str = "shard row";
    /// Also goes up when a key's bucket is chosen in another way: old keys would be looked for in the wrong ones.
    const VERSION: u8 = 3;
}

/// Names a bucket of dedup keys within its shard. Never used again once the bucket was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketId(pub u32);

impl std::fmt::Display for BucketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// New entries of one inbox, ascending.
#[derive(Debug, Clone, Copy)]
pub struct InboxChange<'a> {
    /// The inbox's slice of the user space: part of the key on disk, so that vnodes can move.
    pub vnode: VnodeId,
    /// The inbox.
    pub user: &'a UserId,
    /// What was appended.
    pub entries: &'a [Entry],
}

/// Everything of one inbox up to an id goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The inbox's slice of the user space.
    pub vnode: VnodeId,
    /// The inbox.
    pub user: UserId,
    /// The last entry to go.
    pub up_to: EntryId,
}

/// Where a device stands and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CursorRow {
    /// The inbox.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The last entry received.
    pub cursor: EntryId,
    /// The stamp of the last sign of life.
    pub seen: EntryId,
}

/// A key that was used, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupKey {
    /// The sender's key.
    pub key: MessageKey,
    /// The sender.
    pub sender: UserId,
    /// The entry it made.
    pub id: EntryId,
    /// What tells two messages with one key apart.
    pub digest: u64,
}

/// New keys of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketKeys {
    /// The bucket.
    pub bucket: BucketId,
    /// The keys; one that the bucket has already is replaced.
    pub keys: Vec<DedupKey>,
}

/// Everything one checkpoint of a shard writes.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// The shard's new row.
    pub row: &'a ShardRow,
    /// New entries, in order of (vnode, user): grouped writes touch a third of the pages that scattered ones do.
    pub inboxes: &'a [InboxChange<'a>],
    /// What goes from the inboxes, the new entries included.
    pub trims: &'a [Trim],
    /// Cursors that moved or were seen, one row a device: neither field of one moves back.
    pub cursors: &'a [CursorRow],
    /// Devices that are no longer known. Removed before `cursors` is written, so that one known again begins anew.
    pub cursors_removed: &'a [(UserId, DeviceId)],
    /// New dedup keys.
    pub dedup: &'a [BucketKeys],
    /// Buckets that go as a whole.
    pub dedup_removed: &'a [BucketId],
}

impl<'a> Changes<'a> {
    /// A checkpoint that changes nothing but the row.
    #[must_use]
    pub fn new(row: &'a ShardRow) -> Self {
        Self { row, inboxes: &[], trims: &[], cursors: &[], cursors_removed: &[], dedup: &[], dedup_removed: &[] }
    }
}

/// One thing a shard's warm tier holds besides its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmRecord {
    /// An entry of an inbox.
    Entry {
        /// The inbox.
        user: UserId,
        /// The entry.
        entry: Entry,
    },
    /// A device's cursor.
    Cursor(CursorRow),
    /// A dedup key.
    Dedup {
        /// Its bucket.
        bucket: BucketId,
        /// The key.
        key: DedupKey,
    },
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which part.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What [`super::WarmStore::verify`] comes across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// A shard; its records follow.
    Shard(ShardId, ShardRow),
    /// A record whose checksum is right. Entries come by vnode, user and id.
    Record {
        /// The vnode under which an entry lies.
        vnode: Option<VnodeId>,
        /// The record.
        record: WarmRecord,
    },
    /// Something whose checksum is wrong, or that can't be read.
    Damaged(Finding),
}
