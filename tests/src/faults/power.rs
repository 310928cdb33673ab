//! What the rows share in which the power goes: how the disks behave before, what survives, and what was taken, for their lines.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;
use rand::Rng;
use rand::rngs::StdRng;

use super::RowRun;
use super::bed::Bed;
use super::disks::Disks;
use super::load::{Load, Size};
use super::outcome::Tally;
use crate::cluster::Options;
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

/// A cluster under load on disks that can lose power, and what they have lost so far.
pub struct Dark {
    /// The nodes, on the disks.
    pub bed: Bed,
    /// Everybody who writes and reads.
    pub load: Load,
    /// What cuts took.
    pub taken: Taken,
    disks: Disks,
}

impl Dark {
    /// Kills a node and cuts its power.
    ///
    /// # Errors
    /// It was not running.
    pub fn cut(&mut self, node: usize, tear: Tear) -> anyhow::Result<()> {
        self.bed.cluster.kill9(node)?;
        self.taken.add(&self.disks.of(node).power_cut(tear));
        Ok(())
    }

    /// Kills all nodes and cuts the power of all, each as it is told.
    ///
    /// # Errors
    /// One was not running.
    pub fn cut_all(&mut self, mut tear: impl FnMut() -> Tear) -> anyhow::Result<()> {
        self.bed.cluster.kill9_all()?;
        self.disks.all().for_each(|disk| self.taken.add(&disk.power_cut(tear())));
        Ok(())
    }

    /// Waits for so many acks more, and then a moment, so that cuts don't all fall behind one.
    ///
    /// # Errors
    /// Not in time.
    pub async fn more(&self, messages: usize, rng: &mut StdRng) -> anyhow::Result<()> {
        self.load.more(messages).await?;
        let_pass(Duration::from_micros(rng.random_range(0..DAWDLE_US_MAX))).await;
        Ok(())
    }
}

/// Plays a row's rounds, heals after each, and judges.
///
/// # Errors
/// What a round says, or nothing unsynced was ever lost, so that the row would show nothing.
pub async fn rounds(
    run: &RowRun<'_>,
    options: Options,
    mut round: impl AsyncFnMut(u32, &mut Dark, &mut StdRng) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let mut rng = run.rng("cuts");
    let disks = Disks::mount(run.dir)?;
    let bed = Bed::start_with(run, options).await?;
    fsyncs_take_their_time(&disks);
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(200).await?;
    let mut dark = Dark { bed, load, taken: Taken::default(), disks };
    for number in 1..=run.rounds {
        round(number, &mut dark, &mut rng).await?;
        dark.bed.cluster.heal().await?;
    }
    dark.load.more(200).await?;
    ensure!(dark.taken.bytes > 0, "there was nothing unsynced to lose in any round: the row shows nothing");
    let Dark { mut bed, load, taken, disks: _disks } = dark;
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(taken.shown_in(tally))
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
