//! Turns host names in addresses into IP addresses before a dial. Owns the lookup and its deadline, no cache: a machine
//! at home changes its address, and a dial happens rarely.

use futures::future::join_all;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::PeerAddr;
use crate::config::{ADDRS_PER_MEMBER_MAX, DIALLED_MAX, RESOLVE_WITHIN};

pub(crate) fn needs_lookup(addrs: &[PeerAddr]) -> bool {
    addrs.iter().any(|addr| host_name(addr.multiaddr()).is_some())
}

/// The addresses with every name replaced by what it stands for now; names that can't be resolved are left out. All names
/// at once, so that several that can't be found cost one deadline.
pub(crate) async fn resolve(addrs: &[PeerAddr]) -> Vec<Multiaddr> {
    let looking = addrs.iter().map(|addr| async {
        match host_name(addr.multiaddr()) {
            None => vec![addr.multiaddr().clone()],
            Some((name, family)) => look_up(addr.multiaddr(), &name, family).await,
        }
    });
    let mut resolved: Vec<Multiaddr> = Vec::new();
    for addr in join_all(looking).await.into_iter().flatten() {
        if !resolved.contains(&addr) {
            resolved.push(addr);
        }
    }
    resolved.truncate(DIALLED_MAX);
    resolved
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

fn host_name(addr: &Multiaddr) -> Option<(String, Family)> {
    match addr.iter().next()? {
        Protocol::Dns(name) => Some((name.into_owned(), Family::Any)),
        Protocol::Dns4(name) => Some((name.into_owned(), Family::V4)),
        Protocol::Dns6(name) => Some((name.into_owned(), Family::V6)),
        _ => None,
    }
}

async fn look_up(addr: &Multiaddr, name: &str, family: Family) -> Vec<Multiaddr> {
    match timeout(RESOLVE_WITHIN, lookup_host((name, 0))).await {
        Ok(Ok(sockets)) => sockets
            .filter(|socket| match family {
                Family::Any => true,
                Family::V4 => socket.is_ipv4(),
                Family::V6 => socket.is_ipv6(),
            })
            .filter_map(|socket| addr.replace(0, |_| Some(socket.ip().into())))
            .take(ADDRS_PER_MEMBER_MAX)
            .collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "host name not resolved");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(name, "host name not resolved in time");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_become_addresses_and_the_rest_stays() {
        let addrs: Vec<PeerAddr> =
            ["localhost:7400", "10.0.0.1:7401"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(needs_lookup(&addrs) && !needs_lookup(&addrs[1..]));
        let found: Vec<String> = resolve(&addrs).await.iter().map(Multiaddr::to_string).collect();
        assert!(found.contains(&"/ip4/127.0.0.1/tcp/7400".to_owned()), "{found:?}");
        assert!(found.contains(&"/ip4/10.0.0.1/tcp/7401".to_owned()), "{found:?}");
    }
}
