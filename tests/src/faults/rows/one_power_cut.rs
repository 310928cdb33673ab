//! Row 3, ONE-POWER-CUT: one node is paused, another loses its power and what it had not fsynced, and then the third goes too, with
//! its disk: what was committed meanwhile rests on the disk that lost power alone (A4, C7). The one that slept and the one
//! that lost power go on together; in the end all three must agree.

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::cluster::Options;
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, with_each_engine};
use crate::faults::load::{Load, Size};
use crate::faults::outcome::Tally;
use crate::faults::power::{Taken, dawdle, fsyncs_take_their_time, tear};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "ONE-POWER-CUT",
    number: 3,
    about: "a node loses its power and what it had not fsynced while a second is paused",
    rounds: Rounds { short: 2, long: 30 },
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
        let mut nodes = [0, 1, 2];
        nodes.shuffle(&mut rng);
        let [cut, paused, third] = nodes;
        bed.cluster.node(paused).pause()?;
        // Committed by the other two.
        load.more(rng.random_range(100..400)).await?;
        dawdle(&mut rng).await;
        bed.cluster.kill9(cut)?;
        taken.add(&disks.of(cut).power_cut(tear(round, &mut rng)));
        bed.cluster.kill9(third)?;
        bed.cluster.node(paused).wake()?;
        bed.cluster.start_node(cut)?;
        let acked = load.oracle.acked();
        run.say(&format!("round {round}: node {} slept, {} lost power at {acked} acked: {taken}", paused + 1, cut + 1));
        bed.cluster.wait_ready().await?;
        // By the one that slept and the one that lost power: what they lack of the third's log would be overwritten now.
        load.more(rng.random_range(100..400)).await?;
        bed.cluster.heal().await?;
    }
    load.more(200).await?;
    ensure!(taken.bytes > 0, "there was nothing unsynced to lose in any round: the row shows nothing");
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(taken.shown_in(tally))
}
