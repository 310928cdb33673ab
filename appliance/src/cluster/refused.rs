//! Why a shard's replica did not do what it was asked. Travels to the asking edge, which hides it from the client.

use iris_protocol::NodeId;
use openraft::error::ClientWriteError;
use serde::{Deserialize, Serialize};

use super::raft_types::TypeConfig;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Another node leads, or nobody, or this one is not ready yet. For an append the outcome is unknown: the keys make a retry safe.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// Who is, if known.
        leader: Option<NodeId>,
    },
    /// Memory or queue is full; nothing was done.
    #[error("overloaded")]
    Overloaded,
    /// Something broke; unknown.
    #[error("{0}")]
    Failed(String),
    /// The leader's disk is full; nothing was done.
    #[error("the disk is full")]
    DiskFull,
}

impl Refused {
    pub(super) fn from_write(error: &ClientWriteError<TypeConfig>) -> Self {
        match error {
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
                Self::NotLeader { leader: forward.leader_id }
            }
            other => Self::Failed(other.to_string()),
        }
    }
}
