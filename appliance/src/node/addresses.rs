//! Where this node is reached: what its configuration says, else what it really listens on. Interfaces come and go, so it is asked
//! anew each time.

use std::net::{IpAddr, SocketAddr};

use iris_p2p::{Links, PeerAddr, PeerKey};

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
    /// `bound`: where the client listener is. The list's own entry counts as configured.
    ///
    /// # Errors
    /// The list's addresses can't be read.
    pub(super) fn new(config: &Config, bound: SocketAddr, links: Links) -> anyhow::Result<Self> {
        let listed = config.members.iter().find(|member| member.id == config.node.id);
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
            return NodeRecord { client, ..listed.clone() };
        }
        let listening = self.links.listen_addrs();
        let client = self.client(&listening).swap_remove(0);
        NodeRecord { name: self.name.clone(), key: self.key, p2p: reachable(listening), client }
    }

    /// Every address under which clients may reach this node, the best one first; at least one.
    pub(super) fn clients(&self) -> Vec<String> {
        match &self.listed {
            Some(_) => vec![self.record().client],
            None => self.client(&self.links.listen_addrs()),
        }
    }

    fn client(&self, listening: &[PeerAddr]) -> Vec<String> {
        client_addresses(self.advertise.as_deref(), self.bound, listening)
    }
}

/// The client port listens on every interface when it is bound to a wildcard; which ones there are, the links know.
fn client_addresses(advertise: Option<&str>, bound: SocketAddr, listening: &[PeerAddr]) -> Vec<String> {
    if let Some(advertise) = advertise {
        return vec![advertise.to_owned()];
    }
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let mut ips: Vec<IpAddr> = listening.iter().filter_map(PeerAddr::ip).filter(|ip| is_for_others(*ip)).collect();
    // Most homes speak IPv4 everywhere; an IPv6 prefix may change overnight.
    ips.sort_by_key(|ip| (ip.is_ipv6(), *ip));
    ips.dedup();
    ips.retain(|ip| bound.is_ipv6() || ip.is_ipv4());
    ips.truncate(ADDRESSES_MAX);
    if ips.is_empty() {
        ips.push(std::net::Ipv4Addr::LOCALHOST.into());
    }
    ips.into_iter().map(|ip| SocketAddr::new(ip, bound.port()).to_string()).collect()
}

/// Loopback addresses are told only if there are no others: elsewhere they mean the machine that reads them.
fn reachable(mut listening: Vec<PeerAddr>) -> Vec<PeerAddr> {
    let for_others = |addr: &PeerAddr| addr.ip().is_none_or(is_for_others);
    if listening.iter().any(for_others) {
        listening.retain(for_others);
    }
    listening.truncate(ADDRESSES_MAX);
    listening
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
        let clients = |advertise, bound: &str| client_addresses(advertise, bound.parse().unwrap(), &listening);
        assert_eq!(clients(None, "0.0.0.0:8443"), ["10.0.0.9:8443", "192.168.1.4:8443"]);
        assert_eq!(clients(None, "192.168.1.4:8443"), ["192.168.1.4:8443"]);
        assert_eq!(clients(Some("home.example:443"), "0.0.0.0:8443"), ["home.example:443"]);
        let alone = addrs(&["127.0.0.1:8444"]);
        assert_eq!(client_addresses(None, "0.0.0.0:8443".parse().unwrap(), &alone), ["127.0.0.1:8443"]);
        assert_eq!(reachable(listening), addrs(&["192.168.1.4:8444", "10.0.0.9:8444"]));
        assert_eq!(reachable(alone.clone()), alone);
        let names = addrs(&["nas.lan:8444", "/ip4/10.0.0.9/udp/8444/quic-v1", "127.0.0.1:1"]);
        assert_eq!(reachable(names.clone()), names[..2]);
    }

    #[test]
    fn ipv6_counts_where_it_is_listened_on() {
        let listening = addrs(&["[fd00::5]:8444", "10.0.0.9:8444"]);
        let clients = |bound: &str| client_addresses(None, bound.parse().unwrap(), &listening);
        assert_eq!(clients("[::]:8443"), ["10.0.0.9:8443", "[fd00::5]:8443"]);
        assert_eq!(clients("0.0.0.0:8443"), ["10.0.0.9:8443"]);
    }
}
