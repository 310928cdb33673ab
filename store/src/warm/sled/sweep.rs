//! Deletes what nobody reads any more, in steps that let checkpoints pass: sled deletes slowly, and a batch's size is memory.

use std::collections::HashSet;

use super::journal::Op;
use super::layout::{self, Kind};
use super::{Inner, STEP_OPS};
use crate::StoreError;
use crate::warm::turns::lock;

/// Steps after one checkpoint: 20,000 rows, more than a node on sled should take in between two.
const STEPS_MAX: usize = 100;

const ACTION: &str = "removing what is no longer needed";

impl Inner {
    /// What a checkpoint leaves to do.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        for _ in 0..STEPS_MAX {
            let _turn = self.writer.patient();
            self.check_poison()?;
            if !self.garbage_step()? && !self.trimmed_step()? && !self.dropped_step()? {
                break;
            }
        }
        Ok(())
    }

    /// Deletes every slot that nobody reads and nobody fills.
    pub(super) fn remove_garbage(&self) -> Result<(), StoreError> {
        loop {
            let _turn = self.writer.patient();
            self.check_poison()?;
            if !self.garbage_step()? {
                return Ok(());
            }
        }
    }

    /// Deletes some rows of a slot on the list, and when none is left, takes it off. Whether there was one.
    fn garbage_step(&self) -> Result<bool, StoreError> {
        let Some(slot) = self.garbage()? else { return Ok(false) };
        for kind in Kind::ALL {
            if self.delete_some(kind, &slot.to_be_bytes())? > 0 {
                return Ok(true);
            }
        }
        // Not before its rows are gone for good.
        self.flush()?;
        self.writing(ACTION, self.trees.heads.remove(layout::garbage_key(slot)))?;
        Ok(true)
    }

    /// One that a shard points to is none, whatever the list says.
    fn garbage(&self) -> Result<Option<u32>, StoreError> {
        let mut listed = Vec::new();
        for found in self.trees.heads.scan_prefix(layout::GARBAGE_PREFIX).keys() {
            let key = self.told(ACTION, found)?;
            listed.extend(layout::number(&key).map(u32::from_be_bytes));
        }
        if listed.is_empty() {
            return Ok(None);
        }
        let mut used: HashSet<u32> = lock(&self.installing).clone();
        for shard in self.shards()? {
            used.extend(self.head(shard)?.map(|head| head.slot));
        }
        Ok(listed.into_iter().find(|slot| !used.contains(slot)))
    }

    /// Deletes rows that markers hide, of as many markers as fill a step. Whether there was one.
    fn trimmed_step(&self) -> Result<bool, StoreError> {
        self.hidden_step(Kind::Trimmed, |key, value, room| {
            let up_to = layout::check_id(key, value).map_err(|why| self.damaged("a trim", why))?;
            let end = [key, &up_to.0.to_be_bytes()].concat();
            self.some(Kind::Entries, key, room, |entry| entry <= &end[..])
        })
    }

    fn dropped_step(&self) -> Result<bool, StoreError> {
        self.hidden_step(Kind::Dropped, |key, value, room| {
            layout::check(key, value).map_err(|why| self.damaged("the removal of a bucket", why))?;
            self.some(Kind::Dedup, key, room, |_| true)
        })
    }

    /// `hidden` gives what a marker hides, so many at most.
    fn hidden_step(
        &self,
        markers: Kind,
        hidden: impl Fn(&[u8], &[u8], usize) -> Result<Vec<Op>, StoreError>,
    ) -> Result<bool, StoreError> {
        let (mut ops, mut done) = (Vec::new(), Vec::new());
        for found in self.trees.of(markers).iter().take(STEP_OPS) {
            let (key, value) = self.told(ACTION, found)?;
            let room = STEP_OPS - ops.len();
            let some = hidden(&key, &value, room)?;
            let all = some.len() < room;
            ops.extend(some);
            if !all {
                break;
            }
            done.push(Op { kind: markers, key: key.to_vec(), value: None });
        }
        if ops.is_empty() && done.is_empty() {
            return Ok(false);
        }
        self.apply(ops)?;
        if !done.is_empty() {
            // Later than their rows: without them those would come back to life.
            self.flush()?;
            self.apply(done)?;
        }
        Ok(true)
    }

    /// Deletes rows with a prefix, not more than a step's; how many.
    fn delete_some(&self, kind: Kind, prefix: &[u8]) -> Result<usize, StoreError> {
        let ops = self.some(kind, prefix, STEP_OPS, |_| true)?;
        let deleted = ops.len();
        self.apply(ops)?;
        Ok(deleted)
    }

    /// Removals of rows with a prefix, ascending, as long as they are wanted gone and not more than `room`.
    fn some(
        &self,
        kind: Kind,
        prefix: &[u8],
        room: usize,
        gone: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Op>, StoreError> {
        let mut ops = Vec::new();
        for found in self.trees.of(kind).scan_prefix(prefix).keys().take(room) {
            let key = self.told(ACTION, found)?;
            if !gone(&key) {
                break;
            }
            ops.push(Op { kind, key: key.to_vec(), value: None });
        }
        Ok(ops)
    }
}
