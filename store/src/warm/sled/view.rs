//! Reading a shard as a whole: a view, which holds back what would change it, and the check of everything.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use iris_protocol::{EntryId, ShardId, VnodeId};

use super::Inner;
use super::gates::Pass;
use super::layout::{self, Head, Kind};
use crate::StoreError;
use crate::warm::{BucketId, Finding, ShardRow, Verified, WarmRecord, WarmView};

/// A shard that doesn't change while this lives.
pub(super) struct View {
    inner: Arc<Inner>,
    head: Head,
    hidden: Hidden,
    _nothing_changes: Pass,
}

impl View {
    pub(super) fn open(inner: &Arc<Inner>, shard: ShardId) -> Result<Option<Self>, StoreError> {
        let pass = inner.gates.read(shard);
        let Some(head) = inner.head(shard)? else { return Ok(None) };
        let hidden = inner.hidden(head.slot)?;
        Ok(Some(Self { inner: inner.clone(), head, hidden, _nothing_changes: pass }))
    }
}

/// What a slot has that counts no more, as of one moment. The sweep deletes it and then the markers that hide it, also while
/// somebody reads; an iteration of sled's may still give out rows that were deleted after it had begun. So a reader must know
/// all markers before its first row: what has lost its marker by then is deleted, and not given out.
struct Hidden {
    /// By the inbox's key: up to where it is trimmed.
    trimmed: HashMap<Vec<u8>, EntryId>,
    dropped: HashSet<BucketId>,
}

impl Hidden {
    fn hides(&self, key: &[u8], record: &WarmRecord) -> bool {
        match record {
            WarmRecord::Entry { entry, .. } => {
                let inbox = &key[..key.len().saturating_sub(8)];
                self.trimmed.get(inbox).is_some_and(|up_to| entry.id <= *up_to)
            }
            WarmRecord::Dedup { bucket, .. } => self.dropped.contains(bucket),
            WarmRecord::Cursor(_) => false,
        }
    }
}

impl WarmView for View {
    fn row(&self) -> &ShardRow {
        &self.head.row
    }

    fn each(&mut self, each: &mut dyn FnMut(WarmRecord) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.records(self.head.slot, &self.hidden, &mut |found| found.and_then(|(_, record)| each(record)))
    }
}

type Found = Result<(Option<VnodeId>, WarmRecord), StoreError>;

impl Inner {
    fn hidden(&self, slot: u32) -> Result<Hidden, StoreError> {
        let mut hidden = Hidden { trimmed: HashMap::new(), dropped: HashSet::new() };
        for row in self.trees.of(Kind::Trimmed).scan_prefix(slot.to_be_bytes()) {
            let (key, value) = self.told("reading a shard", row)?;
            let up_to = layout::check_id(&key, &value).map_err(|why| self.damaged("a trim", why))?;
            hidden.trimmed.insert(key.to_vec(), up_to);
        }
        for row in self.trees.of(Kind::Dropped).scan_prefix(slot.to_be_bytes()) {
            let (key, value) = self.told("reading a shard", row)?;
            layout::check(&key, &value).map_err(|why| self.damaged("the removal of a bucket", why))?;
            hidden.dropped.extend(layout::number(&key).map(|n| BucketId(u32::from_be_bytes(n))));
        }
        Ok(hidden)
    }

    /// Hands over every record of a slot that counts, damaged ones as errors; ends at the first error that comes back.
    fn records(
        &self,
        slot: u32,
        hidden: &Hidden,
        each: &mut dyn FnMut(Found) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for kind in [Kind::Entries, Kind::Cursors, Kind::Dedup] {
            for row in self.trees.of(kind).scan_prefix(slot.to_be_bytes()) {
                let (key, value) = self.told("reading a shard", row)?;
                let what = || format!("a row of {}", String::from_utf8_lossy(&self.trees.of(kind).name()));
                let record = layout::check_record(&key, &value).map_err(|why| self.damaged(what(), why));
                if record.as_ref().is_ok_and(|record| hidden.hides(&key, record)) {
                    continue;
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
                let mut told = |found: Found| {
                    each(match found {
                        Ok((vnode, record)) => Verified::Record { vnode, record },
                        Err(error) => damage(format!("shard {shard}"), error),
                    });
                    Ok(())
                };
                let hidden = inner.hidden(head.slot);
                let read = hidden.and_then(|hidden| inner.records(head.slot, &hidden, &mut told));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use iris_protocol::vnode::vnode_of;
    use iris_protocol::{MessageKey, UserId};

    use super::super::SledWarm;
    use super::super::journal::Op;
    use super::*;
    use crate::state::Entry;
    use crate::warm::{BucketKeys, Changes, DedupKey, InboxChange, WarmStore};

    #[test]
    fn a_sweep_in_the_middle_of_an_iteration_brings_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let warm = SledWarm::open(&dir.path().join("warm")).unwrap();
        let sender = UserId::new("sender").unwrap();
        let mut users: Vec<_> = (0..40).map(|n| UserId::new(format!("user {n}")).unwrap()).collect();
        users.sort_by_key(|user| (vnode_of(user), user.clone()));
        let key = |n: u64| MessageKey(u128::from(n).to_be_bytes());
        let entries = [1, 2].map(|n| Entry {
            id: EntryId(n),
            sender: sender.clone(),
            kind: 0,
            key: key(n),
            body: Bytes::from_static(b"x"),
        });
        let inbox = |user| InboxChange { vnode: vnode_of(user), user, entries: &entries };
        let inboxes: Vec<_> = users.iter().map(inbox).collect();
        let keys = |bucket| BucketKeys {
            bucket: BucketId(bucket),
            keys: vec![DedupKey { key: key(1), sender: sender.clone(), id: EntryId(1), digest: 0 }],
        };
        let dedup: Vec<_> = (0..40).map(keys).collect();
        let row = ShardRow::default();
        let changes = Changes { inboxes: &inboxes, dedup: &dedup, ..Changes::new(&row) };
        warm.checkpoint(ShardId(1), &changes).unwrap();
        // Everything but the first inbox and the first bucket is hidden, and not yet swept.
        let inner = &warm.inner;
        let slot = inner.head(ShardId(1)).unwrap().unwrap().slot;
        let trim = |user: &UserId| {
            let key = layout::inbox_key(slot, vnode_of(user), user);
            Op { kind: Kind::Trimmed, value: Some(layout::id_value(&key, EntryId(2))), key }
        };
        let drop = |bucket| {
            let key = layout::bucket_key(slot, BucketId(bucket));
            Op { kind: Kind::Dropped, value: Some(layout::value(&key, |_| {})), key }
        };
        inner.apply(users[1..].iter().map(trim).chain((1..40).map(drop))).unwrap();
        let mut view = warm.view(ShardId(1)).unwrap().unwrap();
        let mut found = Vec::new();
        let mut each = |record| {
            // With the first row, so that sled's iteration has begun.
            inner.sweep()?;
            found.push(record);
            Ok(())
        };
        view.each(&mut each).unwrap();
        assert!(inner.trees.of(Kind::Trimmed).is_empty() && inner.trees.of(Kind::Dropped).is_empty(), "it was swept");
        let of_first = |record: &WarmRecord| match record {
            WarmRecord::Entry { user, .. } => *user == users[0],
            WarmRecord::Dedup { bucket, .. } => *bucket == BucketId(0),
            WarmRecord::Cursor(_) => false,
        };
        assert!(found.len() == 3 && found.iter().all(of_first), "{found:?}");
    }
}
