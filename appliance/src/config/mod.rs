//! How a node is configured (D1): the settings, their defaults and the reasons for them. Nothing has to be configured: every
//! setting has a default and `iris up` on a bare machine is a cluster of one. Reading is `load`'s, judging is `check`'s; the
//! commented example comes from the words below.

mod check;
mod example;
mod load;
mod table;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use check::is_name;
pub use load::{ConfigError, Overrides};
use table::section;

/// The node's key, in the data folder: who this node is to its fellow members.
const IDENTITY_FILE: &str = "identity.key";

/// Everything an operator may choose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The members a cluster is founded with, this node included: the same list everywhere. Default: none, a cluster of this node
    /// alone, or one it joins by token.
    pub members: Vec<MemberConfig>,
    /// This node.
    pub node: NodeConfig,
    /// The cluster's shards.
    pub shards: ShardsConfig,
    /// What clients may ask of this node.
    pub limits: LimitsConfig,
    /// How long the client port waits for what.
    pub edge: EdgeConfig,
    /// Raft's clocks.
    pub raft: RaftConfig,
    /// What shards keep, and for how long.
    pub store: StoreConfig,
    /// What the node says about itself.
    pub log: LogConfig,
}

/// One member, as every node's file lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its number.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Its key, as `iris identity` prints it there.
    pub key: String,
    /// Where members reach it, `host:port` or a multiaddr, one or more.
    pub p2p: Vec<String>,
    /// Where clients reach it, `host:port`.
    pub client: String,
}

section! {
    /// This node.
    NodeConfig {
        /// This node's number in the list of members; never reused for another disk. A node that joins by token is given one.
        id: u64 = 1;
        /// What people call it. Default: the machine's host name, else "iris".
        name: String = default_name();
        /// The data folder. Default: $XDG_DATA_HOME/iris, else ~/.local/share/iris, else (a service has no home)
        /// /var/lib/iris.
        data: PathBuf = default_data();
        /// IP address and port for clients; 0.0.0.0 is every interface, as a relay's clients are on other machines.
        listen: String = "0.0.0.0:8443".to_owned();
        /// Where to listen for members: IP:PORT, or for QUIC /ip4/0.0.0.0/udp/8444/quic-v1.
        p2p: Vec<String> = vec!["0.0.0.0:8444".to_owned()];
        /// Whether to look for members, and be found by them, by multicast on the local network. Finding a node there lets it
        /// in nowhere. Without effect while every address in `p2p` is a loopback one.
        mdns: bool = true;
        /// HOST:PORT that clients and new machines are told. Default: `listen`, with the address of the first interface in place of
        /// 0.0.0.0: set it when that is not where others reach this machine, or to give them a name.
        #[serde(skip_serializing_if = "Option::is_none")]
        advertise: Option<String> = None;
    }
}

section! {
    /// The cluster's shards.
    ShardsConfig {
        /// Raft groups the users are spread over; fixed when the cluster is founded, the same on every member. 8 spread
        /// leadership over a home's nodes and cost an idle node few heartbeats.
        count: u16 = 8;
    }
}

section! {
    /// What clients may ask of this node.
    LimitsConfig {
        /// Messages per second one user may send through this node: more than people type, less than a runaway loop.
        messages_per_s: u32 = 100;
        /// Messages one user may send at once before that rate counts: two seconds' worth, for a phone that comes back.
        messages_burst: u32 = 200;
        /// Client connections at once; each is an open file, and a process may usually open 20,000.
        connections_max: usize = 18_000;
    }
}

section! {
    /// How long the client port waits for what, in milliseconds.
    EdgeConfig {
        /// Milliseconds from the TCP connection to the end of the TLS handshake: time for slow phones, not for attackers.
        handshake_ms: u64 = 10_000;
        /// Milliseconds from there to a login.
        login_ms: u64 = 10_000;
        /// Milliseconds without a sign of life after which a session ends. Clients ping sooner than home routers forget.
        idle_ms: u64 = 300_000;
        /// Milliseconds a client may refuse to take bytes that wait for it: a tunnel, not an evening.
        write_ms: u64 = 30_000;
        /// Milliseconds sessions have to leave when the node stops; 30000 at most.
        drain_ms: u64 = 30_000;
    }
}

section! {
    /// Raft's clocks, in milliseconds.
    RaftConfig {
        /// Milliseconds between a leader's heartbeats: far more than a home network's round trip.
        heartbeat_ms: u64 = 100;
        /// Shortest silence, in milliseconds, after which a follower stands for election: two beats may get lost.
        election_ms_min: u64 = 300;
        /// Longest, in milliseconds: twice the shortest, so that followers rarely stand at the same moment.
        election_ms_max: u64 = 600;
    }
}

section! {
    /// What shards keep, and for how long.
    StoreConfig {
        /// Where checkpoints go: "sqlite", or "sled", which is pure Rust but slower, takes several hundred MB of memory, deletes
        /// slowly and gives no disk space back. A data folder keeps the engine it was made with; nodes may differ.
        engine: String = iris_store::warm::Engine::Sqlite.to_string();
        /// Milliseconds between checkpoints: a restart replays at most that much of the log.
        checkpoint_ms: u64 = 5_000;
        /// Milliseconds between two readings of all that is on this disk, to find damage before it matters: once a day.
        scrub_ms: u64 = 24 * 3_600 * 1_000;
        /// Bytes of entries not yet checkpointed, per shard; at the bound its leader refuses new ones for the moment. 16 MiB
        /// in each of 8 shards leave most of a node's 512 MiB for the rest.
        hot_bytes_max: u64 = 16 * 1024 * 1024;
        /// Bytes of log kept for members that were away for a while: they get what they lack from it, and a copy of everything
        /// if they were away for longer. Its folder may have up to four times as much while old files are being emptied.
        log_bytes_max: u64 = 256 * 1024 * 1024;
        /// Bytes of the disk that are to stay free. Below it a node takes no new messages, for which clients try again, and leads
        /// nothing that another node can lead; reads go on. It is room for votes, checkpoints and whatever makes room. 0: none.
        reserve_bytes: u64 = 256 * 1024 * 1024;
        /// Hours a message's key is remembered, so that a repeated send is told from a new one: 8 days, one more than a
        /// client's outbox may hold a message. Fixed when the cluster is founded, the same on every member.
        dedup_window_h: u64 = 192;
        /// Keys remembered per shard, nearly all of them on disk, some 70 bytes each; the oldest go first. Fixed when the
        /// cluster is founded, the same on every member.
        dedup_keys_max: u64 = 10_000_000;
        /// Milliseconds an entry is kept after it was sent, once every device of its user has received it: 7 days, for a
        /// device that lost what it had. 0 keeps nothing that everybody has.
        retention_ms: u64 = 604_800_000;
        /// Milliseconds after which a device that was not seen no longer holds entries back: 30 days, longer than a holiday.
        /// With less than two days, a device that is connected but receives nothing may be forgotten, too.
        device_expiry_ms: u64 = 2_592_000_000;
    }
}

section! {
    /// What the node says about itself.
    LogConfig {
        /// Which events go to stderr: error, warn, info, debug, trace, or target=level,...
        filter: String = "info,openraft=error,raft_engine=warn,libp2p_swarm=warn,libp2p_mdns=off".to_owned();
        /// One JSON object per line instead of text.
        json: bool = false;
    }
}

impl Config {
    /// The whole configuration as it holds now, as TOML.
    ///
    /// # Errors
    /// A data folder whose name is not UTF-8.
    pub fn show(&self) -> anyhow::Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// Whether the data folder is the one every command uses when none is named.
    #[must_use]
    pub fn is_default_data(&self) -> bool {
        self.node.data == default_data()
    }
}

/// Where a node keeps its data if nobody says otherwise.
#[must_use]
pub fn default_data() -> PathBuf {
    // The XDG specification: a relative path in the variable counts as none.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .map(|data| data.join("iris"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/iris")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/iris"))
}

/// The file of a node's key in its data folder.
#[must_use]
pub fn identity_path(data: &Path) -> PathBuf {
    data.join(IDENTITY_FILE)
}

/// The host name, if a node can be called that: some machines have an empty one, or one with underscores.
fn default_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if check::is_name(&host) { host } else { "iris".to_owned() }
}

#[cfg(test)]
mod tests;
