//! Row 25, SIGTERM: a node, or all of them together, is asked to leave under load (B7). Every ack given is true, the exit code
//! is 0 within the drain limit, the others go on, and no error gets past the client library.

use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "SIGTERM",
    number: 25,
    about: "nodes are asked to leave under load",
    rounds: Rounds { short: 3, long: 60 },
    run,
};

/// Every so many rounds all are asked together.
const ALL_EVERY: u32 = 3;

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("departures");
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    let mut slowest = Duration::ZERO;
    for round in 1..=run.rounds {
        load.more(rng.random_range(50..300)).await?;
        let took = if round % ALL_EVERY == 0 {
            bed.cluster.stop_all().await?
        } else {
            let leading = bed.cluster.leading_most().await?;
            let leaving = if rng.random() { leading } else { rng.random_range(0..bed.cluster.len()) };
            let began = Instant::now();
            bed.cluster.stop(leaving).await?;
            let took = began.elapsed();
            load.more(rng.random_range(50..300)).await?;
            took
        };
        run.say(&format!("round {round}: {} ms to leave, at {} acked", took.as_millis(), load.oracle.acked()));
        slowest = slowest.max(took);
        bed.cluster.heal().await?;
    }
    load.more(200).await?;
    let gap = load.oracle.longest_gap();
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    let tally = tally.with("leave_ms_max", slowest.as_millis()).with("longest_gap_ms", gap.as_millis());
    Ok(Outcome::Ran(tally.with("on", bed.ground.word())))
}
