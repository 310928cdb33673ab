//! Calling a member: which addresses are dialled and what a failure says about them. Owns nothing but that; when to dial is
//! `peer`'s decision.

use std::time::Instant;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};

use crate::task::{Done, LinksTask};
use crate::{DownCause, PeerKey, resolve};

impl LinksTask {
    pub(crate) fn start_dial(&mut self, key: PeerKey) {
        let addrs = self.known.get(&key).cloned().unwrap_or_default();
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
            .build();
        if let Err(error) = self.swarm.dial(dial) {
            self.on_dial_failed(key, &error);
        }
    }

    pub(crate) fn on_dial_failed(&mut self, key: PeerKey, error: &DialError) {
        tracing::debug!(peer = %key, %error, "dial failed");
        let cause = match error {
            DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
                self.avoided.entry(key).or_default().insert(without_key(address));
                DownCause::WrongIdentity
            }
            _ => DownCause::Unreachable,
        };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.dial_failed(cause, Instant::now());
        }
    }
}

/// The address as it stands in the member set: dial errors carry the expected key at its end.
fn without_key(addr: &Multiaddr) -> Multiaddr {
    addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}
