//! The handle a program holds. Takes messages, hands out futures of their receipts, and ends the task behind it when the last
//! clone is gone.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_protocol::EntryId;
use iris_protocol::frame::{Code, SubscribeFrom};
use iris_protocol::limits::{BODY_LEN_MAX, CREDIT_MAX};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::config::ClientConfig;
use crate::error::{ClientError, SendError};
use crate::inbox::Inbox;
use crate::message::{ClientStats, Closing, Outgoing, Pending, Receipt, Welcome};
use crate::shared::{Login, Phase, Shared};
use crate::subscription::Subscription;
use crate::{supervisor, tls};

/// A client that stays connected: it reconnects for ever, to any node it was told of, and sends again what was not answered.
/// Cheap to clone; when the last clone (and subscription) is dropped, its task ends and every [`Pending`] resolves.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Ends the task when dropped. The task itself holds only the shared state.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(ClientError::Closed);
        self.task.abort();
    }
}

impl Client {
    /// Starts connecting, for as long as the client lives.
    ///
    /// # Errors
    /// A configuration that can't work, or no tokio runtime.
    pub fn start(config: ClientConfig) -> Result<Self, ClientError> {
        config.check()?;
        let tls = tls::client_config(&config.trust)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ClientError::NoRuntime)?;
        let shared = Arc::new(Shared::new(&config));
        let guard = supervisor::EndGuard(Arc::clone(&shared));
        let task = runtime.spawn(supervisor::run(guard, config, tls)).abort_handle();
        Ok(Self { handle: Arc::new(Handle { shared, task }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Waits for the first login, and says what the latest one said. A caller with a limit of its own wraps this in a
    /// timeout and finds in [`ClientStats::last_failure`] what to tell its user.
    ///
    /// # Errors
    /// What is final: the token was refused, no common version, before the first login nobody but strangers at the addresses, closed.
    pub async fn connected(&self) -> Result<Welcome, ClientError> {
        let mut login = self.shared().login.subscribe();
        let settled = login.wait_for(|login| !matches!(login, Login::NotYet)).await;
        match settled.as_deref() {
            Ok(Login::In(welcome)) => Ok(welcome.clone()),
            Ok(Login::Ended(why)) => Err(why.clone()),
            Ok(Login::NotYet) | Err(_) => Err(ClientError::Closed),
        }
    }

    /// Takes a message for sending and returns a future of its receipt, which need not be polled for the message to go. Waits
    /// while [`ClientConfig::sends_max`] messages are unanswered. Messages to one recipient are appended in the order of these
    /// calls; a connection need not be there yet.
    ///
    /// # Errors
    /// The client is closed or has failed; the message was not taken.
    pub async fn send(&self, message: Outgoing) -> Result<Pending, ClientError> {
        let shared = self.shared();
        let (ticket, pending) = oneshot::channel();
        if message.body.len() > BODY_LEN_MAX {
            shared.check_running()?;
            let reason = format!("a body may have {BODY_LEN_MAX} bytes, this one has {}", message.body.len());
            let _ = ticket.send(Err(SendError::Refused { code: Code::BodyTooLong, reason }));
            return Ok(Pending(pending));
        }
        let Ok(room) = shared.room.acquire().await else {
            shared.check_running()?;
            return Err(ClientError::Closed);
        };
        {
            let mut core = shared.lock();
            match &core.phase {
                Phase::Running => {}
                Phase::Closing => return Err(ClientError::Closed),
                Phase::Ended(why) => return Err(why.clone()),
            }
            room.forget();
            core.outbox.push(message, ticket, Instant::now());
        }
        shared.wake.notify_one();
        Ok(Pending(pending))
    }

    /// Sends a message and waits for its receipt.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send_and_wait(&self, message: Outgoing) -> Result<Receipt, SendError> {
        self.send(message).await?.await
    }

    /// Begins to follow the inbox. `credit` entries (1 to 65,536) at most wait for the caller; the rest waits in the cluster. A
    /// client has one subscription: a second one takes the first one's place.
    ///
    /// # Errors
    /// A credit out of bounds, or the client is closed or has failed.
    pub fn subscribe(&self, from: SubscribeFrom, credit: u32) -> Result<Subscription, ClientError> {
        if credit == 0 || credit > CREDIT_MAX {
            return Err(ClientError::Config(format!("a credit of {credit}: 1 to {CREDIT_MAX} make sense")));
        }
        let shared = self.shared();
        shared.check_running()?;
        let generation = {
            let mut core = shared.lock();
            core.subscriptions += 1;
            let generation = core.subscriptions;
            let replaced = core.inbox.replace(Inbox::new(generation, from, credit));
            // Entries of the old one may be on their way and look like the new one's: only another connection tells them apart.
            core.stale_subscription |= replaced.is_some_and(|inbox| inbox.is_subscribed());
            generation
        };
        shared.wake.notify_one();
        shared.arrived.notify_waiters();
        Ok(Subscription::new(Arc::clone(&self.handle), generation))
    }

    /// Says that everything up to and including this entry has been dealt with. Returns at once; the newest cursor is said as
    /// often as it takes until the cluster has it.
    pub fn ack(&self, cursor: EntryId) {
        self.shared().lock().acks.ack(cursor);
        self.shared().wake.notify_one();
    }

    /// Waits until the cursor of the last [`Self::ack`] is as durable as a message.
    ///
    /// # Errors
    /// The deadline passed, or the client is closed or has failed.
    pub async fn flush_acks(&self, deadline: Duration) -> Result<(), ClientError> {
        let shared = self.shared();
        let cursor = shared.lock().acks.wanted();
        let covered = async {
            loop {
                let settled = shared.settled.notified();
                {
                    let core = shared.lock();
                    if core.acks.covers(cursor) {
                        return Ok(());
                    }
                    if let Phase::Ended(why) = &core.phase {
                        return Err(why.clone());
                    }
                }
                settled.await;
            }
        };
        timeout(deadline, covered).await.unwrap_or(Err(ClientError::Deadline))
    }

    /// Takes nothing more (other clones included), waits until everything is answered and every ack durable, says BYE and ends the
    /// client. After the deadline it ends all the same, and what is unanswered resolves as [`SendError::Closed`].
    pub async fn close(self, deadline: Duration) -> Closing {
        let shared = self.shared();
        {
            let mut core = shared.lock();
            if matches!(core.phase, Phase::Running) {
                core.phase = Phase::Closing;
            }
        }
        shared.wake.notify_one();
        shared.settled.notify_waiters();
        let mut login = shared.login.subscribe();
        let ended = timeout(deadline, login.wait_for(|login| matches!(login, Login::Ended(_)))).await;
        if let Ok(Ok(ended)) = &ended {
            return match &**ended {
                Login::Ended(ClientError::Closed) => Closing::Clean,
                _ => Closing::Cut { unanswered: 0 },
            };
        }
        drop(ended);
        self.handle.task.abort();
        let done = shared.lock().is_done();
        match (shared.end(ClientError::Closed), done) {
            // Only the goodbye itself was late.
            (0, true) => Closing::Clean,
            (unanswered, _) => Closing::Cut { unanswered },
        }
    }

    /// What the client has counted, and how it stands.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let core = self.shared().lock();
        let (resends, unanswered) = (core.outbox.resends(), core.outbox.len());
        ClientStats { resends, unanswered, ..core.stats.clone() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stats", &self.stats()).finish()
    }
}
