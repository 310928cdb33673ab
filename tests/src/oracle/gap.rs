//! The longest silence: time without any ack while at least one send was waiting for one. Pure; time is passed in.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct GapMeter {
    waiting: usize,
    /// When the silence began that goes on now; none while nothing waits.
    since: Option<Instant>,
    longest: Duration,
}

impl GapMeter {
    pub(super) fn sent(&mut self, now: Instant) {
        self.waiting += 1;
        self.since.get_or_insert(now);
    }

    pub(super) fn answered(&mut self, now: Instant, acked: bool) {
        self.waiting = self.waiting.saturating_sub(1);
        if acked && let Some(since) = self.since {
            self.longest = self.longest.max(now.saturating_duration_since(since));
            self.since = Some(now);
        }
        if self.waiting == 0 {
            self.since = None;
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
    fn silence_counts_only_while_somebody_waits() {
        let (mut gap, start) = (GapMeter::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        gap.sent(at(0));
        gap.answered(at(10), true);
        gap.sent(at(5_000));
        gap.sent(at(5_010));
        gap.answered(at(5_020), true);
        assert_eq!(gap.longest(), Duration::from_millis(20), "nobody waited from 10 to 5,000");
        gap.answered(at(5_320), true);
        assert_eq!(gap.longest(), Duration::from_millis(300));
    }
}
