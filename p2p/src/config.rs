//! What an operator or a test may choose about links, and the limits nobody may. Owns numbers and their reasons.

use std::num::NonZeroU8;
use std::time::Duration;

use crate::{AddressBook, PeerAddr};

/// Streams open at once in each direction of one link. A node needs one or two a shard plus a few for bulk; the limit
/// stands well below [`MUXER_STREAMS_MAX`], because reaching that one ends the whole connection.
pub(crate) const STREAMS_PER_DIRECTION_MAX: usize = 256;
/// What the multiplexer itself bears: both directions, those still in their hello, and those dropped but not yet noticed.
pub(crate) const MUXER_STREAMS_MAX: usize = 2048;
/// Requests to open a stream that wait for their connection's task; more wait in `open`, within its deadline.
pub(crate) const OPEN_QUEUE_MAX: usize = 64;
/// Inbound connections in their handshake: all that a stranger can make this node work on at a time.
pub(crate) const PENDING_INBOUND_MAX: usize = 64;
/// Connections one member may hold: one, a duplicate of a simultaneous dial, and what a flapping network leaves for a while.
pub(crate) const CONNECTIONS_PER_PEER_MAX: usize = 8;
/// Addresses a member may be described with; the address book has a little more room for others.
pub(crate) const ADDRS_PER_MEMBER_MAX: usize = 8;
/// Addresses of one dial, names resolved: all that the address book holds, and a few for names that stand for several.
pub(crate) const DIALLED_MAX: usize = 24;
/// Of these, so many are tried at a time: more would be a burst.
pub(crate) const DIALS_AT_ONCE_MAX: NonZeroU8 = NonZeroU8::new(8).expect("eight is not zero");
/// How long `start` waits for its listeners; binding is local, so this only catches a broken system.
pub(crate) const LISTEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a host name may take before the attempt counts as failed and is repeated with the usual backoff.
pub(crate) const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// How a node links up with others. [`LinkConfig::default`] listens nowhere and suits a home network.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where to listen, TCP and QUIC alike; port 0 lets the system choose. Empty: this node only dials.
    pub listen: Vec<PeerAddr>,
    /// Time between two heartbeats on a link.
    pub heartbeat_interval: Duration,
    /// A peer whose heartbeat was missing this long is down and its connection is closed. Counted in heartbeat
    /// intervals that this process itself was awake for, so a stall here is not taken for silence there.
    pub silent_after: Duration,
    /// Wait before the first redial of a lost peer; doubles with every failure.
    pub redial_min: Duration,
    /// The longest wait between two redials. Small, because a peer that comes back takes part again only then.
    pub redial_max: Duration,
    /// Limit for connecting and both handshakes.
    pub dial_timeout: Duration,
    /// Limit for `open`, the other side's acceptance included.
    pub open_timeout: Duration,
    /// Whether to announce this node by mDNS and listen for members there. It is done only if an address to listen on is
    /// not a loopback one: otherwise there is nothing that another machine could dial.
    pub mdns: bool,
    /// Where members were found in the past, as [`crate::Links::book`] last gave it; empty at the first start.
    pub book: AddressBook,
    /// Accepted streams that wait in [`crate::Inbound`]; when it is full, the opener is told so.
    pub inbound_queue: usize,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            listen: Vec::new(),
            heartbeat_interval: Duration::from_millis(250),
            silent_after: Duration::from_secs(2),
            redial_min: Duration::from_millis(100),
            redial_max: Duration::from_secs(2),
            dial_timeout: Duration::from_secs(3),
            open_timeout: Duration::from_secs(2),
            mdns: false,
            book: AddressBook::default(),
            inbound_queue: 256,
        }
    }
}

impl LinkConfig {
    /// Says in one sentence what is wrong, if something is.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.heartbeat_interval.is_zero() || self.redial_min.is_zero() {
            return Err("heartbeat_interval and redial_min must be more than zero");
        }
        if self.silent_after < 2 * self.heartbeat_interval {
            return Err("silent_after must be at least two heartbeat intervals, or one late beat ends a good link");
        }
        if self.redial_max < self.redial_min {
            return Err("redial_max must not be less than redial_min");
        }
        if self.dial_timeout.is_zero() || self.open_timeout.is_zero() || self.inbound_queue == 0 {
            return Err("dial_timeout, open_timeout and inbound_queue must be more than zero");
        }
        Ok(())
    }

    /// Whether mDNS runs.
    pub(crate) fn discovers(&self) -> bool {
        self.mdns && self.listen.iter().any(|addr| !addr.is_loopback())
    }

    /// How long a second connection of a pair may stand before one of the two is closed: long enough for a beat to be
    /// answered on the first one if that is alive.
    pub(crate) fn standby_window(&self) -> Duration {
        (3 * self.heartbeat_interval).min(self.silent_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_never_announced() {
        let discovers = |mdns, listen: &[&str]| {
            let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
            LinkConfig { listen, mdns, ..LinkConfig::default() }.discovers()
        };
        let loopback = ["127.0.0.1:0", "[::1]:0", "/ip4/127.0.0.2/udp/0/quic-v1"];
        assert!(!discovers(true, &loopback) && !discovers(true, &[]));
        assert!(discovers(true, &["0.0.0.0:0"]) && discovers(true, &[loopback[0], "/ip4/10.0.0.1/udp/0/quic-v1"]));
        assert!(!discovers(false, &["0.0.0.0:0"]));
    }

    #[test]
    fn defaults_are_valid_and_broken_ones_are_named() {
        LinkConfig::default().check().unwrap();
        let hasty = LinkConfig { silent_after: Duration::from_millis(300), ..LinkConfig::default() };
        assert!(hasty.check().unwrap_err().contains("silent_after"));
        let closed = LinkConfig { inbound_queue: 0, ..LinkConfig::default() };
        assert!(closed.check().unwrap_err().contains("inbound_queue"));
    }
}
