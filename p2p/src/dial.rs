//! Calling a member: which addresses are dialled and what a failure says about them. Owns nothing but that; when to dial is
//! `peer`'s decision.

use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};

use crate::config::DIALS_AT_ONCE_MAX;
use crate::task::{Done, LinksTask};
use crate::{DownCause, PeerAddr, PeerKey, resolve};

impl LinksTask {
    pub(crate) fn start_dial(&mut self, key: PeerKey) {
        let addrs: Vec<PeerAddr> = self.book.addrs(key).iter().map(|known| known.addr.clone()).collect();
        if resolve::needs_lookup(&addrs) {
            self.work.spawn(async move { Done::Resolved(key, resolve::resolve(&addrs).await) });
        } else {
            self.dial(key, addrs.iter().map(|addr| addr.multiaddr().clone()).collect());
        }
    }

    pub(crate) fn dial(&mut self, key: PeerKey, mut addrs: Vec<Multiaddr>) {
        if let Some(avoided) = self.avoided.get(&key) {
            // A dial ends with the first answer, so a wrong node at one address would hide the right one at another.
            if addrs.iter().all(|addr| avoided.contains(addr)) {
                self.avoided.remove(&key);
            } else {
                addrs.retain(|addr| !avoided.contains(addr));
            }
        }
        // A port of its own for every dial: two nodes that dial each other from their listening ports at once make one
        // TCP connection on which both believe to be the caller. The condition keeps a connection that is still being
        // closed from refusing the dial.
        let dial = DialOpts::peer_id(key.id())
            .addresses(addrs)
            .condition(PeerCondition::NotDialing)
            .allocate_new_port()
            .override_dial_concurrency_factor(DIALS_AT_ONCE_MAX)
            .build();
        if let Err(error) = self.swarm.dial(dial) {
            self.on_dial_failed(key, &error);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, key: PeerKey, error: &DialError) {
        tracing::debug!(peer = %key, %error, "dial failed");
        let cause = match error {
            DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                self.avoid(key, address);
                DownCause::WrongIdentity
            }
            _ => DownCause::Unreachable,
        };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.dial_failed(cause, Instant::now());
        }
    }
}
