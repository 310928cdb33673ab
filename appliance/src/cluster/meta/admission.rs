//! Who was let into the cluster, and by which join token (C2): the part of the meta state behind `iris join-token` and
//! `iris up --join`. Pure, without a clock: commands carry the proposer's time. Of a token's secret only the hash is here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use iris_p2p::PeerKey;
use iris_protocol::NodeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{MetaOutcome, NodeRecord};

/// Join tokens remembered at once: many times what anybody has in a pocket, and some 10 KB of state.
pub const TOKENS_MAX: usize = 64;

/// Longest life of a join token: long enough to carry it to a machine, short enough not to be forgotten in a chat.
pub const TOKEN_TTL_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// How long past its expiry a token is remembered, so that a late try hears "used" or "expired" and not "unknown".
const REMEMBERED_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// How far back a leader's clock may stand behind those before it and still be passed over: the longest life of a token, so that
/// none lives more than twice as long as it was meant to.
const CLOCK_BACK_MS_MAX: u64 = TOKEN_TTL_MS_MAX;

/// So long a node that was let in has its name to itself in any case: it may be starting. Machines of one make, set up together,
/// have the same host name, and must be refused rather than push each other out.
const STARTING_MS: u64 = 2 * 60 * 1_000;

/// Members of a cluster: more than a home has, few enough that every node links up with every other.
pub const MEMBERS_MAX: usize = 32;

/// A join token's public half: which one it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// SHA-256 of a token's secret. The secret has 256 random bits, so the hash tells nothing about it, and whoever reads the log
/// or a checkpoint can't join with what stands there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Takes as long whether they differ early, late or not at all.
    fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A token as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    id: TokenId,
    secret: SecretHash,
    expires_ms: u64,
    used: Option<Used>,
}

/// What became of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    node: NodeId,
    key: PeerKey,
    name: String,
    at_ms: u64,
}

/// Who was let in, and who may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admissions {
    /// No id below this is ever given again, whatever became of its node.
    next_node: u64,
    tokens: Vec<JoinToken>,
    /// The latest time of which anything here came.
    latest_ms: u64,
    /// Admitted nodes that were not heard from since: only these may be told their place again. A node that has run may hold
    /// Raft's promises in its data folder; if it asks to join once more, that folder is gone, and it must not come back
    /// under the same id with none of them (design: a disk that lost its data is a new node).
    newcomers: BTreeSet<NodeId>,
}

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// Which.
    pub id: TokenId,
    /// What its bearer proves.
    pub secret: SecretHash,
    /// The proposer's time.
    pub now_ms: u64,
    /// How long it is good for from then on; [`TOKEN_TTL_MS_MAX`] at most.
    pub ttl_ms: u64,
}

/// A node that wants in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// By which token.
    pub token: TokenId,
    /// The hash of the secret it gave.
    pub secret: SecretHash,
    /// Who it is.
    pub record: NodeRecord,
    /// The proposer's time.
    pub now_ms: u64,
}

/// Why a node was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRefusal {
    /// No such token: never issued, or so old that it is forgotten.
    Unknown,
    /// There is one, but its secret is another.
    WrongSecret,
    /// It was used, by another node.
    Used {
        /// By this one.
        node: NodeId,
        /// Its name then.
        name: String,
        /// When, by the proposer's clock.
        at_ms: u64,
    },
    /// It was not used in time.
    Expired {
        /// When it ended.
        at_ms: u64,
    },
    /// The key belongs to a member that has been running already.
    KeyIsMember {
        /// Which one.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// Another member has that name, and has been running or was let in a moment ago.
    NameTaken {
        /// Which one.
        node: NodeId,
        /// The name.
        name: String,
    },
    /// There are [`MEMBERS_MAX`] members.
    Full,
    /// The leader's clock stands more than a day before times it has had: how old the token is can't be said.
    ClockWentBack {
        /// Where it stands.
        now_ms: u64,
        /// Where it, or that of a leader before, has stood.
        latest_ms: u64,
    },
}

/// How a node is let in.
enum Verdict {
    /// It was already, and not heard from since.
    Again(NodeId),
    /// With the token at this place, at this time, instead of this node if there is one.
    Anew { token: usize, now_ms: u64, displaced: Option<NodeId> },
}

impl JoinToken {
    /// Nobody needs it any more: it can't let anyone in, and whoever used it has its place.
    fn is_done(&self, now_ms: u64, newcomers: &BTreeSet<NodeId>) -> bool {
        match &self.used {
            Some(used) => !newcomers.contains(&used.node),
            None => self.expires_ms <= now_ms,
        }
    }
}

impl Admissions {
    /// The founders have their ids from the configuration; nobody else ever gets one of them.
    pub(super) fn begin_after(&mut self, founders: &BTreeMap<NodeId, NodeRecord>) {
        self.next_node = founders.last_key_value().map_or(1, |(last, _)| last.0 + 1);
    }

    /// Remembers a new token. Old ones make room, those first that nobody needs any more.
    pub(super) fn issue(&mut self, new: NewToken) -> MetaOutcome {
        if let Some(known) = self.tokens.iter().find(|token| token.id == new.id) {
            // The proposer did not hear the first answer. Another's secret under the same id would be a broken random source.
            return if known.secret.matches(&new.secret) { MetaOutcome::Changed } else { MetaOutcome::Unchanged };
        }
        let now_ms = self.now(new.now_ms).unwrap_or_else(|| {
            // The operator speaks for the clock as it is. What was made by the other one is over, as it may never end by this one.
            for token in self.tokens.iter_mut().filter(|token| token.used.is_none()) {
                token.expires_ms = token.expires_ms.min(new.now_ms);
            }
            new.now_ms
        });
        self.latest_ms = now_ms;
        let newcomers = &self.newcomers;
        self.tokens.retain(|token| {
            token.expires_ms.saturating_add(REMEMBERED_MS) > now_ms || !token.is_done(now_ms, newcomers)
        });
        if self.tokens.len() >= TOKENS_MAX {
            let done = self.tokens.iter().enumerate().filter(|(_, token)| token.is_done(now_ms, newcomers));
            match done.min_by_key(|(_, token)| token.expires_ms).map(|(at, _)| at) {
                Some(oldest) => drop(self.tokens.remove(oldest)),
                None => {
                    let first_expires_ms = self.tokens.iter().map(|token| token.expires_ms).min().unwrap_or(now_ms);
                    return MetaOutcome::TokensFull { first_expires_ms };
                }
            }
        }
        let expires_ms = now_ms.saturating_add(new.ttl_ms.min(TOKEN_TTL_MS_MAX));
        self.tokens.push(JoinToken { id: new.id, secret: new.secret, expires_ms, used: None });
        MetaOutcome::Changed
    }

    /// The time of a command. Leaders' clocks differ, and a token must not live longer because another one leads: time does not
    /// go back by as much as a token may live. If a clock stands farther back than that, one of the two was wrong, and nobody can
    /// say which: `None`. Then nobody is let in until a new token is made, which sets the time anew and ends all tokens before.
    ///
    /// Forward any jump is believed, as a cluster may be left alone for a year. A clock that is far ahead ends every token at
    /// once, and when the right one comes back, that is one that stands too far back: both cost a new token and let nobody in.
    fn now(&self, stamp_ms: u64) -> Option<u64> {
        (stamp_ms.saturating_add(CLOCK_BACK_MS_MAX) >= self.latest_ms).then_some(stamp_ms.max(self.latest_ms))
    }

    /// Lets a node in, or says why not. The token is used up and the node is a member in one step; what is refused uses up
    /// nothing. The same node with the same token is told the same again, as long as it was not heard from.
    ///
    /// A name whose owner was let in and never came goes to the one that asks now: most likely it is that machine, set up once
    /// more before it ever ran, and it must not be kept out by its own name. Whoever had it is a member no more, and as it was
    /// never heard from it holds nothing and has promised nothing. Its id stays used up.
    pub(super) fn join(&mut self, nodes: &mut BTreeMap<NodeId, NodeRecord>, join: Join) -> MetaOutcome {
        let (token, now_ms, displaced) = match self.judge(nodes, &join) {
            Err(refusal) => return MetaOutcome::JoinRefused(refusal),
            Ok(Verdict::Again(node)) => return MetaOutcome::Joined(node),
            Ok(Verdict::Anew { token, now_ms, displaced }) => (token, now_ms, displaced),
        };
        self.latest_ms = now_ms;
        if let Some(displaced) = displaced {
            self.newcomers.remove(&displaced);
            nodes.remove(&displaced);
        }
        let node = self.give_place();
        let record = join.record;
        if let Some(token) = self.tokens.get_mut(token) {
            token.used = Some(Used { node, key: record.key, name: record.name.clone(), at_ms: now_ms });
        }
        nodes.insert(node, record);
        MetaOutcome::Joined(node)
    }

    /// Why a node would not be let in, if so. For a leader that answers strangers without writing their attempts down.
    #[must_use]
    pub fn refusal(&self, nodes: &BTreeMap<NodeId, NodeRecord>, join: &Join) -> Option<JoinRefusal> {
        self.judge(nodes, join).err()
    }

    fn judge(&self, nodes: &BTreeMap<NodeId, NodeRecord>, join: &Join) -> Result<Verdict, JoinRefusal> {
        let at = self.tokens.iter().position(|token| token.id == join.token).ok_or(JoinRefusal::Unknown)?;
        let token = &self.tokens[at];
        // First of all: who does not know the secret learns nothing about the token.
        if !token.secret.matches(&join.secret) {
            return Err(JoinRefusal::WrongSecret);
        }
        let used =
            token.used.clone().map(|Used { node, name, at_ms, key }| (key, JoinRefusal::Used { node, name, at_ms }));
        if let Some((_, by_another)) = used.clone().filter(|(key, _)| *key != join.record.key) {
            return Err(by_another);
        }
        if let Some((&node, known)) = nodes.iter().find(|(_, known)| known.key == join.record.key) {
            // Its answer was lost, or the token was issued again because it was.
            return match self.newcomers.contains(&node) {
                true => Ok(Verdict::Again(node)),
                false => Err(JoinRefusal::KeyIsMember { node, name: known.name.clone() }),
            };
        }
        if let Some((_, by_one_that_is_gone)) = used {
            return Err(by_one_that_is_gone);
        }
        let latest_ms = self.latest_ms;
        let now_ms = self.now(join.now_ms).ok_or(JoinRefusal::ClockWentBack { now_ms: join.now_ms, latest_ms })?;
        if token.expires_ms <= now_ms {
            return Err(JoinRefusal::Expired { at_ms: token.expires_ms });
        }
        let displaced = nodes.iter().find(|(_, known)| known.name == join.record.name).map(|(node, _)| *node);
        if let Some(node) = displaced.filter(|node| !self.never_came(*node, now_ms)) {
            return Err(JoinRefusal::NameTaken { node, name: join.record.name.clone() });
        }
        if nodes.len() - usize::from(displaced.is_some()) >= MEMBERS_MAX {
            return Err(JoinRefusal::Full);
        }
        Ok(Verdict::Anew { token: at, now_ms, displaced })
    }

    /// Whether a node was let in, some time ago, and was not heard from since.
    fn never_came(&self, node: NodeId, now_ms: u64) -> bool {
        let admitted = self.tokens.iter().filter_map(|token| token.used.as_ref()).find(|used| used.node == node);
        let is_starting = admitted.is_some_and(|used| used.at_ms.saturating_add(STARTING_MS) > now_ms);
        self.newcomers.contains(&node) && !is_starting
    }

    /// Whether a node was let in and not heard from since. It has made no promise yet, and is to hold nothing before it was.
    #[must_use]
    pub fn is_newcomer(&self, node: NodeId) -> bool {
        self.newcomers.contains(&node)
    }

    /// The next id, for a node that was not heard from yet.
    pub(super) fn give_place(&mut self) -> NodeId {
        let node = NodeId(self.next_node);
        self.next_node += 1;
        self.newcomers.insert(node);
        node
    }

    /// Whether an id was ever given to a node, which may be gone since.
    #[must_use]
    pub fn has_given(&self, node: NodeId) -> bool {
        node.0 < self.next_node
    }

    /// The node was heard from; whether that is news.
    pub(super) fn heard_from(&mut self, node: NodeId) -> bool {
        self.newcomers.remove(&node)
    }
}

#[cfg(test)]
mod tests;
