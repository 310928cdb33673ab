//! What is written: checkpoints, installs, removals, as lists of puts and removals.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use iris_protocol::{EntryId, ShardId};

use super::journal::Op;
use super::layout::{self, Head, Kind};
use super::{Inner, STEP_BYTES, STEP_OPS};
use crate::StoreError;
use crate::room::free_bytes;
use crate::warm::turns::lock;
use crate::warm::{Changes, CursorRow, ShardRow, WarmRecord};

/// How long a checkpoint waits for views of its shard. A copy may take minutes, and the node's other shards have their
/// checkpoints after this one; but whoever has a full shard asks again at once, and must not ask all the time.
const VIEW_PATIENCE: Duration = Duration::from_millis(50);

/// sled writes a checkpoint seven times over at worst, and can't go on after a write that found no room: it must not begin one
/// that might not fit. What it takes besides: its segments and what its own threads write.
const ROOM_PER_BYTE: u64 = 8;
const ROOM_SPARE: u64 = 2 * 1024 * 1024;

/// Bytes of room an install begins its next step with: sled's copies of one step.
const ROOM_PER_STEP: u64 = ROOM_PER_BYTE * STEP_BYTES as u64;

impl Inner {
    /// Refuses what the disk may have no room for, before anything is written.
    fn check_room(&self, action: &'static str, bytes: u64) -> Result<(), StoreError> {
        let needed = bytes + ROOM_SPARE;
        match free_bytes(&self.path) {
            Some(free) if free < needed => Err(StoreError::NoRoom { path: self.path.clone(), action, needed, free }),
            _ => Ok(()),
        }
    }

    pub(super) fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.check_poison()?;
        self.check_room("writing a checkpoint", ROOM_PER_BYTE * size(changes))?;
        {
            let pass = self.gates.write_within(shard, VIEW_PATIENCE);
            let _views_are_gone = pass.ok_or_else(|| StoreError::Busy { path: self.path.clone(), shard })?;
            let _turn = self.writer.next();
            self.check_poison()?;
            let (slot, claimed) = match self.head(shard)? {
                Some(head) => (head.slot, None),
                None => {
                    let slot = self.new_slot()?;
                    (slot, Some(slot))
                }
            };
            let ops = self.ops(slot, changes)?;
            let head = layout::encode_head(shard, &Head { slot, row: changes.row.clone() });
            self.commit(shard, &ops, &head)?;
            self.apply(ops)?;
            self.conclude(shard, head, claimed)?;
        }
        self.sweep()
    }

    /// A slot that is nobody's; on the list of those to remove until it is claimed.
    fn new_slot(&self) -> Result<u32, StoreError> {
        let found = self.told("reading", self.trees.heads.get(layout::NEXT_SLOT_KEY))?;
        let slot = match found {
            None => 0,
            Some(bytes) => {
                let bytes = bytes.as_ref().try_into().map_err(|_| self.damaged("the next slot", "its length"))?;
                u32::from_le_bytes(bytes)
            }
        };
        let next = slot.checked_add(1).ok_or_else(|| self.damaged("the next slot", "none is left"))?;
        let mut batch = ::sled::Batch::default();
        batch.insert(layout::NEXT_SLOT_KEY, &next.to_le_bytes());
        batch.insert(layout::garbage_key(slot), &[]);
        self.writing("writing", self.trees.heads.apply_batch(batch))?;
        Ok(slot)
    }

    fn ops(&self, slot: u32, changes: &Changes<'_>) -> Result<Vec<Op>, StoreError> {
        let mut ops = Vec::new();
        for inbox in changes.inboxes {
            for entry in inbox.entries {
                let (key, value) = layout::place_entry(slot, inbox.vnode, inbox.user, entry);
                ops.push(Op { kind: Kind::Entries, key, value: Some(value) });
            }
        }
        // The furthest counts: of those on disk and of those in the list.
        let mut trims: HashMap<Vec<u8>, EntryId> = HashMap::new();
        for trim in changes.trims {
            let key = layout::inbox_key(slot, trim.vnode, &trim.user);
            let stands = self.trimmed(&key, &trim.user)?;
            let up_to = trims.entry(key).or_default();
            *up_to = trim.up_to.max(stands).max(*up_to);
        }
        ops.extend(trims.into_iter().map(|(key, up_to)| {
            let value = Some(layout::id_value(&key, up_to));
            Op { kind: Kind::Trimmed, key, value }
        }));
        let removed: HashSet<_> = changes.cursors_removed.iter().map(|(user, device)| (user, device)).collect();
        for (user, device) in changes.cursors_removed {
            ops.push(Op { kind: Kind::Cursors, key: layout::cursor_key(slot, user, device), value: None });
        }
        for row in changes.cursors {
            let mut row = row.clone();
            if !removed.contains(&(&row.user, &row.device))
                && let Some(stands) = self.cursor(slot, &row)?
            {
                row.cursor = row.cursor.max(stands.cursor);
                row.seen = row.seen.max(stands.seen);
            }
            ops.push(put(slot, &WarmRecord::Cursor(row)));
        }
        for keys in changes.dedup {
            let bucket = keys.bucket;
            ops.extend(keys.keys.iter().map(|key| put(slot, &WarmRecord::Dedup { bucket, key: key.clone() })));
        }
        for bucket in changes.dedup_removed {
            let key = layout::bucket_key(slot, *bucket);
            let value = layout::value(&key, |_| {});
            ops.push(Op { kind: Kind::Dropped, key, value: Some(value) });
        }
        Ok(ops)
    }

    fn cursor(&self, slot: u32, row: &CursorRow) -> Result<Option<CursorRow>, StoreError> {
        let key = layout::cursor_key(slot, &row.user, &row.device);
        let Some(value) = self.told("reading cursors", self.trees.of(Kind::Cursors).get(&key))? else {
            return Ok(None);
        };
        match layout::check_record(&key, &value) {
            Ok(WarmRecord::Cursor(row)) => Ok(Some(row)),
            Ok(_) => Err(self.damaged("a cursor", "it is none")),
            Err(why) => Err(self.damaged(format!("the cursor of {} on {}", row.user, row.device), why)),
        }
    }

    pub(super) fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        self.check_poison()?;
        self.check_room("installing a snapshot", ROOM_PER_STEP)?;
        // What an earlier install left first: the disk needs room for the old and the new, not for a third.
        self.remove_garbage()?;
        let slot = {
            let _turn = self.writer.patient();
            let slot = self.new_slot()?;
            lock(&self.installing).insert(slot);
            slot
        };
        let installed = self.fill(slot, records).and_then(|()| self.swap(shard, slot, row));
        lock(&self.installing).remove(&slot);
        installed
    }

    fn fill(
        &self,
        slot: u32,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        loop {
            let (mut ops, mut bytes) = (Vec::with_capacity(STEP_OPS), 0);
            while ops.len() < STEP_OPS && bytes < STEP_BYTES {
                let Some(record) = records.next().transpose()? else { break };
                let op = put(slot, &record);
                bytes += op.key.len() + op.value.as_ref().map_or(0, Vec::len);
                ops.push(op);
            }
            if ops.is_empty() {
                return Ok(());
            }
            self.check_room("installing a snapshot", ROOM_PER_STEP)?;
            let _turn = self.writer.patient();
            self.check_poison()?;
            self.apply(ops)?;
        }
    }

    fn swap(&self, shard: ShardId, slot: u32, row: &ShardRow) -> Result<(), StoreError> {
        // All of it is on disk before anything points to it.
        self.flush()?;
        let _views_are_gone = self.gates.write(shard);
        let _turn = self.writer.next();
        self.check_poison()?;
        let mut batch = ::sled::Batch::default();
        if let Some(old) = self.head(shard)? {
            batch.insert(layout::garbage_key(old.slot), &[]);
        }
        batch.remove(layout::garbage_key(slot));
        batch.insert(layout::head_key(shard), layout::encode_head(shard, &Head { slot, row: row.clone() }));
        self.durable_step("finishing an install", batch)
    }

    pub(super) fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.check_poison()?;
        {
            let _views_are_gone = self.gates.write(shard);
            let _turn = self.writer.next();
            let Some(head) = self.head(shard)? else { return Ok(()) };
            let mut batch = ::sled::Batch::default();
            batch.insert(layout::garbage_key(head.slot), &[]);
            batch.remove(layout::head_key(shard));
            self.durable_step("removing a shard", batch)?;
        }
        self.remove_garbage()
    }
}

/// About what a checkpoint brings.
fn size(changes: &Changes<'_>) -> u64 {
    const ROW: usize = 100;
    let entries = changes.inboxes.iter().flat_map(|inbox| inbox.entries.iter());
    let bodies: usize = entries.map(|entry| ROW + entry.body.len()).sum();
    let keys: usize = changes.dedup.iter().map(|bucket| bucket.keys.len()).sum();
    let rows = keys + changes.cursors.len() + changes.cursors_removed.len() + changes.trims.len();
    (bodies + rows * ROW) as u64
}

fn put(slot: u32, record: &WarmRecord) -> Op {
    let (kind, key, value) = layout::place(slot, record);
    Op { kind, key, value: Some(value) }
}
