//! Whether the node is still there, and whether it knows that we are. Pure. A quiet connection is pinged rarely; one that owes
//! answers soon, because a machine that lost its power says nothing.

use std::time::{Duration, Instant};

use crate::config::Deadlines;

/// A server's idle limit is taken to be at least this: a wrong one must not turn the client into a pinger.
const IDLE_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Nothing to do before then.
    WellUntil(Instant),
    /// Send a PING with this nonce now.
    Ping(u64),
    /// The node did not answer in time.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Liveness {
    write_quiet_max: Duration,
    read_quiet_max: Duration,
    waiting_quiet_max: Duration,
    pong_max: Duration,
    read_at: Instant,
    written_at: Instant,
    /// The unanswered PING, and when it was sent.
    ping: Option<(u64, Instant)>,
    next_nonce: u64,
}

impl Liveness {
    pub(crate) fn new(idle_max: Duration, deadlines: &Deadlines, now: Instant) -> Self {
        Self {
            write_quiet_max: (idle_max.max(IDLE_MIN) / 3).min(deadlines.ping_every),
            read_quiet_max: deadlines.ping_every,
            waiting_quiet_max: deadlines.ping_while_waiting,
            pong_max: deadlines.pong,
            read_at: now,
            written_at: now,
            ping: None,
            next_nonce: 1,
        }
    }

    /// Bytes came.
    pub(crate) fn read(&mut self, now: Instant) {
        self.read_at = now;
    }

    /// Frames went out.
    pub(crate) fn written(&mut self, now: Instant) {
        self.written_at = now;
    }

    pub(crate) fn pong(&mut self, nonce: u64) {
        if self.ping.is_some_and(|(sent, _)| sent == nonce) {
            self.ping = None;
        }
    }

    /// What to do now; `waiting` since when answers are owed, if they are.
    pub(crate) fn check(&mut self, waiting: Option<Instant>, now: Instant) -> Pulse {
        if let Some((_, sent_at)) = self.ping {
            // Whatever comes is a sign of life: a PONG may stand in line behind a lot of entries.
            let dead_at = sent_at.max(self.read_at) + self.pong_max;
            return if dead_at <= now { Pulse::Dead } else { Pulse::WellUntil(dead_at) };
        }
        let quiet_at = (self.read_at + self.read_quiet_max).min(self.written_at + self.write_quiet_max);
        let due = match waiting {
            Some(since) => quiet_at.min(self.read_at.max(since) + self.waiting_quiet_max),
            None => quiet_at,
        };
        if due > now {
            return Pulse::WellUntil(due);
        }
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.ping = Some((nonce, now));
        Pulse::Ping(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fresh(now: Instant) -> Liveness {
        Liveness::new(Duration::from_secs(300), &Deadlines::default(), now)
    }

    #[test]
    fn a_quiet_node_is_pinged_and_given_up_when_it_stays_quiet() {
        let now = Instant::now();
        let mut liveness = fresh(now);
        assert_eq!(liveness.check(None, now), Pulse::WellUntil(now + 20 * SECOND));
        assert_eq!(liveness.check(None, now + 20 * SECOND), Pulse::Ping(1));
        assert_eq!(liveness.check(None, now + 29 * SECOND), Pulse::WellUntil(now + 30 * SECOND));
        assert_eq!(liveness.check(None, now + 30 * SECOND), Pulse::Dead);
        liveness.pong(1);
        liveness.read(now + 30 * SECOND);
        liveness.written(now + 20 * SECOND);
        assert_eq!(liveness.check(None, now + 30 * SECOND), Pulse::WellUntil(now + 40 * SECOND));
    }

    #[test]
    fn a_node_that_owes_answers_is_asked_soon() {
        let now = Instant::now();
        let mut liveness = fresh(now);
        let since = now + 5 * SECOND;
        assert_eq!(liveness.check(Some(since), since), Pulse::WellUntil(since + SECOND));
        assert_eq!(liveness.check(Some(since), since + SECOND), Pulse::Ping(1));
    }

    #[test]
    fn the_nodes_idle_limit_is_kept_while_entries_stream_in() {
        let now = Instant::now();
        let mut liveness = Liveness::new(Duration::from_secs(9), &Deadlines::default(), now);
        liveness.read(now + 3 * SECOND);
        assert_eq!(liveness.check(None, now + 3 * SECOND), Pulse::Ping(1));
    }
}
