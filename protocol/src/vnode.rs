//! Where a user lives (C3): user -> vnode, by jump consistent hash, and the first layout vnode -> shard. Pure functions; the
//! current layout is data in the meta group, because vnodes can move.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{ShardId, UserId, VnodeId};

/// Slices of the user space: the unit that moves when shards are added (C13). Fixed for ever: keys on disk carry it.
pub const VNODES: u16 = 256;

/// The vnode of a user.
#[must_use]
pub fn vnode_of(user: &UserId) -> VnodeId {
    vnode_of_name(user.as_str())
}

/// The vnode of a user whose name was checked, and is only borrowed.
#[must_use]
pub fn vnode_of_name(user: &str) -> VnodeId {
    VnodeId(jump_hash(xxh3_64(user.as_bytes()), VNODES))
}

/// The shard a vnode belongs to when a cluster is created.
#[must_use]
pub fn first_shard_of(vnode: VnodeId, shards: u16) -> ShardId {
    ShardId(vnode.0 % shards.max(1))
}

/// Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
fn jump_hash(mut key: u64, buckets: u16) -> u16 {
    let (mut bucket, mut next) = (0i64, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * scale) as i64;
    }
    // bucket < buckets <= u16::MAX by the loop's condition.
    bucket as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_spread_evenly_and_never_move() {
        let mut counts = vec![0usize; usize::from(VNODES)];
        for n in 0..25_600 {
            counts[usize::from(vnode_of(&UserId::new(format!("user{n}")).unwrap()).0)] += 1;
        }
        assert!(counts.iter().all(|&count| (50..=160).contains(&count)), "{counts:?}");
        // Pinned: what is on disk was placed by these values.
        let pinned: Vec<u16> = ["alice", "bob", "carol"].iter().map(|u| vnode_of(&UserId::new(u).unwrap()).0).collect();
        assert_eq!(pinned, PINNED);
    }

    const PINNED: [u16; 3] = [235, 171, 101];
}
