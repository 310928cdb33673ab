//! The handle.

use std::time::Duration;

use iris_protocol::EntryId;
use iris_protocol::frame::SubscribeFrom;

use crate::config::ClientConfig;
use crate::error::{ClientError, SendError};
use crate::message::{ClientStats, Closing, Outgoing, Pending, Receipt, Welcome};
use crate::subscription::Subscription;

/// A client that stays connected. Cheap to clone; when the last clone is dropped, its task ends.
#[derive(Debug, Clone)]
pub struct Client(());

impl Client {
    /// Starts connecting, for as long as the client lives.
    ///
    /// # Errors
    /// A configuration that can't work, or no tokio runtime.
    pub fn start(config: ClientConfig) -> Result<Self, ClientError> {
        config.check()?;
        Err(ClientError::NoRuntime)
    }

    /// Waits for the first login, and says what the latest one said.
    ///
    /// # Errors
    /// A final failure.
    pub async fn connected(&self) -> Result<Welcome, ClientError> {
        Err(ClientError::Closed)
    }

    /// Takes a message for sending; waits while too many are unanswered.
    ///
    /// # Errors
    /// The client is closed or has failed.
    pub async fn send(&self, _message: Outgoing) -> Result<Pending, ClientError> {
        Err(ClientError::Closed)
    }

    /// Sends a message and waits for its receipt.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send_and_wait(&self, message: Outgoing) -> Result<Receipt, SendError> {
        self.send(message).await?.await
    }

    /// Begins to follow the inbox.
    ///
    /// # Errors
    /// A credit of 0 or over the limit, or the client is closed or has failed.
    pub fn subscribe(&self, _from: SubscribeFrom, _credit: u32) -> Result<Subscription, ClientError> {
        Err(ClientError::Closed)
    }

    /// Says that everything up to and including this entry has been dealt with.
    pub fn ack(&self, _cursor: EntryId) {}

    /// Waits until the last ack is durable.
    ///
    /// # Errors
    /// The deadline passed, or the client is closed or has failed.
    pub async fn flush_acks(&self, _deadline: Duration) -> Result<(), ClientError> {
        Err(ClientError::Closed)
    }

    /// Waits for what is outstanding, says BYE and ends the client.
    pub async fn close(self, _deadline: Duration) -> Closing {
        Closing::Cut { unanswered: 0 }
    }

    /// What has been counted.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        ClientStats::default()
    }
}
