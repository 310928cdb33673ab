//! The client port: connections, login, and one session per connection that speaks `iris/2` (docs/protocol.md). Owns what a
//! connection costs and every bound on it. Knows the way to shard leaders only as [`EdgeRouter`], so that a whole session can
//! be tested against a scripted one; holds no message longer than it takes to pass it on.

mod acks;
mod conversation;
mod counters;
mod inbox;
mod listener;
mod login;
mod order;
pub(crate) mod rate;
mod session;
#[cfg(any(feature = "fuzzing", feature = "simulation"))]
#[doc(hidden)]
pub mod testing;
mod transfer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use iris_protocol::{DeviceId, EntryId, NodeId, UserId};
use tokio_util::sync::CancellationToken;

pub use counters::EdgeCounters;
pub use listener::{Edge, EdgeParts, SideDoor};

use crate::routing::{InboxPage, PageRequest, Router, SessionId, Submission, Unreachable};
use crate::surroundings::Surroundings;
use login::Gate;
use rate::RateLimits;

/// What sessions need of the way to shard leaders. [`Router`] is the real one.
pub trait EdgeRouter: Clone + Send + Sync + 'static {
    /// A new session's id.
    fn new_session(&self) -> SessionId;

    /// Takes a submission; its outcome comes through its `replies`.
    ///
    /// # Errors
    /// The submission itself, if there is no room for it; nothing was done.
    fn submit(&self, submission: Submission) -> Result<(), Submission>;

    /// A page of a user's inbox.
    fn read_page(
        &self,
        user: &UserId,
        request: PageRequest,
    ) -> impl Future<Output = Result<InboxPage, Unreachable>> + Send;

    /// A device's stored cursor.
    fn stored_cursor(
        &self,
        user: &UserId,
        device: &DeviceId,
    ) -> impl Future<Output = Result<EntryId, Unreachable>> + Send;
}

impl EdgeRouter for Router {
    fn new_session(&self) -> SessionId {
        Self::new_session(self)
    }

    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        Self::submit(self, submission)
    }

    async fn read_page(&self, user: &UserId, request: PageRequest) -> Result<InboxPage, Unreachable> {
        Self::read_page(self, user, request).await
    }

    async fn stored_cursor(&self, user: &UserId, device: &DeviceId) -> Result<EntryId, Unreachable> {
        Self::stored_cursor(self, user, device).await
    }
}

/// Limits and deadlines of the client port, from the node's configuration.
#[derive(Debug, Clone, Copy)]
pub struct EdgeOptions {
    /// Messages per second and user (B4); 0: no limit.
    pub messages_per_s: u32,
    /// Messages a user may send at once.
    pub messages_burst: u32,
    /// Connections at once; one more is closed unanswered.
    pub connections_max: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the handshake to HELLO.
    pub login: Duration,
    /// Without a frame from the client.
    pub idle: Duration,
    /// Without a byte taken by the client.
    pub write: Duration,
    /// From GOAWAY, or BYE, to the end.
    pub drain: Duration,
}

/// What all sessions of a node share.
struct Shared<R> {
    node: NodeId,
    gate: Box<dyn Gate>,
    router: R,
    options: EdgeOptions,
    surroundings: Surroundings,
    rates: RateLimits,
    counters: Arc<EdgeCounters>,
    draining: CancellationToken,
}

impl<R: EdgeRouter> Shared<R> {
    fn new(
        node: NodeId,
        gate: Box<dyn Gate>,
        router: R,
        options: EdgeOptions,
        surroundings: Surroundings,
        counters: Arc<EdgeCounters>,
    ) -> Self {
        let rates = RateLimits::new(options.messages_per_s, options.messages_burst);
        Self { node, gate, router, options, surroundings, rates, counters, draining: CancellationToken::new() }
    }
}
