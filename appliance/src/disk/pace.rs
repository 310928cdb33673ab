//! Whether the log's durable writes keep up. Pure: fed with the log's counters and the time at every look. A disk is slow once its
//! writes have taken too long for a while, and is taken for well again after a longer while without a slow one: what moves with
//! it are leaderships, which shall not wander to and fro.

use std::time::Duration;

use tokio::time::Instant;

/// A durable write that takes this long is slow: with it no message is committed in less than half a second, and elections run
/// out before their votes are on disk. Cards and old disks that are well need 5 to 100 ms.
const SLOW_WRITE: Duration = Duration::from_millis(250);

/// Slow writes without a quick one for this long make a slow disk; a single hiccup does not.
const SLOW_FOR: Duration = Duration::from_millis(1_500);

/// No slow write for this long, and the disk counts as well again. It may still be slow if nothing was written meanwhile: then the
/// next leadership shows it.
const WELL_FOR: Duration = Duration::from_secs(20);

/// The log's counters at one look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Writes {
    /// Durable writes so far.
    pub(super) count: u64,
    /// Microseconds they took together.
    pub(super) us_sum: u64,
    /// Microseconds for which one has been under way.
    pub(super) under_way_us: u64,
}

/// What the looks so far say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    before: Writes,
    /// When slow writes began, if none was quick since.
    slow_since: Option<Instant>,
    slow_last: Option<Instant>,
    is_slow: bool,
    write_us: u64,
}

impl Pace {
    /// Takes a look into account; whether the disk is slow.
    pub(super) fn observe(&mut self, now: Instant, writes: Writes) -> bool {
        let (count, us) =
            (writes.count.saturating_sub(self.before.count), writes.us_sum.saturating_sub(self.before.us_sum));
        self.before = writes;
        let mean_us = us.checked_div(count);
        // One that is not done yet has taken at least so long.
        let seen_us = mean_us.into_iter().chain((writes.under_way_us > 0).then_some(writes.under_way_us)).max();
        let slow_us = SLOW_WRITE.as_micros() as u64;
        match seen_us {
            Some(seen) if seen >= slow_us => {
                self.slow_since.get_or_insert(now);
                self.slow_last = Some(now);
            }
            // Only a write that ended tells that one was quick.
            Some(_) if mean_us.is_some() => self.slow_since = None,
            _ => {}
        }
        if let Some(mean) = mean_us {
            self.write_us = mean;
        }
        self.write_us = self.write_us.max(writes.under_way_us);
        self.is_slow = if self.is_slow {
            self.slow_last.is_some_and(|last| now - last < WELL_FOR)
        } else {
            self.slow_since.is_some_and(|since| now - since >= SLOW_FOR) && self.slow_last == Some(now)
        };
        self.is_slow
    }

    /// Microseconds that writes took lately.
    pub(super) fn write_us(&self) -> u64 {
        self.write_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every half second: microseconds of each write that ended since, and of one under way.
    fn looks(pace: &mut Pace, start: Instant, looks: &[(&[u64], u64)]) -> Vec<bool> {
        let mut writes = pace.before;
        let look = |(at, (ended, under_way_us)): (u32, &(&[u64], u64))| {
            writes.count += ended.len() as u64;
            writes.us_sum += ended.iter().sum::<u64>();
            writes.under_way_us = *under_way_us;
            pace.observe(start + Duration::from_millis(500) * at, writes)
        };
        (1..).zip(looks).map(look).collect()
    }

    #[tokio::test]
    async fn slow_writes_for_a_while_make_a_slow_disk_and_a_hiccup_does_not() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let hiccup: &[(&[u64], u64)] = &[(&[900], 0), (&[800_000], 0), (&[900_000], 0), (&[1_000], 0), (&[700_000], 0)];
        assert_eq!(looks(&mut pace, start, hiccup), [false; 5]);
        let mut pace = Pace::default();
        let dying: &[(&[u64], u64)] = &[(&[500_000], 0), (&[520_000], 0), (&[], 400_000), (&[510_000], 0)];
        assert_eq!(looks(&mut pace, start, dying), [false, false, false, true]);
        assert_eq!(pace.write_us(), 510_000);
        // Nothing is written any more, as the leaderships are gone: it is well again, but not at once.
        let idle: Vec<(&[u64], u64)> = vec![(&[], 0); 41];
        let after = looks(&mut pace, start + Duration::from_secs(2), &idle);
        assert!(after[..39].iter().all(|slow| *slow) && !after[40], "{after:?}");
    }

    #[tokio::test]
    async fn a_write_that_never_ends_is_slow() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let stuck: Vec<(&[u64], u64)> = (1..=6).map(|at| (&[][..], at * 500_000)).collect();
        assert_eq!(looks(&mut pace, start, &stuck), [false, false, false, true, true, true]);
        assert_eq!(pace.write_us(), 3_000_000);
    }
}
