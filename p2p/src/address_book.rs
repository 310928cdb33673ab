//! Where members may be found: the addresses they are described with, those the local network told of, and those that worked.
//! Owns which are kept and in which order they are dialled. Pure: the time comes in, and whoever starts the links keeps
//! the book over a restart ([`crate::LinkConfig::book`], [`crate::Links::book`]).
//!
//! An entry here admits nobody. It is a place to look for a member, and whoever answers there has to prove its key.
//!
//! Each source has room of its own, so that what is heard on the network, which anybody can say, never pushes out what
//! the cluster itself says about a member.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use iris_protocol::versioned::Versioned;
use serde::{Deserialize, Serialize};

use crate::config::ADDRS_PER_MEMBER_MAX;
use crate::{PeerAddr, PeerKey};

/// Discovered addresses kept for a member: TCP and QUIC on two networks, or on an old and a new address of one.
pub(crate) const DISCOVERED_MAX: usize = 4;
/// Addresses kept only because they worked.
pub(crate) const REMEMBERED_MAX: usize = 2;
/// A remembered address that has not worked for this long is not worth a dial any more.
const REMEMBERED_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Why an address is in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// The member's own description, or the operator's configuration.
    Described,
    /// Announced on the local network, and not expired.
    Discovered,
    /// Neither any more, but it was the way to this member not long ago.
    Remembered,
}

/// An address and what is known about it. Times are wall-clock milliseconds since 1970: they order, no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAddr {
    /// The address.
    pub addr: PeerAddr,
    /// Why it is here.
    pub source: Source,
    /// When it was first heard of from this source.
    pub heard_ms: u64,
    /// When a link that was dialled at it last came up.
    pub good_ms: Option<u64>,
}

/// The addresses of all members but this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBook {
    /// In the order in which they are dialled.
    members: BTreeMap<PeerKey, Vec<KnownAddr>>,
}

impl Versioned for AddressBook {
    const NAME: &'static str = "address book";
    const VERSION: u8 = 1;
}

impl AddressBook {
    /// What is known about a member's addresses, in the order in which they are dialled: the last good one first.
    pub fn addrs(&self, member: PeerKey) -> &[KnownAddr] {
        self.members.get(&member).map_or(&[], Vec::as_slice)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// As it is after a restart: what was discovered then may be gone, and so it is only remembered until heard again.
    /// Bounds hold whatever the file said.
    pub(crate) fn reopened(mut self, now_ms: u64) -> AddressBook {
        for known in self.members.values_mut() {
            for entry in known.iter_mut().filter(|entry| entry.source == Source::Discovered) {
                entry.source = Source::Remembered;
            }
            let stale = |entry: &KnownAddr| {
                let last_ms = entry.good_ms.unwrap_or(entry.heard_ms);
                entry.source == Source::Remembered && now_ms.saturating_sub(last_ms) > REMEMBERED_MS
            };
            known.retain(|entry| !stale(entry));
            tidy(known);
        }
        self.members.retain(|_, known| !known.is_empty());
        self
    }

    /// Forgets those who are no members.
    pub(crate) fn retain(&mut self, is_member: impl Fn(PeerKey) -> bool) {
        self.members.retain(|key, _| is_member(*key));
    }

    /// The member is described with exactly these addresses from now on.
    pub(crate) fn describe(&mut self, member: PeerKey, addrs: &[PeerAddr], now_ms: u64) {
        let mut before = self.members.remove(&member).unwrap_or_default();
        let mut known: Vec<KnownAddr> = Vec::with_capacity(before.len() + addrs.len());
        for addr in addrs {
            let old = before.iter().position(|entry| entry.addr == *addr).map(|at| before.remove(at));
            let heard_ms =
                old.as_ref().filter(|old| old.source == Source::Described).map_or(now_ms, |old| old.heard_ms);
            let good_ms = old.and_then(|old| old.good_ms);
            known.push(KnownAddr { addr: addr.clone(), source: Source::Described, heard_ms, good_ms });
        }
        known.extend(before.into_iter().filter_map(|entry| match entry.source {
            Source::Described => remembered(entry),
            _ => Some(entry),
        }));
        self.put(member, known);
    }

    /// The local network tells of an address. Whether it is one to dial that was not there before.
    pub(crate) fn discovered(&mut self, member: PeerKey, addr: PeerAddr, now_ms: u64) -> bool {
        let mut known = self.members.remove(&member).unwrap_or_default();
        let is_new = match known.iter_mut().find(|entry| entry.addr == addr) {
            Some(entry) => {
                if entry.source == Source::Remembered {
                    (entry.source, entry.heard_ms) = (Source::Discovered, now_ms);
                }
                false
            }
            None => {
                known.push(KnownAddr { addr, source: Source::Discovered, heard_ms: now_ms, good_ms: None });
                true
            }
        };
        self.put(member, known);
        is_new
    }

    /// The local network does not tell of it any more.
    pub(crate) fn expired(&mut self, member: PeerKey, addr: &PeerAddr) {
        let mut known = self.members.remove(&member).unwrap_or_default();
        let is_it = |entry: &KnownAddr| entry.addr == *addr && entry.source == Source::Discovered;
        if let Some(at) = known.iter().position(is_it) {
            let entry = known.remove(at);
            known.extend(remembered(entry));
        }
        self.put(member, known);
    }

    /// A link that was dialled at this address came up. It may be what a host name stood for, and so not in the book yet.
    pub(crate) fn good(&mut self, member: PeerKey, addr: PeerAddr, now_ms: u64) {
        let mut known = self.members.remove(&member).unwrap_or_default();
        match known.iter_mut().find(|entry| entry.addr == addr) {
            Some(entry) => entry.good_ms = Some(now_ms),
            None => {
                known.push(KnownAddr { addr, source: Source::Remembered, heard_ms: now_ms, good_ms: Some(now_ms) });
            }
        }
        self.put(member, known);
    }

    fn put(&mut self, member: PeerKey, mut known: Vec<KnownAddr>) {
        tidy(&mut known);
        if !known.is_empty() {
            self.members.insert(member, known);
        }
    }
}

/// What is left of an address whose source is gone: it stays if it ever was the way.
fn remembered(entry: KnownAddr) -> Option<KnownAddr> {
    entry.good_ms.is_some().then_some(KnownAddr { source: Source::Remembered, ..entry })
}

/// Order and bounds.
fn tidy(known: &mut Vec<KnownAddr>) {
    // Stable, so that described ones which never worked keep the order of their description.
    known.sort_by_key(|entry| {
        let newest = if entry.source == Source::Described { 0 } else { entry.heard_ms };
        (Reverse(entry.good_ms), entry.source, Reverse(newest))
    });
    keep(known, Source::Described, ADDRS_PER_MEMBER_MAX, |_| 0);
    // The one that worked last, then the newest: after a change of address the good ones are the old ones.
    let best_ms =
        known.iter().filter(|entry| entry.source == Source::Discovered).filter_map(|entry| entry.good_ms).max();
    keep(known, Source::Discovered, DISCOVERED_MAX, |entry| {
        if best_ms.is_some() && entry.good_ms == best_ms { u64::MAX } else { entry.heard_ms }
    });
    keep(known, Source::Remembered, REMEMBERED_MAX, |entry| entry.good_ms.unwrap_or(0));
}

/// Keeps the `max` entries of a source that are worth most, among equals the first, and all of other sources.
fn keep(known: &mut Vec<KnownAddr>, source: Source, max: usize, worth: impl Fn(&KnownAddr) -> u64) {
    let mut ranked: Vec<usize> = (0..known.len()).filter(|at| known[*at].source == source).collect();
    ranked.sort_by_key(|at| Reverse(worth(&known[*at])));
    let mut dropped = ranked.split_off(ranked.len().min(max));
    dropped.sort_unstable();
    for at in dropped.into_iter().rev() {
        known.remove(at);
    }
}

#[cfg(test)]
#[path = "address_book_tests.rs"]
mod tests;
