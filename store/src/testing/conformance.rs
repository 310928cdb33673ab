//! What every [`WarmStore`] must do, whatever it is made of. An adapter's test calls [`warm_store_conforms`]; it panics with
//! what was wrong. This file has checkpoints and reads; `conformance_whole` has views, installs and removal, and
//! `conformance_crash` what a kill may leave.

use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};

use super::conformance_whole;
use crate::StoreError;
use crate::state::{AppliedMark, Entry, PageLimits};
use crate::warm::{BucketId, BucketKeys, Changes, CursorRow, DedupKey, InboxChange, ShardRow, Trim, WarmStore};

pub(super) const WIDE: PageLimits = PageLimits { entries_max: 1_000, bytes_max: 1 << 20 };
const FAR: EntryId = EntryId(i64::MAX as u64);

/// Opens the same store each time it is called, after the one before was dropped.
pub(super) type Open<'a> = &'a dyn Fn() -> Arc<dyn WarmStore>;

/// Runs the suite. `open` opens the same store each time it is called, after the one before was dropped.
///
/// # Panics
/// When the store doesn't conform.
pub fn warm_store_conforms(open: &dyn Fn() -> Arc<dyn WarmStore>) {
    fresh_is_empty(open());
    write_two_checkpoints(open());
    // Twice: as written, and after a restart.
    pages_are_cut_at_their_limits(open());
    everything_is_there(open());
    shards_are_apart(open());
    cursors_move_forward_and_go(open);
    trimmed_entries_go(open);
    dedup_keys_are_found_in_their_bucket(open);
    buckets_go_as_a_whole(open);
    conformance_whole::run(open);
}

fn fresh_is_empty(warm: Arc<dyn WarmStore>) {
    assert_eq!(warm.shard(ShardId(1)).expect("a row"), None, "a fresh store knows no shard");
    assert_eq!(warm.shards().expect("shards"), []);
    assert_eq!(scan(&*warm, 1, "alice", 0, WIDE), (vec![], false), "a fresh store has no entries");
    assert!(keys(&*warm, 1, 0).is_empty() && cursors(&*warm, 1).is_empty());
    assert!(warm.view(ShardId(1)).expect("no view").is_none());
    assert_eq!(find(&*warm, 1, 0, &[(1, "alice")]), [None]);
}

fn write_two_checkpoints(warm: Arc<dyn WarmStore>) {
    let first = Batch::new(10).entries("alice", &[10, 12, 40]).entries("bob", &[11]).cursor("alice", "phone", 12, 5);
    first.keys(0, &[10, 11]).write(&*warm, 1);
    let second = Batch::new(20).entries("alice", &[50]).entries("ünï", &[51]).cursor("alice", "phone", 11, 6);
    second.cursor("bob", "desk", 11, 3).keys(0, &[12]).keys(1, &[13]).write(&*warm, 1);
}

fn everything_is_there(warm: Arc<dyn WarmStore>) {
    let row = warm.shard(ShardId(1)).expect("a row").expect("it was written");
    assert_eq!(row, shard_row(20, 51), "the last row counts");
    assert_eq!(ids(&scan(&*warm, 1, "alice", 0, WIDE).0), [10, 12, 40, 50]);
    assert_eq!(ids(&scan(&*warm, 1, "ünï", 0, WIDE).0), [51]);
    assert_eq!(scan(&*warm, 1, "alice", 10, WIDE).0[0], entry("alice", 12), "after is exclusive, fields are kept");
    let (some, more) = warm.scan(ShardId(1), &user("alice"), EntryId(10), EntryId(40), WIDE).expect("a scan");
    assert_eq!((ids(&some), more), (vec![12, 40], false), "up_to is inclusive and nothing follows within it");
    let expected = [("alice", "phone", 12, 6), ("bob", "desk", 11, 3)];
    assert_eq!(cursors(&*warm, 1), named(&expected), "cursors never move back, nor does the time they were seen");
    assert_eq!((keys(&*warm, 1, 0), keys(&*warm, 1, 1)), (vec![10, 11, 12], vec![13]));
}

fn pages_are_cut_at_their_limits(warm: Arc<dyn WarmStore>) {
    let by_len = PageLimits { entries_max: 2, bytes_max: 1 << 20 };
    let (page, more) = scan(&*warm, 1, "alice", 0, by_len);
    assert_eq!((ids(&page), more), (vec![10, 12], true));
    let (page, more) = scan(&*warm, 1, "alice", 12, by_len);
    assert_eq!((ids(&page), more), (vec![40, 50], false), "a page that ends with the inbox has no more");
    let by_bytes = PageLimits { entries_max: 1_000, bytes_max: 1 };
    let (page, more) = scan(&*warm, 1, "alice", 0, by_bytes);
    assert_eq!((ids(&page), more), (vec![10], true), "one entry comes, however long");
}

fn shards_are_apart(warm: Arc<dyn WarmStore>) {
    Batch::new(7).entries("alice", &[10, 60]).cursor("alice", "phone", 60, 9).keys(0, &[10]).write(&*warm, 2);
    assert_eq!(ids(&scan(&*warm, 2, "alice", 0, WIDE).0), [10, 60]);
    assert_eq!(keys(&*warm, 2, 0), [10]);
    assert_eq!(warm.shards().expect("shards"), [ShardId(1), ShardId(2)]);
    everything_is_there(warm);
}

fn cursors_move_forward_and_go(open: Open<'_>) {
    let warm = open();
    Batch::new(1).cursor("a", "1", 5, 50).cursor("a", "2", 6, 60).cursor("b", "1", 7, 70).write(&*warm, 3);
    Batch::new(2).cursor("a", "1", 4, 80).cursor("a", "2", 9, 10).write(&*warm, 3);
    let moved = [("a", "1", 5, 80), ("a", "2", 9, 60), ("b", "1", 7, 70)];
    assert_eq!(cursors(&*warm, 3), named(&moved), "each field moves forward on its own");
    Batch::new(3).cursor_gone("a", "1").cursor_gone("b", "1").cursor_gone("b", "no such").write(&*warm, 3);
    Batch::new(4).cursor_gone("a", "2").cursor("a", "2", 1, 1).write(&*warm, 3);
    drop(warm);
    assert_eq!(cursors(&*open(), 3), named(&[("a", "2", 1, 1)]), "removed, and known again from the beginning");
}

fn trimmed_entries_go(open: Open<'_>) {
    let warm = open();
    let all: Vec<u64> = (1..=500).collect();
    Batch::new(1).entries("a", &all).entries("b", &[501, 502]).write(&*warm, 4);
    Batch::new(2).entries("a", &[503]).trim("a", 3).trim("b", 501).trim("nobody", 77).write(&*warm, 4);
    assert_eq!(ids(&scan(&*warm, 4, "a", 0, WIDE).0)[..2], [4, 5]);
    assert_eq!(ids(&scan(&*warm, 4, "a", 4, WIDE).0)[..2], [5, 6], "as before, behind the trim");
    assert_eq!(ids(&scan(&*warm, 4, "b", 0, WIDE).0), [502]);
    Batch::new(3).trim("a", 490).trim("a", 480).write(&*warm, 4);
    drop(warm);
    let warm = open();
    assert_eq!(ids(&scan(&*warm, 4, "a", 0, WIDE).0), (491..=500).chain([503]).collect::<Vec<_>>());
    Batch::new(4).entries("b", &[600]).trim("a", 503).trim("b", 599).write(&*warm, 4);
    assert_eq!(scan(&*warm, 4, "a", 0, WIDE), (vec![], false), "to the last");
    assert_eq!(ids(&scan(&*warm, 4, "b", 0, WIDE).0), [600]);
    assert_eq!(ids(&scan(&*warm, 1, "alice", 0, WIDE).0), [10, 12, 40, 50], "of this shard only");
}

fn dedup_keys_are_found_in_their_bucket(open: Open<'_>) {
    let warm = open();
    Batch::new(1).keys(0, &[1, 2, 3]).write(&*warm, 5);
    Batch::new(2).keys(0, &[4]).keys(1, &[2, 9]).write(&*warm, 5);
    drop(warm);
    let warm = open();
    let wanted = [(9, "sender 9"), (2, "sender 2"), (2, "sender 9"), (4, "sender 4"), (2, "sender 2")];
    let first = |id: u64| Some((EntryId(id), id * 7));
    assert_eq!(find(&*warm, 5, 0, &wanted), [None, first(2), None, first(4), first(2)], "one answer per key");
    assert_eq!(find(&*warm, 5, 1, &wanted), [first(9), first(2), None, None, first(2)]);
    assert_eq!(find(&*warm, 5, 7, &wanted[..1]), [None], "a bucket that isn't there");
    assert_eq!(find(&*warm, 5, 0, &[]), []);
    let again = DedupKey { id: EntryId(99), digest: 1, ..dedup_key(2) };
    Batch::new(3).key(0, again.clone()).write(&*warm, 5);
    assert_eq!(find(&*warm, 5, 0, &[(2, "sender 2")]), [Some((EntryId(99), 1))], "the later one counts");
    let mut found = Vec::new();
    warm.dedup_keys(ShardId(5), BucketId(0), &mut |key| found.push(key)).expect("keys");
    found.sort_by_key(|key| key.id);
    assert_eq!(found, [dedup_key(1), dedup_key(3), dedup_key(4), again]);
}

fn buckets_go_as_a_whole(open: Open<'_>) {
    let warm = open();
    let many: Vec<u64> = (100..2_600).collect();
    Batch::new(4).keys(2, &many).write(&*warm, 5);
    Batch::new(5).keys(3, &[5_000]).bucket_gone(0).bucket_gone(2).bucket_gone(77).write(&*warm, 5);
    now_and_reopened(open, warm, |warm| {
        assert_eq!((keys(warm, 5, 0), keys(warm, 5, 2)), (vec![], vec![]));
        assert_eq!(find(warm, 5, 2, &[(100, "sender 100")]), [None]);
        assert_eq!((keys(warm, 5, 1), keys(warm, 5, 3)), (vec![2, 9], vec![5_000]));
        assert_eq!(keys(warm, 1, 0), [10, 11, 12], "of this shard only");
    });
}

/// What holds now must hold after a restart.
pub(super) fn now_and_reopened(open: Open<'_>, warm: Arc<dyn WarmStore>, check: impl Fn(&dyn WarmStore)) {
    check(&*warm);
    drop(warm);
    check(&*open());
}

/// One checkpoint in the making.
pub(super) struct Batch {
    index: u64,
    inboxes: Vec<(UserId, Vec<Entry>)>,
    trims: Vec<Trim>,
    cursors: Vec<CursorRow>,
    cursors_removed: Vec<(UserId, DeviceId)>,
    dedup: Vec<BucketKeys>,
    dedup_removed: Vec<BucketId>,
}

impl Batch {
    pub(super) fn new(index: u64) -> Self {
        let (inboxes, trims, cursors, cursors_removed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { index, inboxes, trims, cursors, cursors_removed, dedup: Vec::new(), dedup_removed: Vec::new() }
    }

    pub(super) fn entries(mut self, name: &str, ids: &[u64]) -> Self {
        self.inboxes.push((user(name), ids.iter().map(|&id| entry(name, id)).collect()));
        self
    }

    pub(super) fn trim(mut self, name: &str, up_to: u64) -> Self {
        let user = user(name);
        self.trims.push(Trim { vnode: vnode_of(&user), user, up_to: EntryId(up_to) });
        self
    }

    pub(super) fn cursor(mut self, name: &str, device: &str, cursor: u64, seen: u64) -> Self {
        self.cursors.push(cursor_row(name, device, cursor, seen));
        self
    }

    pub(super) fn cursor_gone(mut self, name: &str, device: &str) -> Self {
        self.cursors_removed.push((user(name), DeviceId::new(device).expect("a device")));
        self
    }

    pub(super) fn keys(self, bucket: u32, ids: &[u64]) -> Self {
        ids.iter().fold(self, |batch, &id| batch.key(bucket, dedup_key(id)))
    }

    fn key(mut self, bucket: u32, key: DedupKey) -> Self {
        let bucket = BucketId(bucket);
        match self.dedup.iter_mut().find(|keys| keys.bucket == bucket) {
            Some(keys) => keys.keys.push(key),
            None => self.dedup.push(BucketKeys { bucket, keys: vec![key] }),
        }
        self
    }

    pub(super) fn bucket_gone(mut self, bucket: u32) -> Self {
        self.dedup_removed.push(BucketId(bucket));
        self
    }

    pub(super) fn write(self, warm: &dyn WarmStore, shard: u16) {
        self.try_write(warm, shard).expect("a checkpoint");
    }

    pub(super) fn try_write(mut self, warm: &dyn WarmStore, shard: u16) -> Result<(), StoreError> {
        self.inboxes.sort_by(|(a, _), (b, _)| (vnode_of(a), a).cmp(&(vnode_of(b), b)));
        let all = self.inboxes.iter().flat_map(|(_, entries)| entries.iter().map(|entry| entry.id.0));
        let row = shard_row(self.index, all.max().unwrap_or(0));
        let inboxes: Vec<InboxChange<'_>> =
            self.inboxes.iter().map(|(user, entries)| InboxChange { vnode: vnode_of(user), user, entries }).collect();
        let changes = Changes {
            row: &row,
            inboxes: &inboxes,
            trims: &self.trims,
            cursors: &self.cursors,
            cursors_removed: &self.cursors_removed,
            dedup: &self.dedup,
            dedup_removed: &self.dedup_removed,
        };
        warm.checkpoint(ShardId(shard), &changes)
    }
}

pub(super) fn shard_row(index: u64, last: u64) -> ShardRow {
    let mark = AppliedMark {
        index,
        log_id: Bytes::from(index.to_be_bytes().to_vec()),
        membership: Bytes::from_static(b"members"),
    };
    ShardRow { mark, last_stamp: EntryId(last), ..ShardRow::default() }
}

pub(super) fn entry(inbox: &str, id: u64) -> Entry {
    Entry {
        id: EntryId(id),
        sender: user("sender"),
        kind: id as u16,
        key: MessageKey([id as u8; 16]),
        body: Bytes::from(format!("{inbox} {id}")),
    }
}

pub(super) fn cursor_row(name: &str, device: &str, cursor: u64, seen: u64) -> CursorRow {
    let device = DeviceId::new(device).expect("a device");
    CursorRow { user: user(name), device, cursor: EntryId(cursor), seen: EntryId(seen) }
}

pub(super) fn dedup_key(id: u64) -> DedupKey {
    DedupKey {
        key: MessageKey(u128::from(id).to_be_bytes()),
        sender: user(&format!("sender {id}")),
        id: EntryId(id),
        digest: id * 7,
    }
}

pub(super) fn scan(warm: &dyn WarmStore, shard: u16, name: &str, after: u64, limits: PageLimits) -> (Vec<Entry>, bool) {
    warm.scan(ShardId(shard), &user(name), EntryId(after), FAR, limits).expect("a scan")
}

pub(super) fn ids(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.id.0).collect()
}

/// The ids of a bucket's keys, ascending.
pub(super) fn keys(warm: &dyn WarmStore, shard: u16, bucket: u32) -> Vec<u64> {
    let mut found = Vec::new();
    warm.dedup_keys(ShardId(shard), BucketId(bucket), &mut |key| found.push(key.id.0)).expect("dedup keys");
    found.sort_unstable();
    found
}

fn find(warm: &dyn WarmStore, shard: u16, bucket: u32, keys: &[(u64, &str)]) -> Vec<Option<(EntryId, u64)>> {
    let names: Vec<UserId> = keys.iter().map(|(_, name)| user(name)).collect();
    let keys: Vec<_> =
        keys.iter().zip(&names).map(|((id, _), name)| (MessageKey(u128::from(*id).to_be_bytes()), name)).collect();
    warm.dedup_find(ShardId(shard), BucketId(bucket), &keys).expect("a lookup")
}

pub(super) fn cursors(warm: &dyn WarmStore, shard: u16) -> Vec<CursorRow> {
    let mut found = Vec::new();
    warm.cursors(ShardId(shard), &mut |row| found.push(row)).expect("cursors");
    found.sort();
    found
}

fn named(rows: &[(&str, &str, u64, u64)]) -> Vec<CursorRow> {
    rows.iter().map(|(name, device, cursor, seen)| cursor_row(name, device, *cursor, *seen)).collect()
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}
