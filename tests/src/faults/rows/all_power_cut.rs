//! Row 2, ALL-POWER-CUT: every node loses its power at once under load, and with it every byte that was not fsynced; every other
//! time some of those bytes survive, in order and torn (A4). Twice: with each engine of the warm tier.

use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::cluster::Options;
use crate::faults::disks::with_each_engine;
use crate::faults::outcome::Tally;
use crate::faults::power::{rounds, tear};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "ALL-POWER-CUT",
    number: 2,
    about: "all nodes lose their power at once, and what they had not fsynced",
    rounds: Rounds { short: 3, long: 40 },
    run,
};

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(with_each_engine(run, play))
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    rounds(run, options, async |round, dark, rng| {
        let more = rng.random_range(1..500);
        dark.more(more, rng).await?;
        let tear = tear(round, rng);
        dark.cut_all(|| tear)?;
        let (acked, taken) = (dark.load.oracle.acked(), dark.taken);
        run.say(&format!("round {round}: the power went at {acked} acked, {tear:?}: {taken}"));
        Ok(())
    })
    .await
}
