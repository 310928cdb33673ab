//! The meta group's state: who is in the cluster, where shards live, the cluster's certificates and token keys. Changed only
//! by commands from the meta log; small enough to be kept whole in memory and in one checked file per checkpoint.

pub mod admission;
mod replacing;

use std::collections::BTreeMap;
use std::fmt;

use iris_p2p::{PeerAddr, PeerKey};
use iris_protocol::versioned::{DecodeError, Versioned};
use iris_protocol::vnode::vnode_of;
use iris_protocol::{NodeId, ShardId, UserId};
use serde::{Deserialize, Serialize};

use admission::{Admissions, Join, JoinRefusal, NewToken};

/// Text that must not reach a log: its Debug form says nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The cluster's own certificate authority and the one leaf certificate all nodes present (D10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pki {
    /// CA certificate, PEM.
    pub ca_cert_pem: String,
    /// CA key, PKCS#8 PEM.
    pub ca_key_pem: Secret,
    /// When the CA's certificate ends, in Unix milliseconds.
    pub ca_until_ms: u64,
    /// The leaf certificate.
    pub leaf: Leaf,
    /// Leaf key, PKCS#8 PEM. It stays when the certificate is renewed: devices may pin it.
    pub leaf_key_pem: Secret,
}

/// The leaf certificate, with what is needed to tell whether it still fits, without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// PEM.
    pub cert_pem: String,
    /// The names in it.
    pub names: Vec<String>,
    /// When it ends, in Unix milliseconds.
    pub until_ms: u64,
}

/// A key that signs user tokens (B3). Several at once while keys rotate; the last one signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// The JWT header's `kid`.
    pub kid: String,
    /// Ed25519 private key, PKCS#8 PEM.
    pub private_pem: Secret,
    /// Ed25519 public key, SPKI PEM.
    pub public_pem: String,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What people call it.
    pub name: String,
    /// Its key: who it is.
    pub key: PeerKey,
    /// Where peers reach it.
    pub p2p: Vec<PeerAddr>,
    /// Where clients reach it, `host:port`.
    pub client: String,
}

/// One shard's place: where it shall be, and where its Raft group says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Nodes that shall hold it, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Nodes it began on: they alone may give its group a first membership.
    pub founders: Vec<NodeId>,
    /// Its voters, as its leader last reported them.
    pub voters: Vec<NodeId>,
    /// Where that membership stands in the shard's log: an old report does not undo a newer one.
    pub voters_at: u64,
}

impl ShardRecord {
    /// A shard that begins on these nodes.
    #[must_use]
    pub fn founded_on(nodes: Vec<NodeId>) -> Self {
        Self { founders: nodes.clone(), voters: nodes.clone(), replicas: nodes, voters_at: 0 }
    }

    /// Whether a node holds it or shall.
    #[must_use]
    pub fn is_on(&self, node: NodeId) -> bool {
        self.replicas.contains(&node) || self.voters.contains(&node)
    }

    /// Whether it is where it shall be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.replicas.len() == self.voters.len() && self.replicas.iter().all(|node| self.voters.contains(node))
    }
}

/// What every replica must agree on, because applying the log depends on it. Set when the cluster is founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupSettings {
    /// How long a key is remembered, in HLC milliseconds from its first append (A3).
    pub window_ms: u64,
    /// Keys remembered per shard.
    pub keys_max: u64,
}

/// Everything the meta group knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    /// Random, made once; tokens name it as their issuer.
    pub cluster: String,
    /// Certificates.
    pub pki: Pki,
    /// Token keys, newest last.
    pub token_keys: Vec<TokenKey>,
    /// Members.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Shards, by number.
    pub shards: Vec<ShardRecord>,
    /// The shard of each vnode, by number.
    pub vnodes: Vec<ShardId>,
    /// Deduplication.
    pub dedup: DedupSettings,
    /// Join tokens and newcomers.
    pub admissions: Admissions,
}

impl MetaState {
    /// The shard that holds a user's inbox.
    #[must_use]
    pub fn shard_of(&self, user: &UserId) -> ShardId {
        self.vnodes.get(usize::from(vnode_of(user).0)).copied().unwrap_or_default()
    }

    /// Members that may hold something: those that were heard from since they were let in.
    pub fn settled_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied().filter(|node| !self.admissions.is_newcomer(*node))
    }

    /// The shards with their numbers.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardRecord)> {
        self.shards.iter().enumerate().map(|(at, record)| (ShardId(at as u16), record))
    }
}

/// What the meta group has: nothing until it is founded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The state, once founded.
    pub state: Option<MetaState>,
    /// Nodes that were given a place in another's stead and were not heard from since: whose (C12).
    pub replacing: BTreeMap<NodeId, NodeId>,
}

impl Versioned for Meta {
    const NAME: &'static str = "meta state";
    const VERSION: u8 = 4;

    /// Version 3 knew of no node that takes another's place.
    fn decode_previous(version: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        if version != 3 {
            return Err(DecodeError::Version { name: Self::NAME, found: version, known: Self::VERSION });
        }
        let malformed = |why: String| DecodeError::Malformed { name: Self::NAME, why };
        let (state, rest) = postcard::take_from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes left over", rest.len())));
        }
        Ok(Self { state, replacing: BTreeMap::new() })
    }
}

/// One change to the meta state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MetaCommand {
    /// The cluster begins. The first one counts; a later one (two leaders may both try) changes nothing.
    Found(Box<MetaState>),
    /// A member's name or addresses as its own configuration has them now.
    Describe(NodeId, NodeRecord),
    /// A join token was made.
    IssueToken(NewToken),
    /// A node asks to be let in.
    Join(Join),
    /// The leaf certificate was made anew, with the same key.
    Leaf(Leaf),
    /// A shard shall be on these nodes, if it was to be on those `before`: a step of the controller that another one
    /// overtook changes nothing.
    Place {
        /// Which.
        shard: ShardId,
        /// Where it was to be.
        before: Vec<NodeId>,
        /// Where it shall be, the preferred leader first.
        replicas: Vec<NodeId>,
    },
    /// A shard's leader reports the voters of its group.
    Placed {
        /// Which.
        shard: ShardId,
        /// Its voters.
        voters: Vec<NodeId>,
        /// Index of that membership in the shard's log.
        at: u64,
    },
    /// A member whose disk is damaged wants to come back as a new node (C12).
    Replace {
        /// The member.
        old: NodeId,
        /// The new node: another key, and where it will be reached. Its name is the old one's.
        record: NodeRecord,
    },
}

impl Versioned for MetaCommand {
    const NAME: &'static str = "meta command";
    const VERSION: u8 = 3;
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaOutcome {
    /// Nothing is different.
    Unchanged,
    /// Done, or it was already so.
    Changed,
    /// The node is a member under this id.
    Joined(NodeId),
    /// The node is not let in.
    JoinRefused(JoinRefusal),
    /// There are too many join tokens that may still be used.
    TokensFull {
        /// When the first of them ends.
        first_expires_ms: u64,
    },
}

impl MetaOutcome {
    /// Whether the state may be another than before.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        matches!(self, Self::Changed | Self::Joined(_))
    }

    fn changed_if(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

impl Meta {
    /// Applies a command. Deterministic.
    pub fn apply(&mut self, command: MetaCommand) -> MetaOutcome {
        let Some(state) = &mut self.state else {
            let MetaCommand::Found(mut state) = command else { return MetaOutcome::Unchanged };
            state.admissions.begin_after(&state.nodes);
            self.state = Some(*state);
            return MetaOutcome::Changed;
        };
        match command {
            MetaCommand::Found(_) => MetaOutcome::Unchanged,
            MetaCommand::Describe(node, record) => {
                let replaced = state.retire(&mut self.replacing, node);
                MetaOutcome::changed_if(state.describe(node, record) || replaced)
            }
            MetaCommand::IssueToken(new) => state.admissions.issue(new),
            MetaCommand::Join(join) => state.admissions.join(&mut state.nodes, join),
            MetaCommand::Leaf(leaf) => {
                let is_new = state.pki.leaf != leaf;
                state.pki.leaf = leaf;
                MetaOutcome::changed_if(is_new)
            }
            MetaCommand::Place { shard, before, replicas } => state.place(shard, &before, replicas),
            MetaCommand::Placed { shard, voters, at } => state.placed(shard, voters, at),
            MetaCommand::Replace { old, record } => state.replace(&mut self.replacing, old, record),
        }
    }
}

impl MetaState {
    fn place(&mut self, shard: ShardId, before: &[NodeId], replicas: Vec<NodeId>) -> MetaOutcome {
        // One that was there stays until its turn comes, be it a member or not.
        let known = replicas.iter().all(|node| before.contains(node) || self.nodes.contains_key(node));
        match self.shards.get_mut(usize::from(shard.0)) {
            Some(record) if record.replicas == before && known && !replicas.is_empty() => {
                record.replicas = replicas;
                MetaOutcome::Changed
            }
            _ => MetaOutcome::Unchanged,
        }
    }

    fn placed(&mut self, shard: ShardId, voters: Vec<NodeId>, at: u64) -> MetaOutcome {
        match self.shards.get_mut(usize::from(shard.0)) {
            Some(record) if at > record.voters_at && !voters.is_empty() => {
                (record.voters, record.voters_at) = (voters, at);
                MetaOutcome::Changed
            }
            _ => MetaOutcome::Unchanged,
        }
    }

    /// A node describes itself; its key is who it is and never changes. A name that another member has is not taken over:
    /// people could not tell the two apart.
    fn describe(&mut self, node: NodeId, mut record: NodeRecord) -> bool {
        let name_taken = self.nodes.iter().any(|(id, other)| *id != node && other.name == record.name);
        let Some(known) = self.nodes.get_mut(&node).filter(|known| known.key == record.key) else { return false };
        if name_taken {
            record.name.clone_from(&known.name);
        }
        let is_news = *known != record;
        *known = record;
        self.admissions.heard_from(node) || is_news
    }
}
