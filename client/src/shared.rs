//! What the handles and the connection task share: one short lock around the pure state, and the ways to wake each other. No
//! lock is held across an await, and no ticket is answered under it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};

use crate::acks::Acks;
use crate::config::{ClientConfig, Deadlines};
use crate::error::{ClientError, SendError};
use crate::inbox::Inbox;
use crate::message::{ClientStats, Receipt, Ticket, Welcome};
use crate::outbox::Outbox;

/// Where the client stands in its life.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Running,
    /// `close` was called: nothing new is taken.
    Closing,
    /// For ever.
    Ended(ClientError),
}

/// What a caller of `connected` waits for.
#[derive(Debug, Clone)]
pub(crate) enum Login {
    NotYet,
    In(Welcome),
    Ended(ClientError),
}

pub(crate) struct Core {
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox<Ticket>,
    pub(crate) inbox: Option<Inbox>,
    pub(crate) subscriptions: u64,
    /// A SUBSCRIBE whose subscription is gone was sent on this connection: its entries may still come.
    pub(crate) stale_subscription: bool,
    pub(crate) acks: Acks,
    pub(crate) stats: ClientStats,
}

impl Core {
    /// Whether a client that is closing has nothing left to wait for.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Closing) && self.outbox.len() == 0 && self.acks.settled()
    }

    pub(crate) fn connection_lost(&mut self) {
        self.outbox.connection_lost();
        self.acks.connection_lost();
        if let Some(inbox) = &mut self.inbox {
            inbox.connection_lost();
        }
        self.stale_subscription = false;
        self.stats.node = None;
    }
}

pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Room for messages. Its permits are forgotten when taken and given back when a message is finally answered.
    pub(crate) room: Semaphore,
    /// To the connection: there is something to send.
    pub(crate) wake: Notify,
    /// To subscribers: an event is there, or none will come.
    pub(crate) arrived: Notify,
    /// To `flush_acks` and `close`: something was answered.
    pub(crate) settled: Notify,
    pub(crate) login: watch::Sender<Login>,
    pub(crate) deadlines: Deadlines,
}

impl Shared {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            core: Mutex::new(Core {
                phase: Phase::Running,
                outbox: Outbox::new(config.deadlines.backoff, rand::random()),
                inbox: None,
                subscriptions: 0,
                stale_subscription: false,
                acks: Acks::default(),
                stats: ClientStats::default(),
            }),
            room: Semaphore::new(config.sends_max),
            wake: Notify::new(),
            arrived: Notify::new(),
            settled: Notify::new(),
            login: watch::Sender::new(Login::NotYet),
            deadlines: config.deadlines,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // Every change under the lock is whole before it can panic; a caller's panic elsewhere is none of our business.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing more can be done, if so.
    pub(crate) fn check_running(&self) -> Result<(), ClientError> {
        match &self.lock().phase {
            Phase::Running => Ok(()),
            Phase::Closing => Err(ClientError::Closed),
            Phase::Ended(why) => Err(why.clone()),
        }
    }

    /// Hands out final results and gives their room back.
    pub(crate) fn answer(&self, finished: &mut Vec<(Ticket, Result<Receipt, SendError>)>) {
        if finished.is_empty() {
            return;
        }
        self.room.add_permits(finished.len());
        for (ticket, result) in finished.drain(..) {
            // A caller that dropped its Pending does not want to know.
            let _ = ticket.send(result);
        }
    }

    /// Gives up messages older than the caller's deadline, if there is one.
    pub(crate) fn expire(&self) {
        let Some(age_max) = self.deadlines.send else { return };
        let expired = self.lock().outbox.expire(Instant::now(), age_max);
        if expired.is_empty() {
            return;
        }
        self.answer(&mut expired.into_iter().map(|ticket| (ticket, Err(SendError::Deadline))).collect());
        self.wake.notify_one();
        self.settled.notify_waiters();
    }

    /// Ends the client for ever: everything that waits is answered. Only the first reason counts.
    pub(crate) fn end(&self, why: ClientError) -> usize {
        let tickets = {
            let mut core = self.lock();
            if matches!(core.phase, Phase::Ended(_)) {
                return 0;
            }
            core.phase = Phase::Ended(why.clone());
            core.stats.node = None;
            core.outbox.give_up()
        };
        let unanswered = tickets.len();
        for ticket in tickets {
            let _ = ticket.send(Err(why.clone().into()));
        }
        self.room.close();
        self.login.send_replace(Login::Ended(why));
        self.arrived.notify_waiters();
        self.settled.notify_waiters();
        self.wake.notify_one();
        unanswered
    }

    /// Returns once a closing client has nothing left to wait for.
    pub(crate) async fn done(&self) {
        loop {
            let settled = self.settled.notified();
            if self.lock().is_done() {
                return;
            }
            settled.await;
        }
    }
}
