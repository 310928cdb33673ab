//! How long to wait before trying again: doubling, bounded, and jittered so that a crowd of clients spreads (B8). The one
//! such rule of the client; pure, the random source is passed in.

use std::time::Duration;

use rand::Rng;

/// Doublings after which the bound is reached whatever the first pause was.
const DOUBLINGS_MAX: u32 = 16;

/// The pause before attempt `attempt` (the first retry is 1): between a half and the whole of `min * 2^(attempt-1)`, at most `max`.
pub(crate) fn pause(attempt: u32, (min, max): (Duration, Duration), rng: &mut impl Rng) -> Duration {
    let doublings = attempt.saturating_sub(1).min(DOUBLINGS_MAX);
    let whole = min.saturating_mul(1 << doublings).min(max);
    whole.mul_f64(rng.random_range(0.5..=1.0))
}

/// The pause a server asked for, and up to an eighth more: it told everyone the same.
pub(crate) fn asked_for(wait: Duration, rng: &mut impl Rng) -> Duration {
    wait + wait.mul_f64(rng.random_range(0.0..=0.125))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut rng = SmallRng::seed_from_u64(1);
        let range = (Duration::from_millis(20), Duration::from_secs(2));
        for (attempt, whole_ms) in [(1, 20), (2, 40), (4, 160), (7, 1280), (8, 2000), (u32::MAX, 2000)] {
            for _ in 0..100 {
                let pause = pause(attempt, range, &mut rng).as_millis();
                assert!((whole_ms / 2..=whole_ms).contains(&pause), "attempt {attempt}: {pause} ms");
            }
        }
    }
}
