//! The fault battery: rows that break a cluster of real nodes in one way each while clients write and read, and judge what is
//! left by the oracle. Owns what a row is, how it is run and judged, and what the rows share; the faults themselves are in
//! `rows`, one a file.
//!
//! A row is a function of its seed: what is broken, when and for how long is drawn from it. What the machine does meanwhile is
//! not, so that a replay meets the same faults, not the same interleaving.

pub mod audit;
pub mod ballast;
pub mod bed;
pub mod clock;
pub mod disks;
pub mod far;
pub mod ground;
pub mod load;
pub mod outcome;
pub mod partition;
pub mod power;
pub mod probe;
pub mod python;
pub mod rows;
pub mod run;
pub mod vitals;

use std::path::Path;

use futures::future::LocalBoxFuture;
use rand::rngs::StdRng;

pub use outcome::{Outcome, Tally};

/// What a row does.
pub type RowFn = for<'a> fn(&'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>>;

/// One kind of fault.
#[derive(Clone, Copy)]
pub struct Row {
    /// As the command line and the table call it.
    pub name: &'static str,
    /// Its number in the battery.
    pub number: u8,
    /// What it does, in half a sentence.
    pub about: &'static str,
    /// How often, if nobody says.
    pub rounds: Rounds,
    /// Does it.
    pub run: RowFn,
}

/// How many rounds a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// Among the tests.
    pub short: u32,
    /// In `make faults`.
    pub long: u32,
}

/// Which form of a row is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Among the tests: a minute at most.
    Short,
    /// `make faults`: as long as it takes to believe it.
    Long,
}

/// One run of a row.
#[derive(Debug, Clone)]
pub struct RowRun<'a> {
    /// Everything random comes from it, by [`Self::rng`].
    pub seed: u64,
    /// How often.
    pub rounds: u32,
    /// How long, for a row that is told in minutes.
    pub minutes: Option<u32>,
    /// Which form.
    pub length: Length,
    /// Everything the run leaves is in here: data, configurations, logs. It stays if the run fails.
    pub dir: &'a Path,
    /// On loopback even where network namespaces can be had.
    pub loopback: bool,
}

impl RowRun<'_> {
    /// The generator for one purpose: drawing for one does not change what another draws.
    #[must_use]
    pub fn rng(&self, purpose: &str) -> StdRng {
        crate::seed::rng(self.seed, purpose)
    }

    /// One of two, by the form.
    #[must_use]
    pub fn choose<T>(&self, short: T, long: T) -> T {
        match self.length {
            Length::Short => short,
            Length::Long => long,
        }
    }

    /// Says how far it is.
    pub fn say(&self, what: &str) {
        println!("  {what}");
    }
}
