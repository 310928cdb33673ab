//! Row 2, ALL-POWER-CUT: every node loses its power at once under load, and with it every byte that was not fsynced; every other
//! time some of those bytes survive, in order and torn (A4). Twice: with each engine of the warm tier.

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::cluster::Options;
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, with_each_engine};
use crate::faults::load::{Load, Size};
use crate::faults::outcome::Tally;
use crate::faults::power::{Taken, dawdle, fsyncs_take_their_time, tear};
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
    let mut rng = run.rng("cuts");
    let disks = Disks::mount(run.dir)?;
    let mut bed = Bed::start_with(run, options).await?;
    fsyncs_take_their_time(&disks);
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(200).await?;
    let mut taken = Taken::default();
    for round in 1..=run.rounds {
        load.more(rng.random_range(1..500)).await?;
        dawdle(&mut rng).await;
        bed.cluster.kill9_all()?;
        let tear = tear(round, &mut rng);
        disks.all().for_each(|disk| taken.add(&disk.power_cut(tear)));
        run.say(&format!("round {round}: the power went at {} acked, {tear:?}: {taken}", load.oracle.acked()));
        bed.cluster.heal().await?;
    }
    load.more(200).await?;
    ensure!(taken.bytes > 0, "there was nothing unsynced to lose in any round: the row shows nothing");
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(taken.shown_in(tally))
}
