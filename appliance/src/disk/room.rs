//! How much room the disk has, against the reserve that is to stay free. Pure. Each level is left only once there is a quarter more
//! than it takes to be there, so that a disk at the edge of one doesn't flap.

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// More than the reserve.
    #[default]
    Enough,
    /// The reserve is being used.
    Low,
    /// Little of it is left.
    Least,
}

/// The part of the reserve that a leader's entries don't get (a quarter).
const LEAST_PART: u64 = 4;

/// More than a level's bound by this part (a quarter) leads out of it.
const MARGIN_PART: u64 = 4;

/// The level as of the last look.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoomLevel {
    reserve_bytes: u64,
    level: Room,
}

impl RoomLevel {
    /// Enough, until the first look.
    pub(super) fn new(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, level: Room::Enough }
    }

    /// The level with so many bytes free.
    pub(super) fn observe(&mut self, free_bytes: u64) -> Room {
        let low = self.reserve_bytes;
        let least = low / LEAST_PART;
        let more = |bound: u64| bound + bound / MARGIN_PART;
        let is_least = free_bytes < if self.level == Room::Least { more(least) } else { least };
        let is_low = free_bytes < if self.level == Room::Enough { low } else { more(low) };
        self.level = match (is_least, is_low) {
            (true, _) => Room::Least,
            (false, true) => Room::Low,
            (false, false) => Room::Enough,
        };
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_are_left_later_than_they_are_entered() {
        let mut level = RoomLevel::new(400);
        let looks: Vec<Room> =
            [900, 400, 399, 499, 100, 99, 124, 125, 499, 500, 50, 600].map(|free| level.observe(free)).into();
        use Room::{Enough, Least, Low};
        assert_eq!(looks, [Enough, Enough, Low, Low, Low, Least, Least, Low, Low, Enough, Least, Enough]);
    }

    #[test]
    fn without_a_reserve_there_is_always_enough() {
        assert_eq!(RoomLevel::new(0).observe(0), Room::Enough);
    }

    proptest! {
        /// Whatever came before: below the bounds it is what they say, well above them too.
        #[test]
        fn the_bounds_hold_whatever_came_before(reserve in 0u64..1 << 40, looks in prop::collection::vec(0u64..1 << 41, 1..20)) {
            let mut level = RoomLevel::new(reserve);
            for free in looks {
                let now = level.observe(free);
                prop_assert!(free >= reserve || now != Room::Enough);
                prop_assert!(free >= reserve / 4 || now == Room::Least);
                prop_assert!(free < reserve + reserve / 4 || now == Room::Enough);
            }
        }
    }
}
