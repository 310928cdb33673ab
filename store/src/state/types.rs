//! The values a shard's state is asked with and answers in. No behaviour beyond defaults.

use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{EntryId, MessageKey, UserId, VnodeId};
use serde::{Deserialize, Serialize};

use super::dedup::{DEDUP_BUCKET_KEYS_MAX, DEDUP_RECENT_KEYS};
use crate::command::{Item, Outcome};

/// One message in an inbox. Cheap to clone: the body is shared with the log's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the inbox, strictly increasing (A2).
    pub id: EntryId,
    /// Who sent it.
    pub sender: UserId,
    /// The open kind tag (A17).
    pub kind: u16,
    /// The sender's idempotency key (A3).
    pub key: MessageKey,
    /// Opaque bytes.
    pub body: Bytes,
}

/// How far the log was applied. Log id and membership are the caller's encodings, kept with each checkpoint so that a
/// restart and a snapshot agree on them. The default means that nothing was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedMark {
    /// Index of the last applied log entry; meaningless while `log_id` is empty.
    pub index: u64,
    /// The caller's encoding of the last applied log id; empty means nothing was applied.
    pub log_id: Bytes,
    /// The caller's encoding of the last applied membership; empty means none was.
    pub membership: Bytes,
}

/// Bounds and windows of one shard. What decides an outcome (everything about dedup) must be the same on every replica of the
/// shard, or they would answer differently.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of entries and cursors not yet in the warm tier, per shard. At the bound the leader refuses proposals: 8 shards
    /// of 24 MiB leave room for the rest within the 512 MiB of a node (E8), and hold some 50,000 small messages each, more
    /// than arrive between two checkpoints.
    pub hot_bytes_max: usize,
    /// How long a key is remembered, in the time of the entry ids (A3): 8 days, a day more than the outbox may hold a message.
    pub dedup_window: Duration,
    /// Keys remembered per shard (A3), nearly all of them on disk. The oldest go first, a bucket at a time, and are counted.
    pub dedup_keys_max: usize,
    /// Keys in memory at least: [`DEDUP_RECENT_KEYS`], fewer in tests.
    pub dedup_recent_keys: usize,
    /// Keys in a bucket at most; fewer in tests, and where the bound is small.
    pub dedup_bucket_keys_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            hot_bytes_max: 24 * 1024 * 1024,
            dedup_window: Duration::from_secs(8 * 24 * 3600),
            dedup_keys_max: 10_000_000,
            dedup_recent_keys: DEDUP_RECENT_KEYS,
            dedup_bucket_keys_max: DEDUP_BUCKET_KEYS_MAX,
        }
    }
}

/// What applying one command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyReply {
    /// One per item, in order.
    pub outcomes: Vec<Outcome>,
    /// Users whose inbox grew, each once, in the order of their first new entry.
    pub touched: Vec<UserId>,
    /// The shard's last id before this command: a subscriber that was told of every earlier touch may read after this
    /// instead of its older `scanned_to`, and so stays in memory across checkpoints.
    pub before: EntryId,
}

/// How much of an inbox one read may return. At least one entry is returned if there is one, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Entries.
    pub entries_max: usize,
    /// Bytes of bodies.
    pub bytes_max: usize,
}

/// A piece of an inbox, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The limits were reached and more entries follow.
    pub more: bool,
    /// No entry of this user up to here exists beyond those returned: what to read after next. Without `more` it is the
    /// shard's last id at that moment, so that an idle follower's next read is answered from memory.
    pub scanned_to: EntryId,
}

/// What retention goes by, as ids: the leader's clock is read where the look is taken, never in apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionTimes {
    /// Entries before this id were kept long enough.
    pub trim_before: EntryId,
    /// Devices last seen before this stamp are forgotten.
    pub devices_before: EntryId,
}

/// What a look for what is to go found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionLook {
    /// To be proposed, in this order.
    pub items: Vec<Item>,
    /// Where to look on, after the items were applied; `None` at the end.
    pub next: Option<VnodeId>,
}

/// What a checkpoint wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The state it made durable; unchanged if there was nothing new.
    pub mark: AppliedMark,
    /// Entries written.
    pub entries: usize,
    /// Bytes of hot memory written and freed.
    pub bytes: usize,
    /// Cursors written.
    pub cursors: usize,
    /// Dedup keys written.
    pub keys: usize,
    /// How long the durable write took.
    pub took: Duration,
}

/// Counters of one shard since it was opened, and gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Keys remembered now.
    pub dedup_keys: usize,
    /// Those of them in memory.
    pub dedup_keys_in_memory: usize,
    /// Those in the warm tier, as of the last checkpoint; the recent ones are in memory as well.
    pub dedup_keys_on_disk: usize,
    /// Bytes of memory that deduplication takes, allocations as they are.
    pub dedup_bytes_in_memory: usize,
    /// Keys forgotten before their window ended because the bound was hit: not zero means that A3 was weakened.
    pub dedup_dropped_early: u64,
    /// Entries appended.
    pub entries_applied: u64,
    /// Messages answered with an earlier entry's id.
    pub duplicates: u64,
    /// Messages refused because their key was used for something else.
    pub key_conflicts: u64,
    /// Bytes not yet in the warm tier.
    pub hot_bytes: usize,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Devices known, each with its cursor.
    pub cursors: usize,
    /// Entries trimmed, as their leader counted them.
    pub entries_trimmed: u64,
    /// Devices forgotten because they were not seen for long.
    pub devices_expired: u64,
}
