//! From configuration to members: the static list, or this node alone; and the state a cluster is founded with.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context;
use iris_p2p::{Member as LinkMember, PeerAddr, PeerKey};
use iris_protocol::NodeId;

use crate::auth::{pki, token};
use crate::cluster::meta::admission::Admissions;
use crate::cluster::meta::{DedupSettings, MetaState, NodeRecord};
use crate::cluster::placement::{first_layout, first_vnodes};
use crate::config::Config;

const MS_PER_H: u64 = 3_600_000;

/// Where clients are told to connect: what the configuration says of this node, else where it really listens (a wildcard
/// address becomes loopback, as nothing better is known).
pub(super) fn advertised(config: &Config, bound: SocketAddr) -> String {
    let listed = config.members.iter().find(|member| member.id == config.node.id).map(|member| &member.client);
    match config.node.advertise.as_ref().or(listed) {
        Some(address) => address.clone(),
        None if bound.ip().is_unspecified() => format!("127.0.0.1:{}", bound.port()),
        None => bound.to_string(),
    }
}

/// Every member by id, this node included.
pub(super) fn members(
    config: &Config,
    own_key: PeerKey,
    client_address: &str,
) -> anyhow::Result<BTreeMap<NodeId, NodeRecord>> {
    let me = NodeId(config.node.id);
    if config.members.is_empty() {
        let record = NodeRecord {
            name: config.node.name.clone(),
            key: own_key,
            p2p: Vec::new(),
            client: client_address.to_owned(),
        };
        return Ok(BTreeMap::from([(me, record)]));
    }
    let mut members = BTreeMap::new();
    for member in &config.members {
        let p2p = member.p2p.iter().map(|text| text.parse::<PeerAddr>()).collect::<Result<Vec<_>, _>>();
        let record = NodeRecord {
            name: member.name.clone(),
            key: member.key.parse().with_context(|| format!("members: the key of node {}", member.id))?,
            p2p: p2p.with_context(|| format!("members: the p2p addresses of node {}", member.id))?,
            client: member.client.clone(),
        };
        members.insert(NodeId(member.id), record);
    }
    let own = members.get(&me).with_context(|| {
        format!("node.id is {me}, but members has no such node; add it with the key `iris identity` prints: {own_key}")
    })?;
    anyhow::ensure!(
        own.key == own_key,
        "members gives node {me} the key {}, but this data folder's key is {own_key}: is node.id or node.data another node's?",
        own.key
    );
    Ok(members)
}

/// The others, as the links want them.
pub(super) fn links(members: &BTreeMap<NodeId, NodeRecord>, me: u64) -> anyhow::Result<Vec<LinkMember>> {
    let others = members.iter().filter(|(id, _)| id.0 != me);
    Ok(others.map(|(_, record)| LinkMember { key: record.key, addrs: record.p2p.clone() }).collect())
}

/// What this node would found the cluster with. Keys and certificates are made anew at every start and thrown away unless
/// this node is the one that founds: cheaper than finding out first.
pub(super) fn state(
    config: &Config,
    members: &BTreeMap<NodeId, NodeRecord>,
    now_unix_ms: u64,
) -> anyhow::Result<MetaState> {
    let cluster = uuid::Uuid::new_v4().to_string();
    let ids: Vec<NodeId> = members.keys().copied().collect();
    Ok(MetaState {
        pki: pki::found(&cluster, &pki::node_names(members), now_unix_ms)?,
        cluster,
        token_keys: vec![token::new_key()?],
        nodes: members.clone(),
        shards: first_layout(&ids, config.shards.count),
        vnodes: first_vnodes(config.shards.count),
        dedup: DedupSettings {
            window_ms: config.store.dedup_window_h * MS_PER_H,
            keys_max: config.store.dedup_keys_max,
        },
        admissions: Admissions::default(),
    })
}
