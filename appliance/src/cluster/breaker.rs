//! One circuit breaker a peer (C8): calls to a peer that does not answer fail at once, instead of each waiting for its own deadline.
//! Five failures in a row open it; after 30 s one call may try; its answer closes it, its failure opens it for another 30 s.
//!
//! It must never stand in the way of a peer that is back. So whatever is heard of a peer closes it: any answer, any call of its
//! own, a stream that opens. Raft's own calls are not held back either: they have short deadlines, go on for as long as a group
//! lives, and so are the probe that is always there. And a call that takes too long is no failure of a peer that was heard of
//! meanwhile: a shard without a majority is slow for a reason of its own.
//!
//! The state is one word, changed by compare and exchange with a pure function: reading takes no lock, and nobody waits.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Failures in a row that open it.
pub(super) const FAILURES_MAX: u64 = 5;

/// How long it stays open.
pub(super) const OPEN_FOR_MS: u64 = 30_000;

/// A probe that has not ended after this long was given up by its caller: another one may try.
pub(super) const PROBE_FOR_MS: u64 = 5_000;

/// What the breaker is in. Times are milliseconds since its making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Calls go through; so many have failed in a row.
    Closed { failures: u64 },
    /// Calls fail at once until then.
    Open { until_ms: u64 },
    /// One call is trying; it is waited for until then.
    Probing { until_ms: u64 },
}

impl State {
    /// A call is about to be made: whether it may.
    fn asked(self, now_ms: u64) -> (bool, Self) {
        match self {
            Self::Closed { .. } => (true, self),
            Self::Open { until_ms } | Self::Probing { until_ms } if now_ms < until_ms => (false, self),
            Self::Open { .. } | Self::Probing { .. } => (true, Self::Probing { until_ms: now_ms + PROBE_FOR_MS }),
        }
    }

    /// A call failed.
    fn failed(self, now_ms: u64) -> Self {
        match self {
            Self::Closed { failures } if failures + 1 < FAILURES_MAX => Self::Closed { failures: failures + 1 },
            Self::Closed { .. } | Self::Probing { .. } => Self::Open { until_ms: now_ms + OPEN_FOR_MS },
            // One that was made before: it says nothing new.
            Self::Open { .. } => self,
        }
    }

    fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// In one word: which in the two lowest bits. Milliseconds have room for as long as machines last.
    fn pack(self) -> u64 {
        match self {
            Self::Closed { failures } => failures << 2,
            Self::Open { until_ms } => until_ms << 2 | 1,
            Self::Probing { until_ms } => until_ms << 2 | 2,
        }
    }

    fn unpack(word: u64) -> Self {
        match word & 3 {
            1 => Self::Open { until_ms: word >> 2 },
            2 => Self::Probing { until_ms: word >> 2 },
            _ => Self::Closed { failures: word >> 2 },
        }
    }
}

/// The breaker of one peer.
#[derive(Debug)]
pub(super) struct Breaker {
    began: Instant,
    state: AtomicU64,
    /// When the peer was last heard of.
    heard_ms: AtomicU64,
    /// How often it opened.
    opened: AtomicU64,
}

impl Breaker {
    pub(super) fn new() -> Self {
        let state = AtomicU64::new(State::Closed { failures: 0 }.pack());
        Self { began: Instant::now(), state, heard_ms: AtomicU64::new(0), opened: AtomicU64::new(0) }
    }

    /// The time, as this breaker counts it.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
    }

    /// As it stands.
    pub(super) fn state(&self) -> State {
        State::unpack(self.state.load(Ordering::Acquire))
    }

    /// How often it opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether a call may be made now. In the usual case this is one load.
    pub(super) fn allows(&self, now_ms: u64) -> bool {
        if self.state().is_closed() {
            return true;
        }
        let mut allowed = false;
        self.change(|state| {
            let (may, next) = state.asked(now_ms);
            allowed = may;
            next
        });
        allowed
    }

    /// A call that was made at `made_ms` failed; `true` if that opened the breaker.
    pub(super) fn failed(&self, made_ms: u64, now_ms: u64) -> bool {
        if self.heard_ms.load(Ordering::Acquire) > made_ms {
            return false;
        }
        let (before, after) = self.change(|state| state.failed(now_ms));
        let opened = !matches!(before, State::Open { .. }) && matches!(after, State::Open { .. });
        if opened && before.is_closed() {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    /// The peer was heard of: it is there. In the usual case this is a store and a load.
    pub(super) fn heard(&self, now_ms: u64) {
        // Strictly later than a call made in the same millisecond.
        self.heard_ms.fetch_max(now_ms + 1, Ordering::AcqRel);
        let fine = State::Closed { failures: 0 };
        if self.state() != fine {
            self.change(|_| fine);
        }
    }

    /// What it was and what it is.
    fn change(&self, mut to: impl FnMut(State) -> State) -> (State, State) {
        let mut after = State::Closed { failures: 0 };
        let changed = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            after = to(State::unpack(word));
            Some(after.pack())
        });
        // It always says what to change to.
        let before = changed.unwrap_or_else(|word| word);
        (State::unpack(before), after)
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
