//! The state of one shard: what applying its log made of it. New entries and cursor moves stay in memory (hot) until a
//! checkpoint writes them to the warm tier; recent dedup keys and all devices are in memory. Owns apply, reads across both
//! tiers, checkpoints, and the looks a leader takes before it proposes; what is on disk is the warm tier's business.
//!
//! Apply is a pure function of state and command: no clock, no randomness, no I/O. A restart begins from the last checkpoint
//! and applies the log behind it again, with the same outcomes.
//!
//! One short lock per shard; decoding and hashing happen before it is taken, the disk is used without it.

mod apply;
mod checkpoint;
mod cursors;
mod dedup;
mod hash;
mod layer;
mod limit;
mod resolve;
mod retention;
mod snapshot;
mod types;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, ShardId, UserId};

use crate::command::decode_command;
use crate::{StoreError, WarmStore};

pub use dedup::{BucketRow, DEDUP_IN_FLIGHT_KEYS_MAX, DEDUP_RECENT_KEYS, DedupRow};
pub(crate) use limit::PageFill;
pub use resolve::Resolution;
pub use types::{
    AppliedMark, ApplyReply, CheckpointReport, Entry, Page, PageLimits, RetentionLook, RetentionTimes, ShardStats,
    StoreOptions,
};

use checkpoint::Frozen;
use cursors::Cursors;
use dedup::Dedup;
use layer::Layer;

/// One shard's state. Cheap to clone.
#[derive(Clone)]
pub struct ShardStore {
    inner: Arc<Inner>,
}

struct Inner {
    shard: ShardId,
    warm: Arc<dyn WarmStore>,
    options: StoreOptions,
    state: Mutex<State>,
    /// Held through a checkpoint: one at a time.
    checkpointing: Mutex<()>,
    /// A snapshot is on disk, or may be, that is not loaded: memory is of another time, and must not be written.
    replaced: AtomicBool,
}

/// What the lock protects. Entries up to `floor` are in the warm tier, those after it in `frozen`, then in `active`.
struct State {
    applied: AppliedMark,
    checkpointed: AppliedMark,
    last_stamp: EntryId,
    floor: EntryId,
    active: Layer,
    frozen: Option<Arc<Frozen>>,
    dedup: Dedup,
    cursors: Cursors,
    stats: ShardStats,
}

impl ShardStore {
    /// Loads what the last checkpoint left, or begins empty.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub fn open(warm: Arc<dyn WarmStore>, shard: ShardId, options: StoreOptions) -> Result<Self, StoreError> {
        let state = State::load(warm.as_ref(), shard, &options)?;
        let (state, checkpointing, replaced) = (Mutex::new(state), Mutex::default(), AtomicBool::new(false));
        Ok(Self { inner: Arc::new(Inner { shard, warm, options, state, checkpointing, replaced }) })
    }

    /// How far the log is applied, in memory.
    #[must_use]
    pub fn applied(&self) -> AppliedMark {
        self.state().applied.clone()
    }

    /// What a restart begins from.
    #[must_use]
    pub fn checkpointed(&self) -> AppliedMark {
        self.state().checkpointed.clone()
    }

    /// Applies one command. A command that can't be applied changes nothing, on any replica.
    ///
    /// # Errors
    /// Not a command, or out of order.
    pub fn apply(&self, index: u64, log_id: Bytes, command: &Bytes) -> Result<ApplyReply, StoreError> {
        let shard = self.inner.shard;
        let command = decode_command(command).map_err(|source| StoreError::Command { shard, index, source })?;
        let digests = apply::digests(&command.items);
        let mut state = self.state();
        state.check_order(shard, index)?;
        let reply = state.apply(shard, index, &command, &digests)?;
        state.mark(index, log_id);
        Ok(reply)
    }

    /// Moves the mark past a log entry without a command. One at or before the mark is ignored.
    pub fn apply_blank(&self, index: u64, log_id: Bytes) {
        let mut state = self.state();
        if state.check_order(self.inner.shard, index).is_ok() {
            state.mark(index, log_id);
        }
    }

    /// Moves the mark past a membership entry and keeps the membership. One at or before the mark is ignored.
    pub fn apply_membership(&self, index: u64, log_id: Bytes, membership: Bytes) {
        let mut state = self.state();
        if state.check_order(self.inner.shard, index).is_ok() {
            state.mark(index, log_id);
            state.applied.membership = membership;
        }
    }

    /// The last id given in the shard: what a new leader's clock goes on from (A2).
    #[must_use]
    pub fn last_stamp(&self) -> EntryId {
        self.state().last_stamp
    }

    /// Entries of an inbox after `after`, if memory alone can answer; `None` means [`ShardStore::read`] must.
    #[must_use]
    pub fn read_hot(&self, user: &UserId, after: EntryId, limits: PageLimits) -> Option<Page> {
        let state = self.state();
        let after = state.after_trims(user, after);
        (after >= state.floor).then(|| state.page(user, after, PageFill::new(limits)))
    }

    /// Entries of an inbox after `after`, from both tiers. May block on the disk.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub fn read(&self, user: &UserId, after: EntryId, limits: PageLimits) -> Result<Page, StoreError> {
        // Floor and hot entries are taken in one moment and the disk is read up to that floor only: a checkpoint that lands
        // meanwhile neither doubles an entry nor hides one.
        let (after, floor, hot) = {
            let state = self.state();
            let after = state.after_trims(user, after);
            let hot = state.page(user, after.max(state.floor), PageFill::new(limits));
            if after >= state.floor {
                return Ok(hot);
            }
            (after, state.floor, hot)
        };
        let (entries, more) = self.inner.warm.scan(self.inner.shard, user, after, floor, limits)?;
        if more {
            let scanned_to = entries.last().map_or(after, |entry| entry.id);
            return Ok(Page { entries, more, scanned_to });
        }
        let mut page = PageFill::after(limits, entries);
        let cut = page.extend(&hot.entries);
        let more = cut || hot.more;
        let last = page.entries.last().map_or(floor, |entry| entry.id.max(floor));
        Ok(Page { entries: page.entries, more, scanned_to: if more { last } else { hot.scanned_to } })
    }

    /// A device's cursor; [`EntryId::ZERO`] if it never moved.
    ///
    /// # Errors
    /// None so far: all cursors are in memory.
    pub fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<EntryId, StoreError> {
        let state = self.state();
        Ok(state.cursors.get(user.as_str(), device.as_str()).map_or(EntryId::ZERO, |device| device.cursor))
    }

    /// Bytes not yet in the warm tier.
    #[must_use]
    pub fn hot_bytes(&self) -> usize {
        self.state().hot_bytes()
    }

    /// Whether the leader should refuse proposals until a checkpoint made room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.hot_bytes() >= self.inner.options.hot_bytes_max
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        let state = self.state();
        ShardStats {
            dedup_keys: state.dedup.len(),
            dedup_keys_in_memory: state.dedup.in_memory(),
            dedup_bytes_in_memory: state.dedup.bytes(),
            dedup_dropped_early: state.dedup.dropped_early(),
            hot_bytes: state.hot_bytes(),
            cursors: state.cursors.len(),
            ..state.stats.clone()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

impl std::fmt::Debug for ShardStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardStore").field("shard", &self.inner.shard).finish_non_exhaustive()
    }
}

impl State {
    /// The entry that is applied next must lie behind the mark; nothing applied yet (an empty log id) takes any.
    fn check_order(&self, shard: ShardId, index: u64) -> Result<(), StoreError> {
        let applied = self.applied.index;
        if self.applied.log_id.is_empty() || index > applied {
            return Ok(());
        }
        Err(StoreError::OutOfOrder { shard, index, applied })
    }

    fn mark(&mut self, index: u64, log_id: Bytes) {
        self.applied.index = index;
        self.applied.log_id = log_id;
    }

    fn hot_bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.layer.bytes())
    }

    /// Hot entries after `after`, which is at or above the floor.
    fn page(&self, user: &UserId, after: EntryId, mut page: PageFill) -> Page {
        let frozen = self.frozen.as_ref().map_or(&[][..], |frozen| frozen.layer.entries_after(user, after));
        let more = page.extend(frozen.iter().chain(self.active.entries_after(user, after)));
        let last = page.entries.last().map_or(after, |entry| entry.id);
        // A cursor from the future (another shard's, a restored client's) must not jump back.
        let scanned_to = if more { last } else { self.last_stamp.max(after) };
        Page { entries: page.entries, more, scanned_to }
    }

    /// Where a read after `after` really begins: what was trimmed is gone, even where a checkpoint has yet to remove it.
    fn after_trims(&self, user: &UserId, after: EntryId) -> EntryId {
        let frozen = self.frozen.as_ref().map_or(EntryId::ZERO, |frozen| frozen.layer.trimmed(user));
        after.max(frozen).max(self.active.trimmed(user))
    }
}

/// Locks hold plain data; apply checks everything that can fail before it changes anything.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
