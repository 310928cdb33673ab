//! The warm tier: what a shard's checkpoints left on disk, behind a small trait, so that another embedded store can take
//! SQLite's place. Owns the trait and the shapes that cross it; each adapter is a file beside this one and passes the
//! conformance suite in `testing`.

mod schema;
mod sqlite;

use std::path::Path;

use iris_protocol::versioned::Versioned;
use iris_protocol::{DeviceId, EntryId, ShardId, UserId, VnodeId};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::state::{AppliedMark, Entry, PageLimits};

pub use sqlite::Warm;

/// What a shard's last checkpoint says about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRow {
    /// The state of the log the checkpoint holds.
    pub mark: AppliedMark,
    /// The last id given in the shard.
    pub last_stamp: EntryId,
    /// Keys first appended before this id are forgotten, even where a block still holds them.
    pub dedup_from: EntryId,
}

impl Versioned for ShardRow {
    const NAME: &'static str = "shard row";
    const VERSION: u8 = 1;
}

/// A run of dedup keys in one piece of bytes, opaque to the warm tier (its encoding has version and checksum).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupBlock {
    /// Id of the first key's entry.
    pub first: EntryId,
    /// Id of the last key's entry.
    pub last: EntryId,
    /// The keys.
    pub bytes: Vec<u8>,
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

/// Everything one checkpoint of a shard writes.
#[derive(Debug)]
pub struct Changes<'a> {
    /// The shard's new row.
    pub row: &'a ShardRow,
    /// New entries, in order of (vnode, user): grouped writes touch a third of the pages that scattered ones do.
    pub inboxes: &'a [InboxChange<'a>],
    /// Cursors that moved.
    pub cursors: &'a [(UserId, DeviceId, EntryId)],
    /// New dedup keys, ascending.
    pub dedup: &'a [DedupBlock],
}

/// An embedded store that holds the checkpoints of all shards of a node. Every call may block on the disk.
pub trait WarmStore: Send + Sync {
    /// The shard's row; `None` before its first checkpoint.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError>;

    /// Hands over every cursor of the shard.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(UserId, DeviceId, EntryId)) -> Result<(), StoreError>;

    /// Hands over every dedup block of the shard that ends at or after `from`, ascending.
    ///
    /// # Errors
    /// The disk's, damage, or what `each` answers.
    fn dedup_blocks(
        &self,
        shard: ShardId,
        from: EntryId,
        each: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Writes a checkpoint: atomically, durably, all of it or nothing. Dedup blocks that end before the row's `dedup_from`
    /// are removed with it.
    ///
    /// # Errors
    /// The disk's. Whether the checkpoint is on disk is unknown then, and later ones are refused until a restart.
    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError>;

    /// Entries of an inbox with `after < id <= up_to`, ascending, within the limits (at least one if there is one), and
    /// whether more follow.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError>;

    /// Names the store in errors.
    fn path(&self) -> &Path;
}
