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

    /// The socket behind a TCP address with a literal IP.
    pub fn tcp_socket(&self) -> Option<SocketAddr> {
        let mut parts = self.0.iter();
        let ip: IpAddr = match parts.next()? {
            Protocol::Ip4(ip) => ip.into(),
            Protocol::Ip6(ip) => ip.into(),
            _ => return None,
        };
        match parts.next()? {
            Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
            _ => None,
        }
    }

    pub(crate) fn from_multiaddr(addr: Multiaddr) -> PeerAddr {
        PeerAddr(addr)
    }

    pub(crate) fn multiaddr(&self) -> &Multiaddr {
        &self.0
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
    fn every_display_parses_back() {
        for text in ["10.0.0.1:1", "[fe80::1]:2", "host:3", "/ip6/::1/udp/4/quic-v1"] {
            let addr: PeerAddr = text.parse().unwrap();
            check(&addr.to_string(), Some(&addr.to_string()));
        }
    }
}
