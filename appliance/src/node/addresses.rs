//! Where this node is reached: what its configuration says, else what it really listens on. Interfaces come and go, so it is asked
//! anew each time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use iris_p2p::{Links, PeerAddr, PeerKey};
use iris_protocol::NodeId;

use crate::cluster::meta::NodeRecord;
use crate::config::Config;

/// Addresses told of one node: as many as links use.
const ADDRESSES_MAX: usize = 8;

/// What decides this node's addresses.
#[derive(Clone)]
pub(super) struct Addresses {
    /// The node as the configuration's list of members has it.
    listed: Option<NodeRecord>,
    name: String,
    key: PeerKey,
    advertise: Option<String>,
    bound: SocketAddr,
    links: Links,
}

impl Addresses {
    /// `listed_as`: this node in the configuration's list of members, if it is one of those; its entry counts as configured.
    /// `bound`: where the client listener is.
    ///
    /// # Errors
    /// The list's addresses can't be read.
    pub(super) fn new(
        config: &Config,
        listed_as: Option<NodeId>,
        bound: SocketAddr,
        links: Links,
    ) -> anyhow::Result<Self> {
        let listed = config.members.iter().find(|member| Some(NodeId(member.id)) == listed_as);
        Ok(Self {
            listed: listed.map(super::founding::record).transpose()?,
            name: config.node.name.clone(),
            key: links.local(),
            advertise: config.node.advertise.clone(),
            bound,
            links,
        })
    }

    /// This node, as the others should know it now.
    pub(super) fn record(&self) -> NodeRecord {
        if let Some(listed) = &self.listed {
            let client = self.advertise.as_ref().unwrap_or(&listed.client).clone();
            // Its key is what it has, whatever the list says: who starts it compares the two.
            return NodeRecord { client, key: self.key, ..listed.clone() };
        }
        let (listening, routed) = (self.links.listen_addrs(), routed());
        let client = self.client(&listening, &routed).swap_remove(0);
        NodeRecord { name: self.name.clone(), key: self.key, p2p: reachable(listening, &routed), client }
    }

    /// Every address under which clients may reach this node, the best one first; at least one.
    pub(super) fn clients(&self) -> Vec<String> {
        match &self.listed {
            Some(_) => vec![self.record().client],
            None => self.client(&self.links.listen_addrs(), &routed()),
        }
    }

    /// Where the client port is bound.
    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    fn client(&self, listening: &[PeerAddr], routed: &[IpAddr]) -> Vec<String> {
        client_addresses(self.advertise.as_deref(), self.bound, listening, routed)
    }
}

/// The client port listens on every interface when it is bound to a wildcard; which ones there are, the links know.
fn client_addresses(
    advertise: Option<&str>,
    bound: SocketAddr,
    listening: &[PeerAddr],
    routed: &[IpAddr],
) -> Vec<String> {
    if let Some(advertise) = advertise {
        return vec![advertise.to_owned()];
    }
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let mut ips: Vec<IpAddr> = listening.iter().filter_map(PeerAddr::ip).filter(|ip| is_for_others(*ip)).collect();
    ips.retain(|ip| bound.is_ipv6() || ip.is_ipv4());
    let ranks = Ranks::new(routed, &ips);
    // Most homes speak IPv4 everywhere; an IPv6 prefix may change overnight.
    ips.sort_by_key(|ip| (ranks.of(*ip), ip.is_ipv6(), *ip));
    ips.dedup();
    ips.truncate(ADDRESSES_MAX);
    if ips.is_empty() {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    ips.into_iter().map(|ip| SocketAddr::new(ip, bound.port()).to_string()).collect()
}

/// Loopback addresses are told only if there are no others: elsewhere they mean the machine that reads them.
fn reachable(mut listening: Vec<PeerAddr>, routed: &[IpAddr]) -> Vec<PeerAddr> {
    let for_others = |addr: &PeerAddr| addr.ip().is_none_or(is_for_others);
    if listening.iter().any(for_others) {
        listening.retain(for_others);
    }
    let ips: Vec<IpAddr> = listening.iter().filter_map(PeerAddr::ip).collect();
    let ranks = Ranks::new(routed, &ips);
    listening.sort_by_key(|addr| addr.ip().map(|ip| ranks.of(ip)));
    listening.truncate(ADDRESSES_MAX);
    listening
}

/// The addresses from which this machine speaks to the rest of the world, IPv4 first: the network the others are in. A machine
/// with containers has a dozen more, which no other machine can reach, and nothing in them tells them apart.
fn routed() -> Vec<IpAddr> {
    // Addresses kept for documentation: only the default route leads there. Connecting a UDP socket sends nothing.
    let v4 = source(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = source(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    v4.into_iter().chain(v6).collect()
}

/// The address the system would speak from to `target`; `None` without a route.
fn source(any: IpAddr, target: IpAddr) -> Option<IpAddr> {
    const ANY_PORT: u16 = 9;
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((target, ANY_PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Which addresses to tell first: those of the default route, then the others, then what looks like a container bridge.
struct Ranks<'a> {
    routed: &'a [IpAddr],
    /// Whether there are private addresses beside those that look like bridges. If not, they may be the home network itself.
    has_network: bool,
}

impl<'a> Ranks<'a> {
    fn new(routed: &'a [IpAddr], ips: &[IpAddr]) -> Self {
        let is_network = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if v4.is_private()) && !looks_like_bridge(*ip);
        Self { routed, has_network: ips.iter().any(is_network) }
    }

    fn of(&self, ip: IpAddr) -> usize {
        let other = self.routed.len() + usize::from(self.has_network && looks_like_bridge(ip));
        self.routed.iter().position(|routed| *routed == ip).unwrap_or(other)
    }
}

/// Container engines take their networks from 172.16.0.0/12; few homes do.
fn looks_like_bridge(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 172 && ip.octets()[1] & 0xf0 == 16)
}

/// Whether another machine can dial it. A link-local address works only together with the name of an interface.
fn is_for_others(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<PeerAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn others_are_told_what_they_can_dial() {
        let listening = addrs(&["127.0.0.1:8444", "[::1]:8444", "[fe80::1]:8444", "192.168.1.4:8444", "10.0.0.9:8444"]);
        let clients = |advertise, bound: &str| client_addresses(advertise, bound.parse().unwrap(), &listening, &[]);
        assert_eq!(clients(None, "0.0.0.0:8443"), ["10.0.0.9:8443", "192.168.1.4:8443"]);
        assert_eq!(clients(None, "192.168.1.4:8443"), ["192.168.1.4:8443"]);
        assert_eq!(clients(Some("home.example:443"), "0.0.0.0:8443"), ["home.example:443"]);
        let alone = addrs(&["127.0.0.1:8444"]);
        assert_eq!(client_addresses(None, "0.0.0.0:8443".parse().unwrap(), &alone, &[]), ["127.0.0.1:8443"]);
        assert_eq!(reachable(listening, &[]), addrs(&["192.168.1.4:8444", "10.0.0.9:8444"]));
        assert_eq!(reachable(alone.clone(), &[]), alone);
        let names = addrs(&["nas.lan:8444", "/ip4/10.0.0.9/udp/8444/quic-v1", "127.0.0.1:1"]);
        assert_eq!(reachable(names.clone(), &[]), names[..2]);
    }

    #[tokio::test]
    async fn the_list_of_members_speaks_of_founders_only() {
        let identity = iris_p2p::Identity::ephemeral();
        let key = identity.peer_id();
        let (links, _inbound, _task) =
            Links::start(identity, iris_p2p::LinkConfig::default(), Vec::new()).await.unwrap();
        let founder = crate::config::MemberConfig {
            id: 1,
            name: "attic".to_owned(),
            key: iris_p2p::Identity::ephemeral().peer_id().to_string(),
            p2p: vec!["192.0.2.1:8444".to_owned()],
            client: "192.0.2.1:8443".to_owned(),
        };
        let mut config = Config { members: vec![founder], ..Config::default() };
        (config.node.id, config.node.name) = (1, "nas".to_owned());
        let record = |listed_as| {
            let own = Addresses::new(&config, listed_as, "192.0.2.7:8443".parse().unwrap(), links.clone()).unwrap();
            let NodeRecord { name, key, client, .. } = own.record();
            (name, key, client)
        };
        // One that joined has the same file as the founders, as machines set up from one place do.
        assert_eq!(record(None), ("nas".to_owned(), key, "192.0.2.7:8443".to_owned()));
        assert_eq!(record(Some(NodeId(1))), ("attic".to_owned(), key, "192.0.2.1:8443".to_owned()), "the key it has");
    }

    #[test]
    fn ipv6_counts_where_it_is_listened_on() {
        let listening = addrs(&["[fd00::5]:8444", "10.0.0.9:8444"]);
        let clients = |bound: &str| client_addresses(None, bound.parse().unwrap(), &listening, &[]);
        assert_eq!(clients("[::]:8443"), ["10.0.0.9:8443", "[fd00::5]:8443"]);
        assert_eq!(clients("0.0.0.0:8443"), ["10.0.0.9:8443"]);
    }

    #[test]
    fn the_network_comes_before_bridges_and_is_never_cut_off() {
        let mut texts: Vec<String> = (17..=28).map(|net| format!("172.{net}.0.1:8444")).collect();
        texts.extend(["192.168.1.4:8444", "[fd00::5]:8444", "10.8.0.2:8444"].map(str::to_owned));
        let listening = addrs(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let routed: Vec<IpAddr> = ["192.168.1.4", "fd00::5"].map(|ip| ip.parse().unwrap()).into();
        let told = |routed: &[IpAddr]| {
            let clients = client_addresses(None, "[::]:8443".parse().unwrap(), &listening, routed);
            let peers = reachable(listening.clone(), routed);
            assert_eq!((clients.len(), peers.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
            (clients[..4].join(" "), peers[..4].iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (clients, peers) = told(&routed);
        assert_eq!(clients, "192.168.1.4:8443 [fd00::5]:8443 10.8.0.2:8443 172.17.0.1:8443");
        assert_eq!(peers[..2], [listening[12].to_string(), listening[13].to_string()]);
        let (clients, _) = told(&[]);
        assert_eq!(clients, "10.8.0.2:8443 192.168.1.4:8443 [fd00::5]:8443 172.17.0.1:8443", "without a route");
        // The home network may be one of them.
        assert!(told(&["172.20.0.1".parse().unwrap()]).0.starts_with("172.20.0.1:8443"));
    }

    #[test]
    fn without_any_other_private_network_they_are_one_like_any() {
        let listening = addrs(&["172.20.1.4:8444", "[fd00::5]:8444"]);
        let clients = client_addresses(None, "[::]:8443".parse().unwrap(), &listening, &[]);
        assert_eq!(clients, ["172.20.1.4:8443", "[fd00::5]:8443"]);
    }
}
