//! Virtual time: one line of milliseconds for the whole world. Each host has a runtime whose paused clock is moved along that
//! line, and a wall clock of its own, which may stand wrong and jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use iris_appliance::surroundings::Clock;
use tokio::time::{Duration, Instant};

/// What the wall clocks show when a world begins: some day in 2026.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// Where a runtime's clock stands on the world's line.
#[derive(Debug, Clone, Copy)]
pub struct HostTime {
    began_ms: u64,
    began: Instant,
}

impl HostTime {
    /// A runtime that begins now; to be called on it.
    pub fn beginning(now_ms: u64) -> Self {
        Self { began_ms: now_ms, began: Instant::now() }
    }

    /// The world's time, on this runtime.
    pub fn now_ms(&self) -> u64 {
        self.began_ms + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The runtime's instant at a time of the world.
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.began + Duration::from_millis(at_ms.saturating_sub(self.began_ms))
    }
}

/// How far a host's wall clock is off. Outlives the host's restarts.
#[derive(Debug, Clone, Default)]
pub struct Skew(Arc<AtomicI64>);

impl Skew {
    /// From now on it is off by so much.
    pub fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::Relaxed);
    }
}

/// A host's wall clock.
pub struct SimClock {
    time: HostTime,
    skew: Skew,
}

impl SimClock {
    /// The clock of a host.
    pub fn new(time: HostTime, skew: Skew) -> Self {
        Self { time, skew }
    }
}

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        unix_ms(self.time.now_ms()).saturating_add_signed(self.skew.0.load(Ordering::Relaxed))
    }
}

/// What a right clock shows at a time of the world.
pub fn unix_ms(world_ms: u64) -> u64 {
    EPOCH_MS + world_ms
}
