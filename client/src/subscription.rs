//! Following one's inbox: the caller's end of a subscription. Where it stands and what it buffers is [`crate::inbox`]'s.

use std::fmt;
use std::sync::Arc;

use iris_protocol::EntryId;
use iris_protocol::frame::Delivery;

use crate::client::Handle;
use crate::error::ClientError;
use crate::shared::Phase;

/// What a subscription shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next entry; ids increase, across reconnects too.
    Entry(Delivery),
    /// Everything committed when the node looked has been shown. Comes again after a reconnect.
    Live(EntryId),
}

/// The inbox, from a position on. Counts as a clone of its client: it keeps the connection alive.
pub struct Subscription {
    handle: Arc<Handle>,
    generation: u64,
}

impl Subscription {
    pub(crate) fn new(handle: Arc<Handle>, generation: u64) -> Self {
        Self { handle, generation }
    }

    /// The next event, waiting for it as long as it takes. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// The client was closed or has failed (what is buffered is shown first), or another subscription took this one's place.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let arrived = self.handle.shared.arrived.notified();
            if let Some(event) = self.take()? {
                return Ok(event);
            }
            arrived.await;
        }
    }

    /// The next event, if one is there.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, ClientError> {
        self.take()
    }

    fn take(&self) -> Result<Option<Event>, ClientError> {
        let mut core = self.handle.shared.lock();
        let Some(inbox) = core.inbox.as_mut().filter(|inbox| inbox.generation == self.generation) else {
            return Err(ClientError::Replaced);
        };
        if let Some(event) = inbox.pop() {
            let wants_credit = inbox.wants_credit();
            drop(core);
            if wants_credit {
                self.handle.shared.wake.notify_one();
            }
            return Ok(Some(event));
        }
        match &core.phase {
            Phase::Ended(why) => Err(why.clone()),
            Phase::Running | Phase::Closing => Ok(None),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut core = self.handle.shared.lock();
        let Some(inbox) = core.inbox.take_if(|inbox| inbox.generation == self.generation) else { return };
        core.stale_subscription |= inbox.is_subscribed();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
