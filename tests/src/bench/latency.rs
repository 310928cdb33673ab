//! How long things took: a histogram from a microsecond to a minute, to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer ones count as this.
const US_MAX: u64 = 60_000_000;

/// Durations, by how often.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    ///
    /// # Errors
    /// Never with these bounds; the library can't know.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, US_MAX, 3)?))
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(US_MAX);
        self.0.saturating_record(us.clamp(1, US_MAX));
    }

    /// Adds another's.
    ///
    /// # Errors
    /// Never with equal bounds.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// So many percent took no longer, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1_000.0
    }

    /// The longest, in milliseconds.
    #[must_use]
    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_what_they_say() {
        let mut latencies = Latencies::new().unwrap();
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        assert!((latencies.percentile_ms(50.0) - 50.0).abs() < 0.5);
        assert!((latencies.percentile_ms(99.0) - 99.0).abs() < 0.5);
        assert!((latencies.max_ms() - 100.0).abs() < 0.5);
        assert_eq!(latencies.count(), 100);
    }
}
