//! What is known about every member's link, for those who show it or wait for it. Owns the words; `peer` owns the facts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::PeerKey;

/// Whether a member can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Its heartbeat is answered; streams can be opened.
    Up {
        /// When its first beat was answered.
        since: Instant,
    },
    /// No link; this node keeps dialling.
    Down {
        /// When the link was lost, or when this node started to look for it.
        since: Instant,
        /// What is known about it; may change while the peer stays down.
        cause: DownCause,
    },
}

/// Why a member has no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DownCause {
    /// Not tried to the end yet.
    #[error("connecting")]
    Connecting,
    /// None of its addresses answers.
    #[error("none of its addresses answers")]
    Unreachable,
    /// It has no address here and has not dialled yet.
    #[error("no address is known for it and it has not called")]
    NoAddress,
    /// Something with another key answers at its address.
    #[error("another node answers at its address")]
    WrongIdentity,
    /// It was connected but did not answer the first beat; typically it does not know this node as a member.
    #[error("it was reached but did not take the link; it may not know this node as a member yet")]
    NotConfirmed,
    /// Its heartbeat stopped.
    #[error("its heartbeat stopped")]
    Silent,
    /// The connection was closed or broke.
    #[error("the connection was closed")]
    Closed,
}

impl PeerState {
    /// Whether streams can be opened.
    pub fn is_up(&self) -> bool {
        matches!(self, PeerState::Up { .. })
    }
}

/// All members' states at one moment. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStates(Arc<BTreeMap<PeerKey, PeerState>>);

impl PeerStates {
    pub(crate) fn new(states: BTreeMap<PeerKey, PeerState>) -> PeerStates {
        PeerStates(Arc::new(states))
    }

    /// One member's state; `None` if it is no member.
    pub fn get(&self, peer: PeerKey) -> Option<PeerState> {
        self.0.get(&peer).copied()
    }

    /// Whether `peer` is a member with a live link.
    pub fn is_up(&self, peer: PeerKey) -> bool {
        self.get(peer).is_some_and(|state| state.is_up())
    }

    /// All members except this node, by key.
    pub fn iter(&self) -> impl Iterator<Item = (PeerKey, PeerState)> + '_ {
        self.0.iter().map(|(peer, state)| (*peer, *state))
    }

    /// How many are up.
    pub fn up_count(&self) -> usize {
        self.0.values().filter(|state| state.is_up()).count()
    }
}
