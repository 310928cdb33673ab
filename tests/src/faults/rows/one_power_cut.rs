//! Row 3, ONE-POWER-CUT: one node is paused, another loses its power and what it had not fsynced, and then the third goes too, with
//! its disk: what was committed meanwhile rests on the disk that lost power alone (A4, C7). The one that slept and the one
//! that lost power go on together; in the end all three must agree.

use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::cluster::Options;
use crate::faults::disks::with_each_engine;
use crate::faults::outcome::Tally;
use crate::faults::power::{rounds, tear};
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
    rounds(run, options, async |round, dark, rng| {
        let mut nodes = [0, 1, 2];
        nodes.shuffle(rng);
        let [cut, paused, third] = nodes;
        dark.bed.cluster.node(paused).pause()?;
        // Committed by the other two.
        let more = rng.random_range(100..400);
        dark.more(more, rng).await?;
        dark.cut(cut, tear(round, rng))?;
        dark.bed.cluster.kill9(third)?;
        dark.bed.cluster.node(paused).wake()?;
        dark.bed.cluster.start_node(cut)?;
        let (acked, taken) = (dark.load.oracle.acked(), dark.taken);
        run.say(&format!("round {round}: node {} slept, {} lost power at {acked} acked: {taken}", paused + 1, cut + 1));
        dark.bed.cluster.wait_ready().await?;
        // By the one that slept and the one that lost power: what they lack of the third's log would be overwritten now.
        dark.load.more(rng.random_range(100..400)).await
    })
    .await
}
