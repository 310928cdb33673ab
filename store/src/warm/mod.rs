//! The warm tier: what a shard's checkpoints left on disk, behind a small trait, so that another embedded store can take
//! SQLite's place. Owns the trait and the shapes that cross it; each adapter is a folder beside this one and passes the
//! conformance suite in `testing`.
//!
//! Everything of a shard lies under a *slot*, a number of the adapter's own. An installed snapshot fills a new slot in small
//! steps, then one small durable write makes the shard point to it; the old slot is removed in small steps. So a crash at any
//! point leaves the old shard or the new one, and other shards' checkpoints never wait for long (docs/decisions/0007).

mod engine;
mod record;
mod sled;
mod sqlite;
mod turns;
mod types;

use std::path::Path;

use iris_protocol::{EntryId, MessageKey, ShardId, UserId};

use crate::StoreError;
use crate::state::{Entry, PageLimits};

pub(crate) use engine::verify_offline;
pub use engine::{Engine, made_with, open};
pub(crate) use record::{decode_record, encode_record};
#[cfg(test)]
pub(crate) use sled::SLED_VERSION;
pub use sled::SledWarm;
pub use sqlite::Warm;
pub use types::{
    BucketId, BucketKeys, Changes, CursorRow, DedupKey, Finding, InboxChange, ShardRow, Trim, Verified, WarmRecord,
};

/// The first append of a dedup key: its entry, and the digest that tells two messages with one key apart.
pub type FirstAppend = (EntryId, u64);

/// An embedded store that holds the checkpoints of all shards of a node. Every call may block on the disk.
pub trait WarmStore: Send + Sync {
    /// The shards it holds, ascending.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn shards(&self) -> Result<Vec<ShardId>, StoreError>;

    /// The shard's row; `None` before its first checkpoint.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError>;

    /// Hands over every cursor of the shard.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError>;

    /// Writes a checkpoint: atomically, durably, all of it or nothing.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where a view of the shard is in the way: nothing was written. Else the disk's. Whether the
    /// checkpoint is on disk is unknown then, and later ones are refused until a restart (a full disk excepted, where the
    /// adapter knows that nothing was written).
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

    /// Looks keys up in one bucket: an answer per key, in order.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError>;

    /// Hands over every key of a bucket, in no particular order.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn dedup_keys(&self, shard: ShardId, bucket: BucketId, each: &mut dyn FnMut(DedupKey)) -> Result<(), StoreError>;

    /// Pins the shard as its last checkpoint left it; `None` before the first. While it lives, SQLite's side file grows and
    /// sled puts checkpoints of the shard off ([`StoreError::Busy`]): copy out and let go.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn view(&self, shard: ShardId) -> Result<Option<Box<dyn WarmView>>, StoreError>;

    /// Replaces the shard, or makes it: all of it or, on an error or a crash, nothing. Durable when it returns. Checkpoints of
    /// other shards go on meanwhile.
    ///
    /// # Errors
    /// The disk's, or the first that `records` gives.
    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError>;

    /// Removes the shard: this node no longer holds it. Durable when it returns.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, shard: ShardId) -> Result<(), StoreError>;

    /// Reads everything there is and checks every checksum, shard by shard; goes on after damage.
    ///
    /// # Errors
    /// The disk's, where it can't go on.
    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError>;

    /// Reads all there is, for damage that nobody would meet otherwise before it matters, or that reading an inbox would not
    /// notice. Others go on meanwhile.
    ///
    /// # Errors
    /// The disk's, or damage.
    fn scrub(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Names the store in errors.
    fn path(&self) -> &Path;
}

/// A shard as one checkpoint left it.
pub trait WarmView: Send {
    /// The checkpoint's row.
    fn row(&self) -> &ShardRow;

    /// Hands over everything else: entries by vnode, user and id, then cursors, then dedup keys.
    ///
    /// # Errors
    /// The disk's, damage, or what `each` answers.
    fn each(&mut self, each: &mut dyn FnMut(WarmRecord) -> Result<(), StoreError>) -> Result<(), StoreError>;
}
