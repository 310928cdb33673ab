//! The state of one shard: what applying its log made of it. New entries and cursor moves stay in memory (hot) until a
//! checkpoint writes them to the warm tier; dedup keys of the whole window and all cursors are in memory. Owns apply, reads
//! across both tiers, and checkpoints; what is on disk is the warm tier's business.
//!
//! Apply is a pure function of state and command: no clock, no randomness, no I/O. A restart begins from the last checkpoint
//! and applies the log behind it again, with the same outcomes.
//!
//! One short lock per shard; decoding and hashing happen before it is taken, the disk is used without it.

mod apply;
mod cursors;
mod dedup;
mod hash;
mod layer;
mod limit;
mod snapshot;
mod types;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, ShardId, UserId};

use crate::command::decode_refs;
use crate::warm::{BucketId, BucketKeys, BucketRow, Changes, CursorRow, DedupRow, InboxChange, ShardRow};
use crate::{StoreError, WarmStore};

pub(crate) use limit::PageFill;
pub use types::{AppliedMark, ApplyReply, CheckpointReport, Entry, Page, PageLimits, ShardStats, StoreOptions};

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
    /// A snapshot is on disk that could not be loaded: memory is of another time, and must not be written.
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
    /// Where the warm tier has the keys.
    buckets: Vec<BucketRow>,
    cursors: Cursors,
    stats: ShardStats,
}

/// A layer on its way to the warm tier, with the row that goes with it. Never changes.
struct Frozen {
    layer: Layer,
    row: ShardRow,
    buckets_removed: Vec<BucketId>,
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
        let items = decode_refs(command).map_err(|source| StoreError::Command { shard, index, source })?;
        let digests = apply::digests(&items);
        let mut state = self.state();
        state.check_order(shard, index)?;
        let reply = state.apply(shard, index, &items, &digests)?;
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
        (after >= state.floor).then(|| state.page(user, after, PageFill::new(limits)))
    }

    /// Entries of an inbox after `after`, from both tiers. May block on the disk.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub fn read(&self, user: &UserId, after: EntryId, limits: PageLimits) -> Result<Page, StoreError> {
        // Floor and hot entries are taken in one moment and the disk is read up to that floor only: a checkpoint that lands
        // meanwhile neither doubles an entry nor hides one.
        let (floor, hot) = {
            let state = self.state();
            let hot = state.page(user, after.max(state.floor), PageFill::new(limits));
            if after >= state.floor {
                return Ok(hot);
            }
            (state.floor, hot)
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
        Ok(self.state().cursors.get(user.as_str(), device.as_str()))
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

    /// Writes everything applied so far to the warm tier, durably and at once, and frees its memory. Apply and reads go on
    /// meanwhile. Does nothing when nothing was applied since the last one. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; nothing is lost from memory then, and the mark of [`ShardStore::checkpointed`] stays.
    pub fn checkpoint(&self) -> Result<CheckpointReport, StoreError> {
        let _one = lock(&self.inner.checkpointing);
        if self.inner.replaced.load(Ordering::SeqCst) {
            return Err(StoreError::Poisoned { path: self.inner.warm.path().to_owned() });
        }
        let started = Instant::now();
        let Some(frozen) = self.state().freeze() else {
            return Ok(CheckpointReport { mark: self.checkpointed(), ..CheckpointReport::default() });
        };
        // When a device was last seen is not known here yet: its cursor's time stands in.
        let cursors = frozen.layer.cursors.to_vec().into_iter();
        let cursors: Vec<CursorRow> =
            cursors.map(|(user, device, cursor)| CursorRow { user, device, cursor, seen: cursor }).collect();
        let bucket = frozen.row.dedup.buckets.last().map(|bucket| bucket.id);
        let dedup: Vec<BucketKeys> =
            bucket.map(|bucket| BucketKeys { bucket, keys: dedup::keys(&frozen.layer) }).into_iter().collect();
        let mut inboxes: Vec<_> = frozen
            .layer
            .inboxes()
            .map(|inbox| InboxChange { vnode: vnode_of(&inbox.user), user: &inbox.user, entries: &inbox.entries })
            .collect();
        inboxes.sort_unstable_by(|a, b| (a.vnode, a.user).cmp(&(b.vnode, b.user)));
        let changes = Changes {
            inboxes: &inboxes,
            cursors: &cursors,
            dedup: &dedup,
            dedup_removed: &frozen.buckets_removed,
            ..Changes::new(&frozen.row)
        };
        self.inner.warm.checkpoint(self.inner.shard, &changes)?;
        let report = CheckpointReport {
            mark: frozen.row.mark.clone(),
            entries: frozen.layer.entries_len(),
            bytes: frozen.layer.bytes(),
            cursors: cursors.len(),
            took: started.elapsed(),
        };
        // The layer itself is freed after the lock, when `frozen` goes: that takes milliseconds.
        self.state().thaw();
        Ok(report)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        let state = self.state();
        ShardStats {
            dedup_keys: state.dedup.len(),
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
    /// What the last checkpoint left.
    fn load(warm: &dyn WarmStore, shard: ShardId, options: &StoreOptions) -> Result<Self, StoreError> {
        let row = warm.shard(shard)?.unwrap_or_default();
        let mut cursors = Cursors::default();
        warm.cursors(shard, &mut |row| {
            cursors.raise(&row.user, &row.device, row.cursor);
        })?;
        let mut dedup = Dedup::new(options);
        for bucket in &row.dedup.buckets {
            let mut keys = Vec::with_capacity(bucket.keys as usize);
            warm.dedup_keys(shard, bucket.id, &mut |key| keys.push(key))?;
            dedup.load(keys, row.dedup.from).map_err(|why| StoreError::Corrupt {
                path: warm.path().to_owned(),
                what: format!("the dedup keys of shard {shard}"),
                why,
            })?;
        }
        Ok(Self {
            applied: row.mark.clone(),
            checkpointed: row.mark,
            last_stamp: row.last_stamp,
            floor: row.last_stamp,
            active: Layer::default(),
            frozen: None,
            dedup,
            buckets: row.dedup.buckets,
            cursors,
            stats: ShardStats::default(),
        })
    }

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

    /// Sets everything applied aside for a checkpoint, or the layer that a failed one left.
    fn freeze(&mut self) -> Option<Arc<Frozen>> {
        if self.frozen.is_none() {
            if self.applied == self.checkpointed {
                return None;
            }
            let from = self.dedup.first_id().unwrap_or(EntryId(self.last_stamp.0 + 1));
            let (buckets, buckets_removed) = dedup::buckets(&self.buckets, &self.active, self.last_stamp, from);
            self.buckets.clone_from(&buckets);
            let row =
                ShardRow { mark: self.applied.clone(), last_stamp: self.last_stamp, dedup: DedupRow { from, buckets } };
            self.frozen = Some(Arc::new(Frozen { layer: std::mem::take(&mut self.active), row, buckets_removed }));
        }
        self.frozen.clone()
    }

    /// The frozen layer is on disk.
    fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.floor = frozen.row.last_stamp;
            self.checkpointed = frozen.row.mark.clone();
            self.stats.checkpoints += 1;
        }
    }
}

/// Locks hold plain data; apply checks everything that can fail before it changes anything.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
