//! A receiver: follows one inbox from its stored cursor, acks what it was shown, may leave and come back.

use std::time::Duration;

use anyhow::Context;
use iris_client::{Client, Event, SubscribeFrom, UserId};
use tokio::sync::watch;

use crate::oracle::Seen;
use crate::wait::within;

/// Entries between two acks.
const ACK_EVERY: usize = 32;

/// Entries the server may be ahead of the receiver.
const CREDIT: u32 = 256;

/// Longest a leaving receiver waits for its cursor to be durable.
const FLUSH_DEADLINE: Duration = Duration::from_secs(60);

/// What a receiver was shown, in order, through all its connections.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Entry by entry.
    pub entries: Vec<Seen>,
}

/// A user who receives.
pub struct Receiver {
    /// Whose inbox.
    pub user: UserId,
    /// What it has been shown so far, by earlier connections too.
    pub shown: Shown,
}

impl Receiver {
    /// One that has been shown nothing.
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self { user, shown: Shown::default() }
    }

    /// Follows until `enough` is set to a number of entries that has been shown, then makes its cursor durable and leaves.
    ///
    /// # Errors
    /// The client failed, or the cursor could not be made durable.
    pub async fn follow(mut self, client: Client, mut enough: watch::Receiver<Option<usize>>) -> anyhow::Result<Self> {
        let mut inbox = client.subscribe(SubscribeFrom::Stored, CREDIT)?;
        let mut unacked = 0;
        loop {
            if enough.borrow_and_update().is_some_and(|enough| self.shown.entries.len() >= enough) {
                break;
            }
            let event = tokio::select! {
                event = inbox.next() => event.with_context(|| format!("following {}'s inbox", self.user))?,
                changed = enough.changed() => match changed {
                    Ok(()) => continue,
                    // Nobody will say any more: what was shown is what there is.
                    Err(_) => break,
                },
            };
            let Event::Entry(entry) = event else { continue };
            self.shown.entries.push(Seen::from(&entry));
            unacked += 1;
            if unacked >= ACK_EVERY {
                client.ack(entry.id);
                unacked = 0;
            }
        }
        if let Some(last) = self.shown.entries.last() {
            client.ack(last.id);
            let flushed = client.flush_acks(FLUSH_DEADLINE).await;
            flushed.with_context(|| format!("making {}'s cursor durable", self.user))?;
        }
        drop(inbox);
        within("the receiver's goodbye", FLUSH_DEADLINE, client.close(FLUSH_DEADLINE)).await?;
        Ok(self)
    }
}
