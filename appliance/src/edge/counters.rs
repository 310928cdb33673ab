//! What the edge counts, named as in `iris_protocol::admin::Counters`. Only counted here; who asks is the admin's business.

use std::sync::atomic::{AtomicU64, Ordering};

use iris_protocol::admin::Counters;

/// One number that several sessions count in. Only read for people, so no order between counters is promised.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn one(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The edge's counters since the process began.
#[derive(Debug, Default)]
pub struct EdgeCounters {
    pub(super) msg_in: Counter,
    pub(super) msg_out: Counter,
    pub(super) ack_sent: Counter,
    pub(super) dedup_hit: Counter,
    pub(super) refused: Counter,
    pub(super) auth_failed: Counter,
    pub(super) bad_frames: Counter,
    sessions: Counter,
}

impl EdgeCounters {
    /// Fills in the edge's part of the node's counters.
    pub fn fill(&self, counters: &mut Counters) {
        counters.msg_in = self.msg_in.get();
        counters.msg_out = self.msg_out.get();
        counters.ack_sent = self.ack_sent.get();
        counters.dedup_hit = self.dedup_hit.get();
        counters.refused = self.refused.get();
        counters.auth_failed = self.auth_failed.get();
        counters.bad_frames = self.bad_frames.get();
        counters.sessions = self.sessions();
    }

    /// Client sessions now.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// Counts a session for as long as what is returned lives, however the session ends.
    pub(super) fn session(&self) -> SessionCounted<'_> {
        self.sessions.one();
        SessionCounted(self)
    }
}

/// See [`EdgeCounters::session`].
pub(super) struct SessionCounted<'a>(&'a EdgeCounters);

impl Drop for SessionCounted<'_> {
    fn drop(&mut self) {
        self.0.sessions.0.fetch_sub(1, Ordering::Relaxed);
    }
}
