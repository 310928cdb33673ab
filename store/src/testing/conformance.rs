//! What every [`WarmStore`] must do, whatever it is made of. An adapter's test calls [`warm_store_conforms`]; it panics with
//! what was wrong.

use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};

use crate::state::{AppliedMark, Entry, PageLimits};
use crate::warm::{Changes, DedupBlock, InboxChange, ShardRow, WarmStore};

const WIDE: PageLimits = PageLimits { entries_max: 1_000, bytes_max: 1 << 20 };
const FAR: EntryId = EntryId(i64::MAX as u64);

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
    dedup_blocks_go_with_their_window(open());
}

fn fresh_is_empty(warm: Arc<dyn WarmStore>) {
    assert_eq!(warm.shard(ShardId(1)).expect("a row"), None, "a fresh store knows no shard");
    assert_eq!(scan(&*warm, 1, "alice", 0, WIDE), (vec![], false), "a fresh store has no entries");
    assert!(blocks(&*warm, 1, 0).is_empty() && cursors(&*warm, 1).is_empty());
}

fn write_two_checkpoints(warm: Arc<dyn WarmStore>) {
    checkpoint(&*warm, 1, 10, &[("alice", &[10, 12, 40]), ("bob", &[11])], &[("alice", "phone", 12)], 0);
    checkpoint(&*warm, 1, 20, &[("alice", &[50]), ("ünï", &[51])], &[("alice", "phone", 11), ("bob", "desk", 11)], 0);
}

fn everything_is_there(warm: Arc<dyn WarmStore>) {
    let row = warm.shard(ShardId(1)).expect("a row").expect("it was written");
    assert_eq!(row, shard_row(20, 51, 0), "the last row counts");
    assert_eq!(ids(&scan(&*warm, 1, "alice", 0, WIDE).0), [10, 12, 40, 50]);
    assert_eq!(ids(&scan(&*warm, 1, "ünï", 0, WIDE).0), [51]);
    assert_eq!(scan(&*warm, 1, "alice", 10, WIDE).0[0], entry("alice", 12), "after is exclusive, fields are kept");
    let (some, more) = warm.scan(ShardId(1), &user("alice"), EntryId(10), EntryId(40), WIDE).expect("a scan");
    assert_eq!((ids(&some), more), (vec![12, 40], false), "up_to is inclusive and nothing follows within it");
    let mut found = cursors(&*warm, 1);
    found.sort();
    let expected = [("alice", "phone", 12), ("bob", "desk", 11)];
    assert_eq!(found, expected.map(|(u, d, c)| (u.to_owned(), d.to_owned(), c)), "cursors never move back");
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
    checkpoint(&*warm, 2, 7, &[("alice", &[10, 60])], &[("alice", "phone", 60)], 0);
    assert_eq!(ids(&scan(&*warm, 2, "alice", 0, WIDE).0), [10, 60]);
    everything_is_there(warm);
}

fn dedup_blocks_go_with_their_window(warm: Arc<dyn WarmStore>) {
    assert_eq!(blocks(&*warm, 1, 0), [b"block 10".to_vec(), b"block 20".to_vec()]);
    assert_eq!(blocks(&*warm, 1, 41), [b"block 20".to_vec()], "those that end before are left out");
    checkpoint(&*warm, 1, 30, &[("alice", &[90])], &[], 41);
    assert_eq!(blocks(&*warm, 1, 0), [b"block 20".to_vec(), b"block 30".to_vec()], "and removed with a checkpoint");
    assert_eq!(blocks(&*warm, 2, 0), [b"block 7".to_vec()], "of their shard only");
}

fn checkpoint(
    warm: &dyn WarmStore,
    shard: u16,
    index: u64,
    inboxes: &[(&str, &[u64])],
    cursors: &[(&str, &str, u64)],
    dedup_from: u64,
) {
    let users: Vec<UserId> = inboxes.iter().map(|(name, _)| user(name)).collect();
    let entries: Vec<Vec<Entry>> =
        inboxes.iter().map(|(name, ids)| ids.iter().map(|&id| entry(name, id)).collect()).collect();
    let mut changes: Vec<InboxChange<'_>> = users
        .iter()
        .zip(&entries)
        .map(|(user, entries)| InboxChange { vnode: vnode_of(user), user, entries })
        .collect();
    changes.sort_by_key(|change| (change.vnode, change.user));
    let all: Vec<u64> = inboxes.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let (first, last) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
    let block = DedupBlock { first: EntryId(first), last: EntryId(last), bytes: format!("block {index}").into_bytes() };
    let cursors: Vec<_> = cursors
        .iter()
        .map(|(name, device, cursor)| (user(name), DeviceId::new(device).expect("a device"), EntryId(*cursor)))
        .collect();
    let row = shard_row(index, last, dedup_from);
    let changes = Changes { row: &row, inboxes: &changes, cursors: &cursors, dedup: &[block] };
    warm.checkpoint(ShardId(shard), &changes).expect("a checkpoint");
}

fn shard_row(index: u64, last: u64, dedup_from: u64) -> ShardRow {
    let mark = AppliedMark {
        index,
        log_id: Bytes::from(index.to_be_bytes().to_vec()),
        membership: Bytes::from_static(b"members"),
    };
    ShardRow { mark, last_stamp: EntryId(last), dedup_from: EntryId(dedup_from) }
}

fn entry(inbox: &str, id: u64) -> Entry {
    Entry {
        id: EntryId(id),
        sender: user("sender"),
        kind: id as u16,
        key: MessageKey([id as u8; 16]),
        body: Bytes::from(format!("{inbox} {id}")),
    }
}

fn scan(warm: &dyn WarmStore, shard: u16, name: &str, after: u64, limits: PageLimits) -> (Vec<Entry>, bool) {
    warm.scan(ShardId(shard), &user(name), EntryId(after), FAR, limits).expect("a scan")
}

fn ids(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.id.0).collect()
}

fn blocks(warm: &dyn WarmStore, shard: u16, from: u64) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut each = |block: &[u8]| {
        found.push(block.to_vec());
        Ok(())
    };
    warm.dedup_blocks(ShardId(shard), EntryId(from), &mut each).expect("dedup blocks");
    found
}

fn cursors(warm: &dyn WarmStore, shard: u16) -> Vec<(String, String, u64)> {
    let mut found = Vec::new();
    let mut each = |user: UserId, device: DeviceId, cursor: EntryId| {
        found.push((user.to_string(), device.to_string(), cursor.0));
    };
    warm.cursors(ShardId(shard), &mut each).expect("cursors");
    found
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}
