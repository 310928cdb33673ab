//! From configuration to members: the static list, or this node alone; and the state a cluster is founded with.

use std::collections::BTreeMap;

use anyhow::Context;
use iris_p2p::PeerAddr;
use iris_protocol::NodeId;

use crate::auth::{pki, token};
use crate::cluster::meta::admission::Admissions;
use crate::cluster::meta::{DedupSettings, MetaState, NodeRecord};
use crate::cluster::placement::{first_layout, first_vnodes};
use crate::config::{Config, MemberConfig};

const MS_PER_H: u64 = 3_600_000;

/// A member as the configuration lists it.
///
/// # Errors
/// Its key or an address can't be read.
pub(super) fn record(member: &MemberConfig) -> anyhow::Result<NodeRecord> {
    let p2p = member.p2p.iter().map(|text| text.parse::<PeerAddr>()).collect::<Result<Vec<_>, _>>();
    Ok(NodeRecord {
        name: member.name.clone(),
        key: member.key.parse().with_context(|| format!("members: the key of node {}", member.id))?,
        p2p: p2p.with_context(|| format!("members: the p2p addresses of node {}", member.id))?,
        client: member.client.clone(),
    })
}

/// Every member that the configuration knows by id, this node included; `own` is this node where nothing is listed.
pub(super) fn members(config: &Config, me: NodeId, own: NodeRecord) -> anyhow::Result<BTreeMap<NodeId, NodeRecord>> {
    if config.members.is_empty() {
        return Ok(BTreeMap::from([(me, own)]));
    }
    let members = config.members.iter().map(|member| Ok((NodeId(member.id), record(member)?)));
    let members = members.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let own_key = own.key;
    anyhow::ensure!(
        me.0 == config.node.id,
        "node.id is {}, but this data folder is node {me}'s: is node.data another node's?",
        config.node.id
    );
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

/// What this node would found the cluster with.
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
