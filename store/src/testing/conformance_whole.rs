//! The part of the suite about a shard as a whole: views stand still, an install is all or nothing, a removed shard leaves
//! nothing, a check goes over everything.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use iris_protocol::ShardId;
use iris_protocol::vnode::vnode_of;

use super::conformance::{
    Batch, Open, WIDE, cursor_row, cursors, dedup_key, entry, ids, keys, now_and_reopened, scan, shard_row, user,
};
use crate::StoreError;
use crate::warm::{BucketId, Verified, WarmRecord, WarmStore};

/// Longer than any disk of a working machine needs.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn run(open: Open<'_>) {
    a_view_stands_still(open);
    an_install_makes_and_replaces_a_shard(open);
    an_install_that_ends_early_changes_nothing(open);
    a_removed_shard_is_gone(open);
    a_check_goes_over_everything(open);
}

/// Everything a shard has, sorted: two shards with the same are the same.
pub(super) fn contents(warm: &dyn WarmStore, shard: u16) -> Vec<String> {
    let Some(mut view) = warm.view(ShardId(shard)).expect("a view") else { return Vec::new() };
    let mut found = vec![format!("{:?}", view.row())];
    let mut each = |record: WarmRecord| {
        found.push(format!("{record:?}"));
        Ok(())
    };
    view.each(&mut each).expect("a whole view");
    found[1..].sort_unstable();
    found
}

fn a_view_stands_still(open: Open<'_>) {
    let warm = open();
    let first = Batch::new(1).entries("a", &[1, 2]).entries("b", &[3]).cursor("a", "1", 2, 2);
    first.keys(0, &[1, 2]).keys(1, &[3]).write(&*warm, 6);
    Batch::new(2).entries("b", &[4]).trim("a", 1).bucket_gone(0).write(&*warm, 6);
    let mut view = warm.view(ShardId(6)).expect("a view").expect("it was written");
    assert_eq!(view.row(), &shard_row(2, 4));
    let third = || {
        let third = Batch::new(3).entries("a", &[5]).cursor("a", "1", 5, 5).cursor("b", "1", 1, 1);
        third.keys(1, &[5])
    };
    // It is written or put off; the view doesn't see it, and nobody waits for the view.
    let (done, wait) = sync_channel(1);
    let writer = warm.clone();
    let early = third();
    std::thread::spawn(move || {
        let written = early.try_write(&*writer, 6);
        Batch::new(1).entries("a", &[1]).write(&*writer, 7);
        drop(done.send(written));
    });
    let written = wait.recv_timeout(DEADLINE).expect("two checkpoints");
    assert!(matches!(written, Ok(()) | Err(StoreError::Busy { .. })), "{written:?}");
    let mut found = Vec::new();
    let mut each = |record| {
        found.push(record);
        Ok(())
    };
    view.each(&mut each).expect("a whole view");
    let entries =
        [("a", 2), ("b", 3), ("b", 4)].map(|(name, id)| WarmRecord::Entry { user: user(name), entry: entry(name, id) });
    let (of_entries, rest) = found.split_at(3);
    for wanted in &entries {
        assert!(of_entries.contains(wanted), "{wanted:?} in {found:?}");
    }
    let cursor = WarmRecord::Cursor(cursor_row("a", "1", 2, 2));
    let key = WarmRecord::Dedup { bucket: BucketId(1), key: dedup_key(3) };
    assert_eq!(rest, [cursor, key], "not what was removed");
    // Its error ends it and comes back.
    let stop = StoreError::InUse { path: "stop".into() };
    let ended_early = view.each(&mut |_| Err(stop.clone()));
    assert!(ended_early.is_err_and(|error| error.to_string().contains("stop")));
    drop(view);
    if written.is_err() {
        third().write(&*warm, 6);
    }
    assert_eq!(ids(&scan(&*warm, 6, "a", 0, WIDE).0), [2, 5]);
}

fn records(from: u64, len: u64) -> Vec<WarmRecord> {
    let mut users: Vec<String> = (0..7).map(|n| format!("user {n}")).collect();
    users.sort_by_key(|name| (vnode_of(&user(name)), name.clone()));
    let mut all = Vec::new();
    for name in &users {
        let ids = (from..from + len).filter(|id| name.ends_with(&(id % 7).to_string()));
        all.extend(ids.map(|id| WarmRecord::Entry { user: user(name), entry: entry(name, id) }));
    }
    all.push(WarmRecord::Cursor(cursor_row("user 1", "phone", from, from)));
    all.extend((from..from + 20).map(|id| WarmRecord::Dedup { bucket: BucketId(id as u32 % 3), key: dedup_key(id) }));
    all
}

fn install(warm: &dyn WarmStore, shard: u16, index: u64, records: Vec<WarmRecord>) {
    let row = shard_row(index, 100_000);
    warm.install(ShardId(shard), &row, &mut records.into_iter().map(Ok)).expect("an install");
}

fn has(warm: &dyn WarmStore, shard: u16, index: u64, records: &[WarmRecord]) {
    let mut wanted: Vec<String> = records.iter().map(|record| format!("{record:?}")).collect();
    wanted.sort_unstable();
    wanted.insert(0, format!("{:?}", shard_row(index, 100_000)));
    let found = contents(warm, shard);
    assert_eq!(found.len(), wanted.len(), "shard {shard}");
    assert!(found == wanted, "shard {shard} has other contents");
}

fn an_install_makes_and_replaces_a_shard(open: Open<'_>) {
    let (old, new) = (records(1, 3_000), records(2_000, 2_500));
    let warm = open();
    let other = contents(&*warm, 1);
    install(&*warm, 8, 5, old.clone());
    has(&*warm, 8, 5, &old);
    install(&*warm, 8, 6, new.clone());
    now_and_reopened(open, warm, |warm| {
        has(warm, 8, 6, &new);
        assert_eq!(ids(&scan(warm, 8, "user 1", 0, WIDE).0)[0], 2_003);
        assert_eq!(keys(warm, 8, 0).len(), 7);
        assert_eq!(contents(warm, 1), other, "other shards are left alone");
    });
    // It goes on from there.
    let warm = open();
    Batch::new(7)
        .entries("user 1", &[200_000])
        .trim("user 1", 4_400)
        .cursor("user 1", "phone", 9_999, 1)
        .write(&*warm, 8);
    let found = ids(&scan(&*warm, 8, "user 1", 0, WIDE).0);
    assert_eq!(found.first().zip(found.last()), Some((&4_404, &200_000)));
    assert_eq!(cursors(&*warm, 8)[0].cursor.0, 9_999);
}

fn an_install_that_ends_early_changes_nothing(open: Open<'_>) {
    let (old, new) = (records(1, 50), records(60, 50));
    install(&*open(), 9, 5, old.clone());
    for cut in 0..=new.len() {
        let warm = open();
        let stop = StoreError::InUse { path: "the transfer".into() };
        let mut cut_short = new.iter().take(cut).cloned().map(Ok).chain([Err(stop)]);
        let error = warm.install(ShardId(9), &shard_row(6, 100_000), &mut cut_short).expect_err("it was cut short");
        assert!(error.to_string().contains("the transfer"), "{error}");
        has(&*warm, 9, 5, &old);
    }
    has(&*open(), 9, 5, &old);
    install(&*open(), 9, 6, new.clone());
    has(&*open(), 9, 6, &new);
}

fn a_removed_shard_is_gone(open: Open<'_>) {
    let warm = open();
    warm.remove(ShardId(9)).expect("a removal");
    warm.remove(ShardId(9)).expect("nothing to do");
    now_and_reopened(open, warm, |warm| {
        assert_eq!((warm.shard(ShardId(9)).expect("no row"), contents(warm, 9).len()), (None, 0));
        assert!(keys(warm, 9, 0).is_empty() && cursors(warm, 9).is_empty());
        assert_eq!(scan(warm, 9, "user 1", 0, WIDE), (vec![], false));
        assert!(!warm.shards().expect("shards").contains(&ShardId(9)));
    });
    let warm = open();
    Batch::new(1).entries("user 1", &[3]).write(&*warm, 9);
    assert_eq!(ids(&scan(&*warm, 9, "user 1", 0, WIDE).0), [3], "it may come again, and begins empty");
}

fn a_check_goes_over_everything(open: Open<'_>) {
    let warm = open();
    let (mut shards, mut found) = (Vec::new(), Vec::<Vec<String>>::new());
    warm.verify(&mut |verified| match verified {
        Verified::Shard(shard, row) => {
            shards.push(shard.0);
            found.push(vec![format!("{row:?}")]);
        }
        Verified::Record { vnode, record } => {
            if let WarmRecord::Entry { user, .. } = &record {
                assert_eq!(vnode, Some(vnode_of(user)));
            }
            found.last_mut().expect("a shard comes first").push(format!("{record:?}"));
        }
        Verified::Damaged(finding) => assert_eq!(format!("{finding:?}"), "", "nothing is damaged"),
    })
    .expect("a check");
    assert_eq!(shards.iter().map(|&n| ShardId(n)).collect::<Vec<_>>(), warm.shards().expect("shards"));
    for (shard, mut found) in shards.into_iter().zip(found) {
        found[1..].sort_unstable();
        assert_eq!(found, contents(&*warm, shard), "shard {shard}");
    }
}
