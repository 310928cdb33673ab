//! Counters of the log: atomics, read without stopping the writer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Buckets of the write latency: the last one takes everything from 16.8 s up.
const BUCKETS: usize = 25;

/// Counters since the log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Durable writes: each one `write` and one fsync, shared by all that waited (E4).
    pub fsyncs: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes of entries written, as the caller gave them.
    pub bytes: u64,
    /// Microseconds spent in durable writes.
    pub fsync_us_sum: u64,
    /// The longest durable write, in microseconds.
    pub fsync_us_max: u64,
    /// Bucket `i` counts durable writes of less than `2^i` and at least `2^(i-1)` microseconds.
    pub fsync_us_buckets: [u64; BUCKETS],
    /// Operations waiting for the writer now.
    pub queue_len: usize,
    /// Microseconds for which the durable write that is under way has been so; 0 if there is none.
    pub writing_us: u64,
    /// The writer waits until there is room on the disk again.
    pub waits_for_room: bool,
}

pub(super) struct Counters {
    opened: Instant,
    /// Microseconds from `opened` to the begin of the write that is under way, plus one; 0 if there is none.
    writing_since_us: AtomicU64,
    waits_for_room: AtomicBool,
    fsyncs: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    us_sum: AtomicU64,
    us_max: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            writing_since_us: AtomicU64::default(),
            waits_for_room: AtomicBool::default(),
            fsyncs: AtomicU64::default(),
            entries: AtomicU64::default(),
            bytes: AtomicU64::default(),
            us_sum: AtomicU64::default(),
            us_max: AtomicU64::default(),
            buckets: Default::default(),
        }
    }
}

impl Counters {
    pub(super) fn begins(&self) {
        self.writing_since_us.store(1 + self.now_us(), Relaxed);
    }

    pub(super) fn ended(&self) {
        self.writing_since_us.store(0, Relaxed);
    }

    pub(super) fn waits_for_room(&self, waits: bool) {
        self.waits_for_room.store(waits, Relaxed);
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    pub(super) fn wrote(&self, entries: usize, bytes: usize, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.fsyncs.fetch_add(1, Relaxed);
        self.entries.fetch_add(entries as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.us_sum.fetch_add(us, Relaxed);
        self.us_max.fetch_max(us, Relaxed);
        self.buckets[bucket(us)].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, queue_len: usize) -> LogStats {
        LogStats {
            fsyncs: self.fsyncs.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            fsync_us_sum: self.us_sum.load(Relaxed),
            fsync_us_max: self.us_max.load(Relaxed),
            fsync_us_buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            queue_len,
            writing_us: match self.writing_since_us.load(Relaxed) {
                0 => 0,
                since => (1 + self.now_us()).saturating_sub(since).max(1),
            },
            waits_for_room: self.waits_for_room.load(Relaxed),
        }
    }
}

fn bucket(us: u64) -> usize {
    ((u64::BITS - us.leading_zeros()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 1_000, u64::MAX].map(bucket), [0, 1, 2, 2, 3, 10, BUCKETS - 1]);
        let counters = Counters::default();
        counters.wrote(3, 300, Duration::from_micros(1_000));
        let stats = counters.read(7);
        assert_eq!((stats.fsyncs, stats.entries, stats.bytes, stats.queue_len), (1, 3, 300, 7));
        assert_eq!((stats.fsync_us_sum, stats.fsync_us_max, stats.fsync_us_buckets[10]), (1_000, 1_000, 1));
        assert_eq!(stats.writing_us, 0);
        counters.begins();
        assert!(counters.read(0).writing_us > 0);
        counters.ended();
        assert_eq!(counters.read(0).writing_us, 0);
    }
}
