//! Changes of the meta state that any member may ask for: handed to the meta group's leader, whoever that is, again and again
//! over leader changes until one answers. Every change here may be asked for twice, because a lost answer does not say
//! whether it was carried out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::versioned::{self, Versioned};
use iris_protocol::{NodeId, ShardId};
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::ReadPolicy;
use openraft::storage::RaftStateMachine;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::handler::META_GROUP;
use super::member::MetaRaft;
use super::meta::admission::{Join, JoinRefusal, NewToken, SecretHash, TokenId};
use super::meta::{MetaCommand, MetaOutcome, NodeRecord};
use super::meta_machine::{HasMetaState, MetaView};
use super::neighbours::Members;
use super::raft_types::{Applied, Command, TypeConfig};
use super::refused::Refused;
use super::rpc::{Method, RpcClients};
use super::transport::Channel;
use crate::surroundings::Clock;

/// Longest one attempt may take; a commit takes milliseconds.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);

/// For a leader to make sure that it still is one: a round trip. Without a majority it is better spent on the attempt itself.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// Between attempts.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// What a member may ask the meta group's leader for. The leader adds its clock's time where one is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCall {
    /// This is how I can be reached. About the caller, and nobody else.
    Describe(NodeRecord),
    /// Remember a join token.
    IssueToken {
        /// Which.
        id: TokenId,
        /// Its secret's hash.
        secret: SecretHash,
        /// How long it is good for.
        ttl_ms: u64,
    },
    /// Let a node in that gave this token at the caller's door.
    Join {
        /// Which token.
        token: TokenId,
        /// The hash of the secret it gave.
        secret: SecretHash,
        /// Who it is.
        record: NodeRecord,
    },
    /// These are the voters of a shard that I lead.
    Placed {
        /// Which.
        shard: ShardId,
        /// Its voters.
        voters: Vec<NodeId>,
        /// Index of that membership in the shard's log.
        at: u64,
    },
    /// My disk is damaged: let me come back as this node. About the caller, and nobody else.
    Replace(NodeRecord),
}

impl Versioned for MetaCall {
    const NAME: &'static str = "meta call";
    const VERSION: u8 = 1;
}

impl MetaCall {
    /// The command for it, as of the time the proposer gives.
    pub(crate) fn command(self, from: NodeId, now_ms: u64) -> MetaCommand {
        match self {
            Self::Describe(record) => MetaCommand::Describe(from, record),
            Self::IssueToken { id, secret, ttl_ms } => MetaCommand::IssueToken(NewToken { id, secret, now_ms, ttl_ms }),
            Self::Join { token, secret, record } => MetaCommand::Join(Join { token, secret, record, now_ms }),
            Self::Placed { shard, voters, at } => MetaCommand::Placed { shard, voters, at },
            Self::Replace(record) => MetaCommand::Replace { old: from, record },
        }
    }
}

/// What a member answers to a [`MetaCall`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MetaReply(pub(super) Result<MetaOutcome, Refused>);

impl Versioned for MetaReply {
    const NAME: &'static str = "meta reply";
    const VERSION: u8 = 1;
}

/// Proposes on this node, without asking anybody else.
async fn propose<SM: RaftStateMachine<TypeConfig>>(
    meta: &Raft<TypeConfig, SM>,
    command: &MetaCommand,
) -> Result<MetaOutcome, Refused> {
    let written = meta.client_write(Command(versioned::encode(command).into()));
    let written = tokio::time::timeout(ATTEMPT_DEADLINE, written).await;
    match written.map_err(|_| Refused::Failed("not committed in time".to_owned()))? {
        Ok(response) => match response.data {
            Applied::Meta(outcome) => Ok(outcome),
            other => Err(Refused::Failed(format!("a meta command was applied as {other:?}"))),
        },
        Err(openraft::error::RaftError::APIError(error)) => Err(Refused::from_write(&error)),
        Err(fatal) => Err(Refused::Failed(fatal.to_string())),
    }
}

/// Carries a call out here, if this node leads.
async fn carry_out<SM: RaftStateMachine<TypeConfig> + HasMetaState>(
    meta: &Raft<TypeConfig, SM>,
    command: MetaCommand,
) -> Result<MetaOutcome, Refused> {
    if let MetaCommand::Join(join) = &command
        && let Some(refusal) = refused_by(meta, join).await
    {
        return Ok(MetaOutcome::JoinRefused(refusal));
    }
    propose(meta, &command).await
}

/// Why a join is refused, as far as this node may say so by what it has applied. Everybody who can reach the client port can ask
/// to join, and what strangers try must not fill a log that every member keeps and syncs. Only an admission goes there.
///
/// The read is linearizable: a majority confirms that this node leads, and what was committed before is applied. So a token that
/// was just made is never unknown, not even to a new leader, and an old one that was cut off answers nothing. `None`: it would
/// be let in, or this node can't tell; the proposal finds out.
async fn refused_by<SM: RaftStateMachine<TypeConfig> + HasMetaState>(
    meta: &Raft<TypeConfig, SM>,
    join: &Join,
) -> Option<JoinRefusal> {
    if !meta.is_leader() {
        return None;
    }
    let join = join.clone();
    let read = async {
        meta.ensure_linearizable(ReadPolicy::ReadIndex).await.ok()?;
        let judged = meta.with_state_machine(move |machine| {
            let refusal = machine.state().and_then(|state| state.admissions.refusal(&state.nodes, &join));
            Box::pin(std::future::ready(refusal))
        });
        judged.await.ok()?
    };
    tokio::time::timeout(READ_DEADLINE, read).await.ok()?
}

/// Answers another member's call: proposes here, or says who leads.
///
/// # Errors
/// The call can't be read.
pub(super) async fn answer<SM: RaftStateMachine<TypeConfig> + HasMetaState>(
    meta: &Raft<TypeConfig, SM>,
    clock: &dyn Clock,
    from: NodeId,
    payload: &[u8],
) -> Result<Bytes, String> {
    let call: MetaCall = versioned::decode(payload).map_err(|error| error.to_string())?;
    let reply = MetaReply(carry_out(meta, call.command(from, clock.unix_ms())).await);
    Ok(versioned::encode(&reply).into())
}

/// Nobody carried a change out in time; it may still be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cluster could not decide in time ({0}): is a majority of its nodes up?")]
pub struct Undecided(String);

/// One member's way to the meta group's leader.
pub struct Proposals {
    /// This node.
    pub node: NodeId,
    /// Its replica of the meta group.
    pub meta: MetaRaft,
    /// The members.
    pub view: MetaView,
    /// The members to ask.
    pub roster: watch::Receiver<Members>,
    /// Calls to them.
    pub clients: Arc<RpcClients>,
    /// The time for what is proposed here.
    pub clock: Arc<dyn Clock>,
}

impl Proposals {
    /// Has a change carried out: asks whoever is thought to lead, else every member in turn.
    ///
    /// # Errors
    /// Nobody answered within `deadline`; the change may have been carried out all the same.
    pub async fn ask(&self, call: MetaCall, deadline: Duration) -> Result<MetaOutcome, Undecided> {
        let give_up = Instant::now() + deadline;
        let (mut hint, mut turn) = (None, 0);
        loop {
            let target = hint.take().or_else(|| self.known_leader()).unwrap_or_else(|| self.member(turn));
            turn += 1;
            let why = match tokio::time::timeout_at(give_up, self.attempt(target, call.clone())).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(refused)) => {
                    hint = match refused {
                        Refused::NotLeader { leader } => leader.filter(|leader| *leader != target),
                        _ => None,
                    };
                    refused.to_string()
                }
                Err(_) => format!("node {target} did not answer"),
            };
            tracing::debug!(%target, why, "a change of the meta state was not carried out yet");
            if Instant::now() + TRY_AGAIN >= give_up {
                return Err(Undecided(why));
            }
            if hint.is_none() {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }

    async fn attempt(&self, target: NodeId, call: MetaCall) -> Result<MetaOutcome, Refused> {
        if target == self.node {
            return carry_out(&self.meta, call.command(self.node, self.clock.unix_ms())).await;
        }
        let failed = |error: &dyn std::fmt::Display| Refused::Failed(error.to_string());
        let client = self.clients.get(target, Channel::Edge).map_err(|error| failed(&error))?;
        let payload = versioned::encode(&call).into();
        let reply = client.call(Method::MetaCall, META_GROUP, payload, ATTEMPT_DEADLINE).await;
        let MetaReply(reply) =
            versioned::decode(&reply.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        reply
    }

    fn known_leader(&self) -> Option<NodeId> {
        self.meta.metrics().borrow_watched().current_leader
    }

    /// The members one after the other, this node included: it may become the leader itself.
    fn member(&self, turn: usize) -> NodeId {
        let mut members: Vec<NodeId> = self.roster.borrow().keys().copied().collect();
        members.retain(|member| *member != self.node);
        members.push(self.node);
        members[turn % members.len()]
    }

    /// Whether this node leads the meta group, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.meta.is_leader()
    }

    /// Carries a change out here, where the meta group's leader is.
    ///
    /// # Errors
    /// This node does not lead, or the group has no majority now.
    pub async fn lead(&self, command: &MetaCommand) -> Result<MetaOutcome, Refused> {
        propose(&self.meta, command).await
    }
}
