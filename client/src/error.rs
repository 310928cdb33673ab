//! What can go wrong, as far as a caller can do something about it. Everything that passes by itself (a node that dies, a
//! refusal that says "later") is not here: the client goes on and counts it in [`crate::ClientStats`].

use iris_protocol::frame::Code;

/// Why the client, or one call of it, can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The configuration can't work: no address, a CA that is no certificate, a token too long.
    #[error("the client's configuration: {0}")]
    Config(String),
    /// [`crate::Client::start`] was called outside a tokio runtime.
    #[error("a client can only be started inside a tokio runtime")]
    NoRuntime,
    /// The token was refused; the reason is in the node's log. Final.
    #[error("the token was refused; get a new one (the node's log says why)")]
    AuthFailed,
    /// The cluster speaks no protocol version this client speaks. Final.
    #[error("the cluster speaks no protocol version this client speaks (2): {0}")]
    UnsupportedVersion(String),
    /// Before the first login, every address answered with a certificate that is not the trusted cluster's. Final.
    #[error("no node could prove that it belongs to the cluster: {0}")]
    Untrusted(String),
    /// The cluster ended connection after connection with an error that says it will do so again. Final.
    #[error("the cluster refuses this client: {code}: {reason}")]
    Refused {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// The caller's deadline passed.
    #[error("not done within the deadline")]
    Deadline,
    /// The client was closed, or its last clone dropped.
    #[error("the client is closed")]
    Closed,
    /// A later [`crate::Client::subscribe`] took this subscription's place.
    #[error("a later subscription took this one's place")]
    Replaced,
}

/// Why a message has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It was not appended and never will be as it is.
    #[error("refused: {code}: {reason}")]
    Refused {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Not answered within [`crate::Deadlines::send`]. Whether it was appended is unknown; sending it again with the same key is safe.
    #[error("no answer within the deadline; whether the message was appended is unknown")]
    Deadline,
    /// The client was closed first. Whether it was appended is unknown; sending it again with the same key is safe.
    #[error("the client was closed before an answer came; whether the message was appended is unknown")]
    Closed,
    /// The client can't go on. Whether it was appended is unknown; sending it again with the same key is safe.
    #[error("no answer came, and none will: {0}")]
    Failed(ClientError),
}

impl SendError {
    /// Whether the message may have been appended all the same.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl From<ClientError> for SendError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Closed => Self::Closed,
            ClientError::Deadline => Self::Deadline,
            other => Self::Failed(other),
        }
    }
}
