//! The longest gap: how long the message that waited longest for its ack had to wait, from the moment it was handed to the
//! client library. No other message's ack hides it. Pure; time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct GapMeter {
    /// When each message without an answer was handed over, by its place in the book.
    waiting: HashMap<usize, Instant>,
    longest: Duration,
}

impl GapMeter {
    pub(super) fn sent(&mut self, message: usize, now: Instant) {
        self.waiting.insert(message, now);
    }

    pub(super) fn answered(&mut self, message: usize, now: Instant, acked: bool) {
        if let Some(since) = self.waiting.remove(&message).filter(|_| acked) {
            self.longest = self.longest.max(now.saturating_duration_since(since));
        }
    }

    pub(super) fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_counts_whatever_else_is_acked_meanwhile() {
        let (mut gap, start) = (GapMeter::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        gap.sent(0, at(0));
        for message in 1..50 {
            gap.sent(message, at(message as u64 * 10));
            gap.answered(message, at(message as u64 * 10 + 5), true);
        }
        assert_eq!(gap.longest(), Duration::from_millis(5));
        gap.answered(0, at(900), true);
        assert_eq!(gap.longest(), Duration::from_millis(900));
        gap.sent(50, at(1_000));
        gap.answered(50, at(9_000), false);
        assert_eq!(gap.longest(), Duration::from_millis(900), "a refusal is no ack");
    }
}
