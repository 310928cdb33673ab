//! What the admin API says, as JSON types (D2): a node serves it over HTTP on the unix socket `iris.sock` in its data folder;
//! console, desktop and CLI are equal clients of it. Paths are named here so that both sides agree on them.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, NodeId, ShardId, UserId};

/// `GET`: [`StatusReport`].
pub const STATUS_PATH: &str = "/v1/status";
/// `POST` [`UserTokenRequest`]: [`UserToken`].
pub const USER_TOKEN_PATH: &str = "/v1/tokens/user";
/// `POST` [`JoinTokenRequest`]: [`IssuedJoinToken`].
pub const JOIN_TOKEN_PATH: &str = "/v1/tokens/join";
/// `GET`: [`ConnectInfo`].
pub const CONNECT_PATH: &str = "/v1/connect";
/// The socket's name in the data folder.
pub const SOCKET_NAME: &str = "iris.sock";

/// Bytes of a request or an answer, either way: a status of 8 shards has some 4 KB.
pub const ADMIN_BODY_LEN_MAX: usize = 1024 * 1024;

/// What `iris status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReport {
    /// Software version of the node that answers.
    pub version: String,
    /// The node that answers.
    pub node: NodeId,
    /// Its process id.
    pub pid: u32,
    /// The cluster's id.
    pub cluster: String,
    /// SHA-256 of the CA's certificate, lowercase hex.
    pub ca_sha256: String,
    /// Where clients connect on this node.
    pub listen: String,
    /// Where peers connect on this node.
    pub p2p: Vec<String>,
    /// Plain words: safe, at risk, stopped (D5).
    pub health: Health,
    /// Every member.
    pub nodes: Vec<NodeStatus>,
    /// Every group, meta first.
    pub groups: Vec<GroupStatus>,
    /// The network between the members.
    #[serde(default)]
    pub network: NetworkStatus,
    /// Counters of the node that answers.
    pub counters: Counters,
    /// Its disk; none from a node that does not look at it.
    #[serde(default)]
    pub disk: Option<DiskStatus>,
}

/// The disk of the node that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes that are to stay free: below it no new messages are taken.
    pub reserve_bytes: u64,
    /// No new messages are taken, for want of room.
    pub full: bool,
    /// Durable writes have taken too long for a while: the node leads nothing that another can lead.
    pub slow: bool,
    /// Microseconds that durable writes of the log took lately.
    pub write_us: u64,
}

/// The one sentence about how things stand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// How things stand.
    pub level: HealthLevel,
    /// Why, and what to do next.
    pub sentence: String,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthLevel {
    /// Everything is where it should be.
    Safe,
    /// Everything works; one more failure would change that.
    AtRisk,
    /// Some messages can't be committed now.
    Stopped,
}

/// One member as the answering node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where clients connect.
    pub client: String,
    /// Whether the answering node has a live link to it (true for itself).
    pub up: bool,
    /// Whether it was let in and has not been heard from yet.
    #[serde(default)]
    pub newcomer: bool,
    /// Shards it leads, as far as the answering node knows.
    pub leads: u32,
}

/// The network between the members, as the answering node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// Pairs of members that can't reach each other although both are up (C7).
    pub cuts: Vec<NetworkCut>,
    /// The answering node's calls to every other member.
    pub links: Vec<LinkStatus>,
}

/// Two members that can't reach each other although both are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCut {
    /// The lower id.
    pub one: NodeId,
    /// The higher one.
    pub other: NodeId,
}

/// How calls to one member fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The member.
    pub node: NodeId,
    /// Its circuit breaker (C8).
    pub breaker: BreakerState,
    /// Calls that failed in a row.
    pub failures: u64,
    /// How often the breaker opened.
    pub opened: u64,
}

/// What a circuit breaker is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls fail at once.
    Open,
    /// One call tries.
    HalfOpen,
}

/// One Raft group as the answering node sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The shard; none for the meta group.
    pub shard: Option<ShardId>,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Last log index here.
    pub last_index: u64,
    /// Last index applied here.
    pub applied_index: u64,
    /// Index a restart begins after.
    pub checkpoint_index: u64,
    /// Voters.
    pub voters: Vec<NodeId>,
}

/// What the answering node has counted since it started (D8's names). One that an older node does not count reads as 0.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Messages taken from clients.
    pub msg_in: u64,
    /// Entries sent to clients.
    pub msg_out: u64,
    /// `committed` acks sent.
    pub ack_sent: u64,
    /// Sends answered from the dedup index.
    pub dedup_hit: u64,
    /// Keys dropped from the dedup index before their time, because its bound was reached (must be 0 in health).
    pub dedup_dropped_early: u64,
    /// Keys in the dedup index of the shards held here, those on disk included.
    pub dedup_keys: u64,
    /// Bytes of memory the dedup index takes.
    pub dedup_memory_bytes: u64,
    /// Devices known to the shards held here.
    pub devices: u64,
    /// Devices forgotten because they were not seen for long.
    pub devices_expired: u64,
    /// Entries trimmed because every device had them and they were old enough.
    pub entries_trimmed: u64,
    /// Sends refused.
    pub refused: u64,
    /// Logins refused.
    pub auth_failed: u64,
    /// Broken frames.
    pub bad_frames: u64,
    /// Client sessions now.
    pub sessions: u64,
    /// Durable writes of the log.
    pub fsyncs: u64,
    /// Log entries written.
    pub log_entries: u64,
    /// Raft entries proposed by leaders here.
    pub batches: u64,
    /// Messages in them.
    pub batched_messages: u64,
    /// Times the network between members was found cut.
    pub partitions: u64,
    /// Times a supervised task was restarted.
    pub task_restarts: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// CPU time used by the process, microseconds.
    pub cpu_us: u64,
}

/// Asks for a user's token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserTokenRequest {
    /// Whose.
    pub user: UserId,
    /// Bound to this device, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Seconds it lives, 24 hours at most.
    pub ttl_s: u64,
}

/// A user's token.
#[derive(Clone, Serialize, Deserialize)]
pub struct UserToken {
    /// The JWT.
    pub token: String,
}

/// What to make a join token of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    /// How long it is good for, in seconds; a day at most.
    pub ttl_s: u64,
}

/// A join token: it lets one new node into the cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuedJoinToken {
    /// The token itself: a secret.
    pub token: String,
    /// When it ends, in Unix milliseconds.
    pub expires_unix_ms: u64,
    /// Where the new node will ask to be let in, `host:port`.
    pub addresses: Vec<String>,
}

impl std::fmt::Debug for IssuedJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedJoinToken").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UserToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserToken(..)")
    }
}

/// What a client needs besides a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectInfo {
    /// `host:port` of every node, the answering one first.
    pub addresses: Vec<String>,
    /// The cluster's CA certificate, PEM.
    pub ca_pem: String,
}

/// A refusal: any status but 200.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdminError {
    /// What was wrong and what to do.
    pub error: String,
}
