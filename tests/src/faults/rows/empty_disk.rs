//! Row 7, EMPTY-DISK-REJOIN: a founder comes back with its key and an empty disk, while the only other node that runs lacks what the
//! two before had acked (C2). It may not give that one its vote: it finds out that it forgot, is told to rejoin as a new node, and
//! ends. Then its disk is put back, so that every replica can be judged. How a new node takes its place is in `tests/empty_disk.rs`.

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// What it says before it ends.
const TOLD: &str = "rejoin as a new node";

/// The row.
pub const ROW: Row = Row {
    name: "EMPTY-DISK-REJOIN",
    number: 7,
    about: "a founder's disk is emptied save its key",
    rounds: Rounds { short: 2, long: 20 },
    run,
};

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("disks");
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(100).await?;
    for round in 1..=run.rounds {
        let mut nodes = [0, 1, 2];
        nodes.shuffle(&mut rng);
        let [full, emptied, behind] = nodes;
        bed.cluster.kill9(behind)?;
        load.more(rng.random_range(20..300)).await?;
        bed.cluster.kill9(full)?;
        bed.cluster.kill9(emptied)?;
        bed.cluster.node(emptied).set_aside()?;
        let before = bed.cluster.node(emptied).count_logged(TOLD);
        bed.cluster.start_node(emptied)?;
        bed.cluster.start_node(behind)?;
        let status = bed.cluster.wait_ended(emptied).await?;
        ensure!(status.code() == Some(1), "the emptied node ended with {status}");
        ensure!(
            bed.cluster.node(emptied).count_logged(TOLD) > before,
            "the emptied node was not told to rejoin as new"
        );
        run.say(&format!("round {round}: node {} was told to rejoin as new", emptied + 1));
        bed.cluster.node(emptied).put_back()?;
        bed.cluster.heal().await?;
        load.more(20).await?;
    }
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(Outcome::Ran(tally.with("on", bed.ground.word())))
}
