//! How long to wait before the next dial. Owns the growth and the jitter, no timer.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Exponential waits with jitter: nodes that lost the same peer must not dial it in step for ever.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    rng: StdRng,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { min, max, failures: 0, rng: StdRng::seed_from_u64(seed) }
    }

    pub(crate) fn min(&self) -> Duration {
        self.min
    }

    /// The wait before the next attempt: doubled a failure, up to the maximum, a quarter more or less.
    pub(crate) fn wait(&mut self) -> Duration {
        // 2^16 times any sensible minimum is beyond any sensible maximum; the cap keeps the shift in range.
        let doubled = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.about(doubled)
    }

    /// The shortest wait there is, for when something suggests that a dial may help.
    pub(crate) fn shortest(&mut self) -> Duration {
        self.about(self.min)
    }

    /// A quarter more or less, but never beyond the maximum. Drawn from what the maximum leaves, not cut at it: else half of
    /// the waits of a long outage would be exactly the maximum, and the jitter gone just when it is needed.
    fn about(&mut self, wait: Duration) -> Duration {
        let longest = wait.mul_f64(1.25).min(self.max).max(wait.mul_f64(0.75));
        self.rng.random_range(wait.mul_f64(0.75)..=longest).min(self.max)
    }

    pub(crate) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_maximum_and_starts_over() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max, 7);
        assert!(backoff.wait() <= min.mul_f64(1.25));
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            backoff.failed();
            let wait = backoff.wait();
            assert!(wait >= min.mul_f64(0.75) && wait <= max, "{wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest >= max.mul_f64(0.75));
        let mut waits: Vec<Duration> = (0..50).map(|_| backoff.wait()).collect();
        waits.sort();
        waits.dedup();
        assert_eq!(waits.len(), 50, "the jitter goes on at the maximum");
        assert!(backoff.shortest() <= min.mul_f64(1.25), "whatever failed before");
        backoff.reset();
        assert!(backoff.wait() <= min.mul_f64(1.25));
    }
}
