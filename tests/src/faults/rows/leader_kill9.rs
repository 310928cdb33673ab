//! Row 1, LEADER-KILL9: kill -9 of the node that leads most, under load, again and again (C5, A4). Printed: how long the
//! message that waited longest for its ack had to wait, over all rounds.

use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "LEADER-KILL9",
    number: 1,
    about: "kill -9 of the leader under load",
    rounds: Rounds { short: 3, long: 100 },
    run,
};

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("kills");
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(200).await?;
    for round in 1..=run.rounds {
        load.more(rng.random_range(1..300)).await?;
        let victim = bed.cluster.leading_most().await?;
        bed.cluster.kill9(victim)?;
        run.say(&format!("round {round}: node {} killed at {} acked", victim + 1, load.oracle.acked()));
        // The others go on without it before it is back.
        load.more(rng.random_range(1..300)).await?;
        bed.cluster.heal().await?;
    }
    load.more(200).await?;
    let gap = load.oracle.longest_gap();
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(Outcome::Ran(tally.with("longest_gap_ms", gap.as_millis()).with("on", bed.ground.word())))
}
