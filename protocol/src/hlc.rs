//! Hybrid logical clock (A2): 48 bits of milliseconds and 16 bits of logical counter, of which 63 are used so that an id
//! fits a signed 64-bit column. Pure: the wall clock is passed in.

use crate::ids::EntryId;

/// Bits below the millisecond part.
pub const LOGICAL_BITS: u32 = 16;

/// The largest id: the top bit stays clear because SQLite integers are signed.
pub const ENTRY_ID_MAX: EntryId = EntryId(i64::MAX as u64);

/// A strictly increasing source of stamps, one per shard leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HybridClock {
    last: u64,
}

impl HybridClock {
    /// A clock that goes on after `last`, whatever the wall clock says.
    #[must_use]
    pub fn after(last: EntryId) -> Self {
        Self { last: last.0 }
    }

    /// The next stamp: the wall clock's milliseconds, or one more than the last stamp if the wall clock stands or jumped back.
    pub fn stamp(&mut self, now_unix_ms: u64) -> EntryId {
        let wall = now_unix_ms.min(ENTRY_ID_MAX.0 >> LOGICAL_BITS) << LOGICAL_BITS;
        self.last = wall.max(self.last + 1).min(ENTRY_ID_MAX.0);
        EntryId(self.last)
    }

    /// Learns a stamp seen in the log, so that later ones exceed it.
    pub fn observe(&mut self, seen: EntryId) {
        self.last = self.last.max(seen.0);
    }

    /// The last stamp given or seen.
    #[must_use]
    pub fn last(&self) -> EntryId {
        EntryId(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stamps_increase_whatever_the_clock_does(times in proptest::collection::vec(0u64..(1 << 47), 1..200)) {
            let mut clock = HybridClock::default();
            let mut last = EntryId::ZERO;
            for now in times {
                let stamp = clock.stamp(now);
                prop_assert!(stamp > last);
                prop_assert!(stamp <= ENTRY_ID_MAX);
                last = stamp;
            }
        }
    }

    #[test]
    fn follows_the_wall_clock_when_it_runs() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.stamp(1_700_000_000_000).unix_ms(), 1_700_000_000_000);
        clock.observe(EntryId(1_800_000_000_000 << LOGICAL_BITS));
        assert_eq!(clock.stamp(0), EntryId((1_800_000_000_000 << LOGICAL_BITS) + 1));
    }
}
