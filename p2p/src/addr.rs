//! Where a node listens or can be reached. Owns the text forms an operator may write; resolving names is `resolve`'s.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address of a node: `192.168.1.4:7400`, `nas.local:7400` (both TCP), or a multiaddr such as
/// `/ip4/192.168.1.4/udp/7400/quic-v1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(Multiaddr);

/// A text that is no address this node could use.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an address; write HOST:PORT, or for QUIC /ip4/A.B.C.D/udp/PORT/quic-v1")]
pub struct ParseAddrError {
    text: String,
}

/// A DNS name is at most 253 characters long (RFC 1035, section 2.3.4).
const HOST_LEN_MAX: usize = 253;
/// Room for a name, a port and protocol tags; a longer text is a mistake and is not quoted in full.
const QUOTED_CHARS_MAX: usize = 80;

impl PeerAddr {
    /// The TCP address of a socket.
    pub fn tcp(socket: SocketAddr) -> PeerAddr {
        PeerAddr(Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port())))
    }

    /// The QUIC address of a socket.
    pub fn quic(socket: SocketAddr) -> PeerAddr {
        PeerAddr(Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1))
    }

    /// The literal IP, if it names one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.0.iter().next()? {
            Protocol::Ip4(ip) => Some(ip.into()),
            Protocol::Ip6(ip) => Some(ip.into()),
            _ => None,
        }
    }

    /// The socket behind a TCP address with a literal IP.
    pub fn tcp_socket(&self) -> Option<SocketAddr> {
        match self.0.iter().nth(1)? {
            Protocol::Tcp(port) => Some(SocketAddr::new(self.ip()?, port)),
            _ => None,
        }
    }

    pub(crate) fn from_multiaddr(addr: Multiaddr) -> PeerAddr {
        PeerAddr(addr)
    }

    pub(crate) fn multiaddr(&self) -> &Multiaddr {
        &self.0
    }

    /// What the local network says about where a node listens, if this node could dial it. Only literal addresses of other
    /// machines: anybody on the network can announce anything, and a name would let them choose what this node looks up.
    /// A link-local IPv6 address is dialled through an interface, which the announcement can't name.
    pub(crate) fn from_discovery(addr: &Multiaddr) -> Option<PeerAddr> {
        let bare = PeerAddr(addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect());
        let elsewhere = match bare.ip()? {
            IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast()),
            IpAddr::V6(ip) => {
                let odd = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local();
                !odd && ip.to_ipv4_mapped().is_none()
            }
        };
        (elsewhere && bare.is_usable() && bare.port().is_some_and(|port| port != 0)).then_some(bare)
    }

    /// Whether only this machine can reach it.
    pub(crate) fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Whether it says nothing without the name of an interface, which no address here carries.
    pub(crate) fn needs_zone(&self) -> bool {
        matches!(self.ip(), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
    }

    fn port(&self) -> Option<u16> {
        match self.0.iter().nth(1)? {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<PeerAddr> {
        if text.starts_with('/') {
            return text.parse().ok().map(PeerAddr).filter(PeerAddr::is_usable);
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Some(PeerAddr::tcp(socket));
        }
        let (host, port) = text.rsplit_once(':')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || host.len() > HOST_LEN_MAX || !host.chars().all(plain) {
            return None;
        }
        let port: u16 = port.parse().ok()?;
        Some(PeerAddr(Multiaddr::empty().with(Protocol::Dns(host.to_owned().into())).with(Protocol::Tcp(port))))
    }

    /// Whether it names a host and then exactly one of the two transports that exist here.
    fn is_usable(&self) -> bool {
        let parts: Vec<Protocol<'_>> = self.0.iter().collect();
        let host = |part: &Protocol<'_>| {
            matches!(
                part,
                Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)
            )
        };
        match parts.as_slice() {
            [first, Protocol::Tcp(_)] => host(first),
            [first, Protocol::Udp(_), Protocol::QuicV1] => host(first),
            _ => false,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerAddr({})", self.0)
    }
}

impl FromStr for PeerAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<PeerAddr, ParseAddrError> {
        let quoted = || ParseAddrError { text: text.chars().take(QUOTED_CHARS_MAX).collect() };
        PeerAddr::parse(text.trim()).ok_or_else(quoted)
    }
}

impl Serialize for PeerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PeerAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expect: Option<&str>) {
        let got = input.parse::<PeerAddr>().ok().map(|addr| addr.to_string());
        assert_eq!(got.as_deref(), expect, "{input}");
    }

    #[test]
    fn accepts_what_an_operator_writes() {
        check("127.0.0.1:7400", Some("/ip4/127.0.0.1/tcp/7400"));
        check(" [::1]:7400 ", Some("/ip6/::1/tcp/7400"));
        check("nas.local:7400", Some("/dns/nas.local/tcp/7400"));
        check("/ip4/10.0.0.1/udp/7400/quic-v1", Some("/ip4/10.0.0.1/udp/7400/quic-v1"));
    }

    #[test]
    fn refuses_what_no_transport_here_can_use() {
        for text in ["", ":7400", "nas.local", "nas:99999", "a b:1", "/ip4/10.0.0.1/udp/7400", "/ip4/10.0.0.1", "/x"] {
            check(text, None);
        }
    }

    #[test]
    fn of_what_is_announced_only_what_can_be_dialled_is_kept() {
        let check = |announced: &str, expect: Option<&str>| {
            let found = PeerAddr::from_discovery(&announced.parse().unwrap()).map(|addr| addr.to_string());
            assert_eq!(found.as_deref(), expect, "{announced}");
        };
        let key = "/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
        check(&format!("/ip4/192.168.1.4/tcp/7400{key}"), Some("/ip4/192.168.1.4/tcp/7400"));
        check("/ip4/169.254.1.4/udp/7400/quic-v1", Some("/ip4/169.254.1.4/udp/7400/quic-v1"));
        check("/ip6/fd00::4/tcp/7400", Some("/ip6/fd00::4/tcp/7400"));
        for useless in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.251/tcp/1",
            "/ip4/255.255.255.255/tcp/1",
            "/ip4/10.0.0.1/tcp/0",
            "/ip4/10.0.0.1/tcp/1/ws",
            "/ip4/10.0.0.1/udp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/::ffff:127.0.0.1/tcp/1",
            "/ip6zone/eth0/ip6/fe80::1/tcp/1",
            "/dns/victim.example/tcp/1",
            "/memory/1",
        ] {
            check(useless, None);
        }
    }

    #[test]
    fn every_display_parses_back() {
        for text in ["10.0.0.1:1", "[fe80::1]:2", "host:3", "/ip6/::1/udp/4/quic-v1"] {
            let addr: PeerAddr = text.parse().unwrap();
            check(&addr.to_string(), Some(&addr.to_string()));
        }
    }
}
