//! What the rows share in which the power goes: how the disks behave before, what survives, and what was taken, for their lines.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::disks::Disks;
use super::outcome::Tally;
use crate::lossy_disk::{Cut, Tear};
use crate::wait::let_pass;

/// How long an fsync takes: long enough that a cut finds writes on their way, as on a disk that is not memory.
const FSYNC: Duration = Duration::from_millis(5);

/// A cut comes up to this long after the ack that a row waited for: a few fsyncs.
const DAWDLE_US_MAX: u64 = 25_000;

/// Makes every fsync take as long as one of a real disk.
pub fn fsyncs_take_their_time(disks: &Disks) {
    disks.all().for_each(|disk| disk.slow_sync(FSYNC));
}

/// A moment, so that cuts don't all fall behind an ack.
pub async fn dawdle(rng: &mut StdRng) {
    let_pass(Duration::from_micros(rng.random_range(0..DAWDLE_US_MAX))).await;
}

/// What survives in this round: nothing, and every other time some.
pub fn tear(round: u32, rng: &mut StdRng) -> Tear {
    let seed = rng.random();
    if round.is_multiple_of(2) { Tear::Random(seed) } else { Tear::Clean }
}

/// What cuts took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Bytes not fsynced.
    pub bytes: u64,
    /// Names.
    pub names: u64,
    /// Writes of which a part survived.
    pub torn: usize,
}

impl Taken {
    /// Counts one in.
    pub fn add(&mut self, cut: &Cut) {
        self.bytes += cut.bytes;
        self.names += cut.names;
        self.torn += cut.torn.len();
    }

    /// Adds it to a row's line.
    #[must_use]
    pub fn shown_in(self, tally: Tally) -> Tally {
        tally.with("unsynced_bytes", self.bytes).with("unsynced_names", self.names).with("torn", self.torn)
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes and {} names gone so far, {} writes torn", self.bytes, self.names, self.torn)
    }
}
