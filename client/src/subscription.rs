//! Following one's inbox.

use iris_protocol::EntryId;
use iris_protocol::frame::Delivery;

use crate::error::ClientError;

/// What a subscription shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next entry; ids increase, across reconnects too.
    Entry(Delivery),
    /// Everything committed when the node looked has been shown. Comes again after a reconnect.
    Live(EntryId),
}

/// The inbox, from a position on. Counts as a clone of its client: it keeps the connection alive.
#[derive(Debug)]
pub struct Subscription(());

impl Subscription {
    /// The next event, waiting for it as long as it takes. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// The client was closed or has failed, or another subscription took this one's place.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        Err(ClientError::Closed)
    }
}
