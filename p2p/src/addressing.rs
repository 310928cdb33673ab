//! The links' task and the address book: what it is told, when, and who is dialled because of it. The book's own rules are
//! `address_book`'s.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

use crate::discovery::Sighting;
use crate::task::LinksTask;
use crate::{PeerAddr, PeerKey};

/// Wrong addresses of one member that are left out of its dials; more than its addresses can be, so only a network
/// that makes up new ones gets there, and then they are tried again.
const AVOIDED_MAX: usize = 64;

impl LinksTask {
    pub(crate) fn on_sighted(&mut self, sightings: Vec<Sighting>) {
        let now = Instant::now();
        for sighting in sightings {
            match sighting {
                Sighting::Found(key, addr) => self.on_found(key, addr, now),
                Sighting::Gone(key, addr) => {
                    self.book.expired(key, &addr);
                    let has_addrs = !self.book.addrs(key).is_empty();
                    if let Some(peer) = self.peers.get_mut(&key) {
                        peer.addr_gone(has_addrs);
                    }
                }
            }
        }
    }

    fn on_found(&mut self, key: PeerKey, addr: PeerAddr, now: Instant) {
        // The set that discovery asked may be newer than the one this loop knows; then its turn comes with that one.
        let Some(peer) = self.peers.get_mut(&key) else { return };
        tracing::debug!(peer = %key, %addr, "member found on the network");
        if self.book.discovered(key, addr, now_ms()) {
            peer.addr_found(now);
        }
    }

    /// A member is described anew, or for the first time; returns whether there is anywhere to dial.
    pub(crate) fn describe(&mut self, key: PeerKey, addrs: &[PeerAddr]) -> bool {
        let now_ms = now_ms();
        self.book.describe(key, addrs, now_ms);
        if let Some(discovery) = &self.swarm.behaviour().discovery {
            for addr in discovery.heard(key) {
                self.book.discovered(key, addr, now_ms);
            }
        }
        !self.book.addrs(key).is_empty()
    }

    /// The link on this connection came up: if we dialled it, its address is a good one.
    pub(crate) fn note_good(&mut self, key: PeerKey, id: ConnectionId) {
        if let Some(addr) = self.dialled.get(&id) {
            self.book.good(key, addr.clone(), now_ms());
        }
    }

    pub(crate) fn avoid(&mut self, key: PeerKey, addr: &Multiaddr) {
        let avoided = self.avoided.entry(key).or_default();
        if avoided.len() >= AVOIDED_MAX {
            avoided.clear();
        }
        avoided.insert(without_key(addr));
    }

    pub(crate) fn publish_book(&self) {
        self.outlet.book.send_if_modified(|published| {
            let differs = **published != self.book;
            if differs {
                *published = Arc::new(self.book.clone());
            }
            differs
        });
    }
}

/// The address as it stands in the book: what comes from a dial carries the expected key at its end.
pub(crate) fn without_key(addr: &Multiaddr) -> Multiaddr {
    addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
