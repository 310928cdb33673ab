//! What a configuration must keep to. All problems at once, each a sentence that names the setting, what it is and what it
//! must be.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;

use iris_p2p::{PeerAddr, PeerKey};

use super::Config;

/// Messages per second at which a bucket still has whole microseconds per message.
const RATE_MAX: u32 = 1_000_000;

/// A day: no deadline of a connection is meant to be longer.
const DEADLINE_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Ten years: beyond it "for ever" is meant, and is longer than any disk lives.
const KEPT_MS_MAX: u64 = 10 * 366 * DEADLINE_MS_MAX;

/// Members a cluster of the static list can have.
const MEMBERS_MAX: usize = 32;

/// Collects problems.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, fine: bool, setting: &str, value: impl Display, must: impl Display) {
        if !fine {
            self.0.push(format!("{setting} is {value}; it must be {must}"));
        }
    }

    fn range<T: PartialOrd + Display>(&mut self, setting: &str, value: T, min: T, max: T) {
        let fine = value >= min && value <= max;
        self.unless(fine, setting, value, format!("from {min} to {max}"));
    }
}

/// Whether a node can be called that: letters, digits, dots and hyphens, as in a host name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Whether a text is `host:port` with a port that can be connected to.
fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_fine = match bare {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ']),
        };
        host_fine && port.parse::<u16>().is_ok_and(|port| port != 0) && text.len() <= 255
    })
}

impl Config {
    /// Everything that is wrong with it, each a sentence; empty if nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Problems::default();
        self.check_node(&mut problems);
        self.check_limits(&mut problems);
        self.check_clocks(&mut problems);
        self.check_members(&mut problems);
        problems.0
    }

    fn check_node(&self, problems: &mut Problems) {
        let node = &self.node;
        problems.unless(node.id > 0, "node.id", node.id, "at least 1");
        problems.unless(
            is_name(&node.name),
            "node.name",
            format!("{:?}", node.name),
            "1 to 63 letters, digits, dots or hyphens, as in a host name",
        );
        problems.unless(!node.data.as_os_str().is_empty(), "node.data", "empty", "a folder");
        problems.unless(
            node.listen.parse::<SocketAddr>().is_ok(),
            "node.listen",
            format!("{:?}", node.listen),
            "an IP address and a port, like 0.0.0.0:8443 or [::]:8443",
        );
        for address in &node.p2p {
            if let Err(error) = address.parse::<PeerAddr>() {
                problems.0.push(format!("node.p2p: {error}"));
            }
        }
        problems.unless(!node.p2p.is_empty(), "node.p2p", "empty", "at least one address, like 0.0.0.0:8444");
        if let Some(advertise) = &node.advertise {
            problems.unless(is_host_port(advertise), "node.advertise", format!("{advertise:?}"), "HOST:PORT");
        }
        problems.unless(!self.log.filter.trim().is_empty(), "log.filter", "empty", "a level like info");
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log.filter);
        problems.unless(
            filter.is_ok(),
            "log.filter",
            format!("{:?}", self.log.filter),
            "a level like info, or levels by module",
        );
    }

    fn check_limits(&self, problems: &mut Problems) {
        let limits = &self.limits;
        problems.range("shards.count", self.shards.count, 1, 256);
        problems.range("limits.messages_per_s", limits.messages_per_s, 1, RATE_MAX);
        problems.range("limits.messages_burst", limits.messages_burst, 1, RATE_MAX);
        problems.range("limits.connections_max", limits.connections_max, 1, 1_000_000);
        let store = &self.store;
        let engines = iris_store::warm::Engine::ALL.map(|engine| format!("{:?}", engine.to_string()));
        let known = store.engine.parse::<iris_store::warm::Engine>().is_ok();
        problems.unless(known, "store.engine", format!("{:?}", store.engine), engines.join(" or "));
        // Smaller than a few full batches and a shard would refuse all the time.
        problems.range("store.hot_bytes_max", store.hot_bytes_max, 4 * 1024 * 1024, 4 * 1024 * 1024 * 1024);
        // Less than a few log files and every short absence would end in a copy of everything.
        problems.range("store.log_bytes_max", store.log_bytes_max, 8 * 1024 * 1024, 1024 * 1024 * 1024 * 1024);
        // A3: at least 7 days.
        problems.range("store.dedup_window_h", store.dedup_window_h, 168, 24 * 366);
        problems.range("store.dedup_keys_max", store.dedup_keys_max, 10_000, 1_000_000_000);
        problems.range("store.retention_ms", store.retention_ms, 0, KEPT_MS_MAX);
        // Under a second a device would be forgotten between its login and its first ack.
        problems.range("store.device_expiry_ms", store.device_expiry_ms, 1_000, KEPT_MS_MAX);
    }

    fn check_clocks(&self, problems: &mut Problems) {
        let edge = &self.edge;
        for (setting, value) in [
            ("edge.handshake_ms", edge.handshake_ms),
            ("edge.login_ms", edge.login_ms),
            ("edge.idle_ms", edge.idle_ms),
            ("edge.write_ms", edge.write_ms),
        ] {
            problems.range(setting, value, 100, DEADLINE_MS_MAX);
        }
        // B7 and what clients were promised.
        problems.range("edge.drain_ms", edge.drain_ms, 0, 30_000);
        problems.range("store.checkpoint_ms", self.store.checkpoint_ms, 10, 3_600_000);
        problems.range("store.scrub_ms", self.store.scrub_ms, 100, 30 * 24 * 3_600 * 1_000);
        let raft = &self.raft;
        problems.range("raft.heartbeat_ms", raft.heartbeat_ms, 10, 10_000);
        problems.unless(
            raft.election_ms_min >= raft.heartbeat_ms.saturating_mul(2),
            "raft.election_ms_min",
            raft.election_ms_min,
            format!("at least twice raft.heartbeat_ms ({})", raft.heartbeat_ms),
        );
        problems.unless(
            raft.election_ms_max > raft.election_ms_min && raft.election_ms_max <= 60_000,
            "raft.election_ms_max",
            raft.election_ms_max,
            format!("more than election_ms_min ({}) and at most 60000", raft.election_ms_min),
        );
    }

    fn check_members(&self, problems: &mut Problems) {
        if self.members.is_empty() {
            return;
        }
        problems.unless(
            self.members.len() <= MEMBERS_MAX,
            "members",
            self.members.len(),
            format!("at most {MEMBERS_MAX}"),
        );
        let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            let at = format!("members: node {}", member.id);
            problems.unless(member.id > 0, "members: id", member.id, "at least 1");
            problems.unless(ids.insert(member.id), &at, "listed twice", "listed once");
            problems.unless(is_name(&member.name), &format!("{at}: name"), format!("{:?}", member.name), "a host name");
            problems.unless(
                is_host_port(&member.client),
                &format!("{at}: client"),
                format!("{:?}", member.client),
                "HOST:PORT",
            );
            problems.unless(!member.p2p.is_empty(), &format!("{at}: p2p"), "empty", "at least one address");
            match member.key.parse::<PeerKey>() {
                Ok(key) => problems.unless(keys.insert(key), &format!("{at}: key"), "another member's too", "its own"),
                Err(error) => problems.0.push(format!("{at}: key: {error}")),
            }
            for address in &member.p2p {
                if let Err(error) = address.parse::<PeerAddr>() {
                    problems.0.push(format!("{at}: p2p: {error}"));
                }
            }
        }
        let known: Vec<String> = ids.iter().map(ToString::to_string).collect();
        problems.unless(
            ids.contains(&self.node.id),
            "node.id",
            self.node.id,
            format!("one of the members ({}), or the list must have this node too", known.join(", ")),
        );
    }
}
