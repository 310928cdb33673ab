//! What a node takes from its surroundings, behind traits so that tests can put their own in their place: the wall clock, the
//! random source, the disk of the log. Nothing else in this crate asks the system for the time of day or for randomness;
//! intervals use tokio's clock, which can be paused. (The network is behind `cluster::transport`, Raft's runtime behind
//! `cluster::raft_types`.)

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use iris_store::{LogError, LogOptions, RaftLog};

/// The time of day.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; 0 for a clock before it.
    fn unix_ms(&self) -> u64;
}

/// A source of random numbers for jitter and ids. Secrets never come from here but from the crypto library.
pub trait RandomSource: Send + Sync + 'static {
    /// Uniform over all values.
    fn next_u64(&self) -> u64;

    /// Uniform in `0..below`; 0 when `below` is 0.
    fn below(&self, below: u64) -> u64 {
        // The modulo's bias is below 2^-32 for the small ranges of jitter.
        self.next_u64().checked_rem(below).unwrap_or(0)
    }
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The system's random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl RandomSource for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

/// The disk the log lies on.
pub trait LogDisk: Send + Sync + 'static {
    /// Opens the node's log.
    ///
    /// # Errors
    /// The disk, or what is on it.
    fn open(&self, options: LogOptions) -> Result<RaftLog, LogError>;
}

/// The system's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemDisk;

impl LogDisk for SystemDisk {
    fn open(&self, options: LogOptions) -> Result<RaftLog, LogError> {
        RaftLog::open(options)
    }
}

/// What a node takes from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// Jitter and ids.
    pub random: Arc<dyn RandomSource>,
    /// Where the log lies.
    pub log_disk: Arc<dyn LogDisk>,
}

impl Surroundings {
    /// The real ones.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom), log_disk: Arc::new(SystemDisk) }
    }
}
