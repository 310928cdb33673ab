//! One recipient's messages, oldest first.

use std::collections::VecDeque;
use std::time::Instant;

/// Unanswered messages to one recipient and how far they have been sent on this connection.
#[derive(Debug)]
pub(super) struct Lane {
    /// Orders, increasing.
    pub(super) queue: VecDeque<u64>,
    /// Where in the queue to send from. Without a refusal, everything before it is in flight.
    next: usize,
    pub(super) in_flight: usize,
    /// How many may be in flight: no bound of its own until a refusal, then 1 and one more with each acceptance.
    window: usize,
    turned_back: Option<TurnedBack>,
    /// Refusals of the front since the last acceptance.
    pub(super) attempts: u32,
    /// Times the front was called behind though nothing was before it.
    pub(super) behind_nothing: u32,
    /// Whether the outbox has it among the ready ones.
    pub(super) is_ready: bool,
}

#[derive(Debug)]
struct TurnedBack {
    until: Instant,
    /// Whether this refusal counted as an attempt: the ones that came with it do not count again.
    counted: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            next: 0,
            in_flight: 0,
            window: usize::MAX,
            turned_back: None,
            attempts: 0,
            behind_nothing: 0,
            is_ready: false,
        }
    }
}

impl Lane {
    pub(super) fn can_send(&self) -> bool {
        self.turned_back.is_none() && self.next < self.queue.len() && self.in_flight < self.window
    }

    /// The next message's order; it counts as in flight from now on.
    pub(super) fn take_next(&mut self) -> Option<u64> {
        if !self.can_send() {
            return None;
        }
        let order = self.queue.get(self.next).copied()?;
        self.next += 1;
        self.in_flight += 1;
        Some(order)
    }

    pub(super) fn remove(&mut self, order: u64) {
        if let Ok(at) = self.queue.binary_search(&order) {
            self.queue.remove(at);
            self.next -= usize::from(at < self.next);
        }
    }

    pub(super) fn accepted(&mut self) {
        self.window = self.window.saturating_add(1);
        if self.turned_back.is_none() {
            self.attempts = 0;
            self.behind_nothing = 0;
        }
    }

    /// Stops the lane until `until` at least.
    pub(super) fn turn_back(&mut self, until: Instant, counts: bool) {
        self.window = 1;
        let turned_back = self.turned_back.get_or_insert(TurnedBack { until, counted: false });
        turned_back.until = turned_back.until.max(until);
        if counts && !turned_back.counted {
            turned_back.counted = true;
            self.attempts = self.attempts.saturating_add(1);
        }
    }

    pub(super) fn is_turned_back(&self) -> bool {
        self.turned_back.is_some()
    }

    pub(super) fn turned_back_until(&self) -> Option<Instant> {
        self.turned_back.as_ref().map(|it| it.until)
    }

    /// Goes from the front again. Nothing of it is in flight.
    pub(super) fn reopen(&mut self) {
        self.turned_back = None;
        self.next = 0;
    }

    pub(super) fn connection_lost(&mut self) {
        self.next = 0;
        self.in_flight = 0;
        self.behind_nothing = 0;
        self.is_ready = false;
    }
}
