//! What can be said of a key without looking for it: the time that a UUIDv7 carries, and fences of such times, which tell a
//! fresh key from all the older ones at the price of a few comparisons.

use iris_protocol::{EntryId, MessageKey};
use serde::{Deserialize, Serialize};

/// A key whose time is so far behind its entry's is odd: what devices can't send at once is mostly sent within a day.
const BEHIND_MS_MAX: u64 = 24 * 3600 * 1000;

/// A key whose time is so far ahead of its entry's is odd. Little, because a fence that reaches into the future makes the keys
/// that everybody else has then look like old ones; clocks that a network sets are off by seconds.
const AHEAD_MS_MAX: u64 = 10 * 60 * 1000;

/// The time a UUIDv7 carries (RFC 9562, 5.7), in milliseconds since 1970; `None` for any other bytes.
pub(super) fn time_of(key: MessageKey) -> Option<u64> {
    let MessageKey(bytes) = key;
    if bytes[6] >> 4 != 7 || bytes[8] >> 6 != 0b10 {
        return None;
    }
    Some(bytes[..6].iter().fold(0, |ms, &byte| ms << 8 | u64::from(byte)))
}

/// How a key's time stands to that of its first entry. Decided once, by the entry's id, so alike on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Near,
    Behind,
    Ahead,
    Timeless,
}

fn standing(key: MessageKey, id: EntryId) -> Standing {
    match time_of(key) {
        None => Standing::Timeless,
        Some(ms) if ms.saturating_add(BEHIND_MS_MAX) < id.unix_ms() => Standing::Behind,
        Some(ms) if ms > id.unix_ms().saturating_add(AHEAD_MS_MAX) => Standing::Ahead,
        Some(_) => Standing::Near,
    }
}

/// Whether a key belongs to the odd buckets, so that a few of them don't widen the fences of the many.
pub(super) fn is_odd(key: MessageKey, id: EntryId) -> bool {
    standing(key, id) != Standing::Near
}

/// From the earliest to the latest of some times; none if `min > max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    min: u64,
    max: u64,
}

impl Default for Span {
    fn default() -> Self {
        Self { min: u64::MAX, max: 0 }
    }
}

impl Span {
    fn holds(self, ms: u64) -> bool {
        self.min <= ms && ms <= self.max
    }

    fn join(&mut self, other: Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// The times of some keys. Those of devices that are days behind and days ahead are apart: together they would span the
/// present, and every fresh key would have to be looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    near: Span,
    behind: Span,
    ahead: Span,
    timeless: bool,
}

impl Fence {
    /// Takes a key in.
    pub(super) fn add(&mut self, key: MessageKey, id: EntryId) {
        let ms = time_of(key).unwrap_or_default();
        let span = match standing(key, id) {
            Standing::Near => &mut self.near,
            Standing::Behind => &mut self.behind,
            Standing::Ahead => &mut self.ahead,
            Standing::Timeless => {
                self.timeless = true;
                return;
            }
        };
        span.join(Span { min: ms, max: ms });
    }

    /// Takes in all of another's.
    pub(super) fn join(&mut self, other: &Self) {
        self.near.join(other.near);
        self.behind.join(other.behind);
        self.ahead.join(other.ahead);
        self.timeless |= other.timeless;
    }

    /// `false` only if the key was never taken in.
    pub(super) fn may_hold(&self, key: MessageKey) -> bool {
        match time_of(key) {
            None => self.timeless,
            Some(ms) => self.near.holds(ms) || self.behind.holds(ms) || self.ahead.holds(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn v7(ms: u64) -> MessageKey {
        let mut bytes = [0x5a; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        (bytes[6], bytes[8]) = (0x7a, 0x9a);
        MessageKey(bytes)
    }

    fn at(ms: u64) -> EntryId {
        EntryId(ms << 16)
    }

    #[test]
    fn the_time_of_a_uuid_is_read_and_other_bytes_have_none() {
        assert_eq!(time_of(v7(1_795_000_000_123)), Some(1_795_000_000_123));
        let (mut v4, mut variant) = (v7(5), v7(5));
        v4.0[6] = 0x4a;
        variant.0[8] = 0xca;
        assert_eq!((time_of(v4), time_of(variant)), (None, None));
    }

    #[test]
    fn a_key_is_odd_a_day_behind_or_ten_minutes_ahead_to_the_millisecond() {
        let (now, soon) = (100 * DAY_MS, 100 * DAY_MS + 600_000);
        for (ms, odd) in
            [(now, false), (now - DAY_MS, false), (now - DAY_MS - 1, true), (soon, false), (soon + 1, true)]
        {
            assert_eq!(is_odd(v7(ms), at(now)), odd, "{ms}");
        }
        assert!(is_odd(MessageKey([1; 16]), at(now)));
    }

    #[test]
    fn wrong_clocks_on_both_sides_leave_the_present_free() {
        let (now, mut fence) = (100 * DAY_MS, Fence::default());
        assert!(!fence.may_hold(v7(now)) && !fence.may_hold(MessageKey([1; 16])));
        fence.add(v7(3), at(now));
        fence.add(v7(now + 50 * DAY_MS), at(now));
        fence.add(v7(now - 7), at(now));
        assert!(!fence.may_hold(v7(now)) && !fence.may_hold(MessageKey([1; 16])));
        assert!(fence.may_hold(v7(3)) && fence.may_hold(v7(now + 50 * DAY_MS)) && fence.may_hold(v7(now - 7)));
        let mut all = Fence::default();
        all.add(MessageKey([1; 16]), at(now));
        all.join(&fence);
        assert!(all.may_hold(v7(3)) && all.may_hold(MessageKey([2; 16])) && !all.may_hold(v7(now)));
    }
}
