//! Reading a shard as a whole: a view, which holds back what would change it, and the check of everything.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use iris_protocol::{EntryId, ShardId, VnodeId};

use super::Inner;
use super::gates::Pass;
use super::layout::{self, Head, Kind};
use crate::StoreError;
use crate::warm::{Finding, ShardRow, Verified, WarmRecord, WarmView};

/// A shard that doesn't change while this lives.
pub(super) struct View {
    inner: Arc<Inner>,
    head: Head,
    _nothing_changes: Pass,
}

impl View {
    pub(super) fn open(inner: &Arc<Inner>, shard: ShardId) -> Result<Option<Self>, StoreError> {
        let pass = inner.gates.read(shard);
        let head = inner.head(shard)?;
        Ok(head.map(|head| Self { inner: inner.clone(), head, _nothing_changes: pass }))
    }
}

impl WarmView for View {
    fn row(&self) -> &ShardRow {
        &self.head.row
    }

    fn each(&mut self, each: &mut dyn FnMut(WarmRecord) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.records(self.head.slot, &mut |found| found.and_then(|(_, record)| each(record)))
    }
}

type Found = Result<(Option<VnodeId>, WarmRecord), StoreError>;

impl Inner {
    /// Hands over every record of a slot that counts, damaged ones as errors; ends at the first error that comes back.
    fn records(&self, slot: u32, each: &mut dyn FnMut(Found) -> Result<(), StoreError>) -> Result<(), StoreError> {
        // The inbox last seen, and up to where it is trimmed.
        let mut inbox = (Vec::new(), EntryId::ZERO);
        let mut dropped = (None, false);
        for kind in [Kind::Entries, Kind::Cursors, Kind::Dedup] {
            for row in self.trees.of(kind).scan_prefix(slot.to_be_bytes()) {
                let (key, value) = self.told("reading a shard", row)?;
                let what = || format!("a row of {}", String::from_utf8_lossy(&self.trees.of(kind).name()));
                let record = layout::check_record(&key, &value).map_err(|why| self.damaged(what(), why));
                match &record {
                    Ok(WarmRecord::Entry { user, entry }) => {
                        let prefix = &key[..key.len().saturating_sub(8)];
                        if inbox.0 != prefix {
                            inbox = (prefix.to_vec(), self.trimmed(prefix, user)?);
                        }
                        if entry.id <= inbox.1 {
                            continue;
                        }
                    }
                    Ok(WarmRecord::Dedup { bucket, .. }) => {
                        if dropped.0 != Some(*bucket) {
                            dropped = (Some(*bucket), self.dropped(slot, *bucket)?);
                        }
                        if dropped.1 {
                            continue;
                        }
                    }
                    Ok(WarmRecord::Cursor(_)) | Err(_) => {}
                }
                let vnode = key.get(4..6).filter(|_| kind == Kind::Entries);
                let vnode = vnode.and_then(|n| n.try_into().ok()).map(|n| VnodeId(u16::from_be_bytes(n)));
                each(record.map(|record| (vnode, record)))?;
            }
        }
        Ok(())
    }
}

/// Checks sled's own structures, then every row. What can be stepped over is told to `each`.
pub(super) fn verify(inner: &Inner, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
    for tree in inner.trees.all() {
        // It asserts what it checks.
        let checked = catch_unwind(AssertUnwindSafe(|| tree.verify_integrity()));
        let why = match checked {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its pages don't fit together".to_owned(),
        };
        each(damage(format!("the tree {}", String::from_utf8_lossy(&tree.name())), why));
    }
    let mut slots = HashSet::new();
    for shard in inner.shards()? {
        match inner.head(shard) {
            Err(error) => each(damage(format!("shard {shard}"), error)),
            Ok(None) => {}
            Ok(Some(head)) if !slots.insert(head.slot) => {
                each(damage(format!("shard {shard}"), "its slot is another shard's"));
            }
            Ok(Some(head)) => {
                each(Verified::Shard(shard, head.row));
                let read = inner.records(head.slot, &mut |found| {
                    each(match found {
                        Ok((vnode, record)) => Verified::Record { vnode, record },
                        Err(error) => damage(format!("shard {shard}"), error),
                    });
                    Ok(())
                });
                if let Err(error) = read {
                    each(damage(format!("shard {shard}"), error));
                }
            }
        }
    }
    Ok(())
}

fn damage(what: String, why: impl std::fmt::Display) -> Verified {
    Verified::Damaged(Finding { what, why: why.to_string() })
}
