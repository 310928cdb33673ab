//! Who was heard on the local network, within bounds. Owns the memory for strangers: somebody who joins the cluster in a
//! moment was probably announced already, and mDNS tells each address only once until it expires.

use std::collections::BTreeMap;

use crate::address_book::DISCOVERED_MAX;
use crate::{PeerAddr, PeerKey};

/// Strangers remembered: other libp2p programs of a home or an office, and machines about to join.
const STRANGERS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Heard {
    addrs: BTreeMap<PeerKey, Vec<PeerAddr>>,
    ignored: u64,
}

/// What became of an announcement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heed {
    Kept,
    /// There was no room for a stranger.
    Ignored {
        so_far: u64,
    },
}

impl Heard {
    /// Where a key was last heard, the newest last.
    pub(crate) fn of(&self, key: PeerKey) -> &[PeerAddr] {
        self.addrs.get(&key).map_or(&[], Vec::as_slice)
    }

    /// There is always room for members; they are few. Of one key the newest addresses are kept.
    pub(crate) fn insert(&mut self, key: PeerKey, addr: PeerAddr, is_member: impl Fn(PeerKey) -> bool) -> Heed {
        if !is_member(key) && !self.addrs.contains_key(&key) {
            let strangers = self.addrs.keys().filter(|key| !is_member(**key)).count();
            if strangers >= STRANGERS_MAX {
                self.ignored += 1;
                return Heed::Ignored { so_far: self.ignored };
            }
        }
        let addrs = self.addrs.entry(key).or_default();
        addrs.retain(|known| *known != addr);
        if addrs.len() >= DISCOVERED_MAX {
            addrs.remove(0);
        }
        addrs.push(addr);
        Heed::Kept
    }

    pub(crate) fn remove(&mut self, key: PeerKey, addr: &PeerAddr) {
        if let Some(addrs) = self.addrs.get_mut(&key) {
            addrs.retain(|known| known != addr);
            if addrs.is_empty() {
                self.addrs.remove(&key);
            }
        }
    }

    pub(crate) fn into_all(self) -> impl Iterator<Item = (PeerKey, PeerAddr)> {
        self.addrs.into_iter().flat_map(|(key, addrs)| addrs.into_iter().map(move |addr| (key, addr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn addr(n: u8) -> PeerAddr {
        PeerAddr::tcp(([10, 0, 0, n], 7400).into())
    }

    #[test]
    fn a_crowd_of_strangers_is_bounded_and_leaves_room_for_members() {
        let (mut heard, member) = (Heard::default(), Identity::ephemeral().peer_id());
        let stranger = || Identity::ephemeral().peer_id();
        let first = stranger();
        for n in 0..10 {
            assert_eq!(heard.insert(first, addr(n), |key| key == member), Heed::Kept);
        }
        assert_eq!(heard.of(first), [addr(6), addr(7), addr(8), addr(9)]);
        for _ in 1..STRANGERS_MAX {
            assert_eq!(heard.insert(stranger(), addr(1), |key| key == member), Heed::Kept);
        }
        assert_eq!(heard.insert(stranger(), addr(1), |key| key == member), Heed::Ignored { so_far: 1 });
        assert_eq!(heard.insert(stranger(), addr(1), |key| key == member), Heed::Ignored { so_far: 2 });
        assert_eq!(heard.insert(member, addr(1), |key| key == member), Heed::Kept);
        for n in 6..10 {
            heard.remove(first, &addr(n));
        }
        assert_eq!(heard.insert(stranger(), addr(1), |key| key == member), Heed::Kept, "a place is free again");
    }
}
