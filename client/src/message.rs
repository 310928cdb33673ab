//! What goes in and what comes out: a message, its receipt, what a login says, what the client has counted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::frame::{Durability, Status};
use iris_protocol::{DeviceId, EntryId, MessageKey, NodeId, UserId};
use tokio::sync::oneshot;

use crate::error::SendError;

/// One message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Idempotency key: made once per message and kept for every retry (A3).
    pub key: MessageKey,
    /// Whose inbox.
    pub recipient: UserId,
    /// Open tag; 0 is a plain message.
    pub kind: u16,
    /// Opaque bytes, at most [`iris_protocol::limits::BODY_LEN_MAX`].
    pub body: Bytes,
    /// How safe it must be before the receipt.
    pub durability: Durability,
}

impl Outgoing {
    /// A plain message with a fresh key and quorum durability.
    pub fn new(recipient: UserId, body: impl Into<Bytes>) -> Self {
        let key = MessageKey(uuid::Uuid::now_v7().into_bytes());
        Self { key, recipient, kind: 0, body: body.into(), durability: Durability::Quorum }
    }
}

/// The promise that a message is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The entry in the recipient's inbox.
    pub id: EntryId,
    /// The key was known: this is the first entry's id, nothing was appended by this send.
    pub duplicate: bool,
    /// What is promised.
    pub status: Status,
}

/// One message's final result on its way to the caller.
pub(crate) type Ticket = oneshot::Sender<Result<Receipt, SendError>>;

/// A message on its way: a future of its receipt. Dropping it does not call the message back.
#[derive(Debug)]
pub struct Pending(pub(crate) oneshot::Receiver<Result<Receipt, SendError>>);

impl Future for Pending {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A ticket that was dropped without a word belongs to a client whose task is gone.
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(SendError::Closed)))
    }
}

/// What a login said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The node that serves this connection.
    pub node: NodeId,
    /// Who the client is, by its token.
    pub user: UserId,
    /// The device whose cursor acks move.
    pub device: DeviceId,
    /// Unanswered sends the node allows.
    pub sends_in_flight_max: u32,
    /// How long the node waits for a sign of life.
    pub idle_max: Duration,
    /// `host:port` as it was dialled.
    pub address: String,
}

/// How [`crate::Client::close`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Everything was answered and every ack is durable.
    Clean,
    /// The deadline passed first (or the client had failed before).
    Cut {
        /// Messages whose outcome is unknown.
        unanswered: usize,
    },
}

/// What the client has counted since it started, and how it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Logins that succeeded. All but the first are reconnects.
    pub logins: u64,
    /// Attempts to connect or log in that failed.
    pub connects_failed: u64,
    /// SENDs that repeated a key, after a reconnect or a refusal.
    pub resends: u64,
    /// Refusals that said "later".
    pub refused_for_now: u64,
    /// Refusals that said "never".
    pub refused_finally: u64,
    /// Entries that came twice and were shown once.
    pub duplicates_hidden: u64,
    /// Messages accepted from the caller and not finally answered.
    pub unanswered: usize,
    /// The node that serves now; none while there is no connection.
    pub node: Option<NodeId>,
    /// The address dialled last.
    pub address: Option<String>,
    /// Why the last connection, or the last attempt, ended; for people.
    pub last_failure: Option<String>,
}

impl ClientStats {
    /// Logins after the first.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.logins.saturating_sub(1)
    }
}
