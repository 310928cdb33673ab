//! What this node answers on its admin socket.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use iris_p2p::Links;
use iris_protocol::admin::{
    ConnectInfo, Counters, IssuedJoinToken, JoinTokenRequest, StatusReport, UserToken, UserTokenRequest,
};
use iris_store::RaftLog;

use super::addresses::Addresses;
use crate::admin::AdminSource;
use crate::admin::health::{self, Facts};
use crate::admission::offer;
use crate::auth::{pki, token};
use crate::cluster::Member;
use crate::disk::Disk;
use crate::edge::EdgeCounters;
use crate::supervise::Supervisor;
use crate::surroundings::Clock;

/// The node, as its operator sees it.
pub(super) struct NodeAdmin {
    pub(super) member: Arc<Member>,
    pub(super) log: RaftLog,
    pub(super) disk: Disk,
    pub(super) edge: Arc<EdgeCounters>,
    pub(super) supervisor: Supervisor,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) own: Addresses,
    pub(super) links: Links,
}

impl AdminSource for NodeAdmin {
    fn status(&self) -> BoxFuture<'_, StatusReport> {
        Box::pin(async move {
            let state = self.member.meta_view.borrow().clone();
            let (nodes, groups) = (self.member.node_statuses(), self.member.group_statuses());
            let (network, partitions) = self.member.network_status();
            let (node, disk) = (self.member.node, self.disk.state().status());
            let facts = Facts { node, nodes: &nodes, groups: &groups, cuts: &network.cuts, disk: Some(disk) };
            let mut health = health::assess(&facts);
            let quarantined = nodes.iter().filter(|node| self.member.quarantined.what(node.id).is_some());
            health::add_quarantined(&mut health, quarantined);
            StatusReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node: self.member.node,
                pid: std::process::id(),
                cluster: state.as_ref().map(|state| state.cluster.clone()).unwrap_or_default(),
                ca_sha256: state.as_ref().and_then(|state| pki::ca_sha256(&state.pki).ok()).unwrap_or_default(),
                listen: self.own.record().client,
                p2p: self.links.listen_addrs().iter().map(ToString::to_string).collect(),
                health,
                nodes,
                groups,
                network,
                counters: Counters { partitions, ..self.counters() },
                disk: Some(disk),
            }
        })
    }

    fn user_token(&self, request: UserTokenRequest) -> BoxFuture<'_, Result<UserToken, String>> {
        Box::pin(async move {
            let state = self.member.meta_view.borrow().clone().ok_or("the cluster is not founded yet")?;
            let issued = token::issue(&state, request.user, request.device, request.ttl_s, self.clock.unix_ms());
            issued.map(|token| UserToken { token }).map_err(|error| format!("{error:#}"))
        })
    }

    fn join_token(&self, request: JoinTokenRequest) -> BoxFuture<'_, Result<IssuedJoinToken, String>> {
        Box::pin(async move {
            let state = self.member.meta_view.borrow().clone().ok_or("the cluster is not founded yet")?;
            let others = state.nodes.iter().filter(|(id, _)| **id != self.member.node);
            let others = others.map(|(_, record)| record.client.clone()).collect();
            let own = self.own.clients();
            offer::issue(&self.member.proposals, &state, own, others, request, self.clock.unix_ms()).await
        })
    }

    fn connect_info(&self) -> BoxFuture<'_, Result<ConnectInfo, String>> {
        Box::pin(async move {
            let state = self.member.meta_view.borrow().clone().ok_or("the cluster is not founded yet")?;
            let others = state.nodes.iter().filter(|(id, _)| **id != self.member.node);
            let mut addresses = vec![self.own.record().client];
            addresses.extend(others.map(|(_, record)| record.client.clone()));
            Ok(ConnectInfo { addresses, ca_pem: state.pki.ca_cert_pem.clone() })
        })
    }
}

impl NodeAdmin {
    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.edge.fill(&mut counters);
        let log = self.log.stats();
        counters.fsyncs = log.fsyncs;
        counters.log_entries = log.entries;
        counters.batches = self.member.batches.batches.load(Ordering::Relaxed);
        counters.batched_messages = self.member.batches.items.load(Ordering::Relaxed);
        for group in self.member.shards.in_order() {
            let stats = group.store.stats();
            counters.dedup_dropped_early += stats.dedup_dropped_early;
            counters.dedup_keys += stats.dedup_keys as u64;
            counters.dedup_memory_bytes += stats.dedup_bytes_in_memory as u64;
            counters.devices += stats.cursors as u64;
            counters.devices_expired += stats.devices_expired;
            counters.entries_trimmed += stats.entries_trimmed;
        }
        counters.task_restarts = self.supervisor.restarts();
        (counters.rss_bytes, counters.cpu_us) = crate::system::process_usage();
        counters
    }
}
