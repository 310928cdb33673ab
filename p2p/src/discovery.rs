//! mDNS: hears who is on the local network, and lets this node be heard. Owns the announcements and which of them are worth
//! telling. It admits nobody and dials nobody: members' addresses go into the address book, strangers are counted.
//!
//! Whatever is heard here can be made up by anybody on the network. So nothing it makes this node keep or do grows with
//! what is said: records are bounded, names are never looked up, and a wrong address costs one refused handshake.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::mdns;
use libp2p::swarm::behaviour::{ExpiredListenAddr, FromSwarm, NewListenAddr};
use libp2p::swarm::{NetworkBehaviour, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use crate::behaviour::MemberMap;
use crate::heard::{Heard, Heed};
use crate::{PeerAddr, PeerKey};

/// How often the network is asked again. A node that starts, or gets an address, asks at once; this is for packets that
/// were lost.
const QUERY_INTERVAL: Duration = Duration::from_secs(30);
/// How long an announcement holds: several lost answers long.
const TTL: Duration = Duration::from_secs(120);
/// Records that libp2p's mDNS may hold; it has no limit of its own, so beyond this it starts over.
const RECORDS_MAX: usize = 1_024;
/// Turns of one poll: a flood of announcements must not keep the swarm from its other work.
const TURNS_MAX: usize = 32;

/// What the network tells of members.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    Found(PeerKey, PeerAddr),
    Gone(PeerKey, PeerAddr),
}

pub(crate) struct Discovery {
    local: PeerId,
    members: watch::Receiver<MemberMap>,
    mdns: mdns::tokio::Behaviour,
    /// For a new start of the above, which hears of listeners only once.
    listening: Vec<(ListenerId, Multiaddr)>,
    heard: Heard,
    /// How often it started over.
    starts: u64,
}

impl Discovery {
    pub(crate) fn new(local: PeerKey, members: watch::Receiver<MemberMap>) -> io::Result<Discovery> {
        let mdns = start(local.id())?;
        Ok(Discovery { local: local.id(), members, mdns, listening: Vec::new(), heard: Heard::default(), starts: 0 })
    }

    /// Where a key was heard that was no member then, or has been one all along.
    pub(crate) fn heard(&self, key: PeerKey) -> Vec<PeerAddr> {
        self.heard.of(key).to_vec()
    }

    pub(crate) fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listening.push((listener_id, addr.clone()));
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr }) => {
                self.listening.retain(|(id, known)| (*id, known) != (listener_id, addr));
            }
            _ => {}
        }
        self.mdns.on_swarm_event(event);
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Sighting>> {
        for _ in 0..TURNS_MAX {
            let event = match self.mdns.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => event,
                // Addresses are kept in this node's own book, which has bounds.
                Poll::Ready(_) => continue,
                Poll::Pending => return Poll::Pending,
            };
            let mut sightings = self.sightings(event);
            if self.mdns.discovered_nodes().len() > RECORDS_MAX {
                sightings.extend(self.start_over());
            }
            if !sightings.is_empty() {
                return Poll::Ready(sightings);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn sightings(&mut self, event: mdns::Event) -> Vec<Sighting> {
        let members = self.members.borrow().clone();
        match event {
            mdns::Event::Discovered(found) => {
                let heed = |(peer, addr): (PeerId, Multiaddr)| {
                    let (key, addr) = (PeerKey::from_id(peer), PeerAddr::from_discovery(&addr)?);
                    let is_member = members.contains_key(&key);
                    match self.heard.insert(key, addr.clone(), |key| members.contains_key(&key)) {
                        Heed::Kept if is_member => Some(Sighting::Found(key, addr)),
                        Heed::Kept => {
                            tracing::debug!(peer = %key, %addr, "a stranger is on the network");
                            None
                        }
                        Heed::Ignored { so_far } => {
                            tracing::debug!(peer = %key, so_far, "an announcement was ignored: too many");
                            None
                        }
                    }
                };
                found.into_iter().filter_map(heed).collect()
            }
            mdns::Event::Expired(gone) => {
                let forget = |(peer, addr): (PeerId, Multiaddr)| {
                    let (key, addr) = (PeerKey::from_id(peer), PeerAddr::from_discovery(&addr)?);
                    self.heard.remove(key, &addr);
                    members.contains_key(&key).then_some(Sighting::Gone(key, addr))
                };
                gone.into_iter().filter_map(forget).collect()
            }
        }
    }

    /// Forgets everything and asks again: whoever is really there answers within a moment. The tasks of the old instance
    /// end with the next thing they hear, which can't be long when there was so much.
    fn start_over(&mut self) -> Vec<Sighting> {
        match start(self.local) {
            Ok(mdns) => self.mdns = mdns,
            Err(error) => {
                tracing::warn!(%error, "mDNS can't start over after too many announcements; they are kept");
                return Vec::new();
            }
        }
        self.starts += 1;
        // Who makes up announcements must not fill the log either.
        if self.starts.is_power_of_two() {
            let (times, records) = (self.starts, RECORDS_MAX);
            tracing::warn!(records, times, "too many mDNS announcements on this network; starting over");
        }
        for (listener_id, addr) in &self.listening {
            self.mdns.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: *listener_id, addr }));
        }
        let members = self.members.borrow().clone();
        let forgotten = std::mem::take(&mut self.heard).into_all().filter(|(key, _)| members.contains_key(key));
        forgotten.map(|(key, addr)| Sighting::Gone(key, addr)).collect()
    }
}

fn start(local: PeerId) -> io::Result<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config { ttl: TTL, query_interval: QUERY_INTERVAL, enable_ipv6: false }, local)
}
