//! Row 26, LATENCY: two nodes that hold no shards, edges, are 150-300 ms away from everybody, one way; then one of them and a core
//! die together (C5, B2). The rest serves, nothing is lost. Distance is a proxy in this program, since the kernel has none here.

use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::faults::bed::Bed;
use crate::faults::far::Far;
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "LATENCY",
    number: 26,
    about: "edges 150-300 ms away; a far edge and a core die together",
    rounds: Rounds { short: 1, long: 20 },
    run,
};

/// Nodes that hold everything; those who join them hold nothing.
const CORES: usize = 3;
const EDGES: usize = 2;

/// One way.
const MS_MIN: u64 = 150;
const MS_MAX: u64 = 300;

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("distance");
    let mut bed = Bed::start(run).await?;
    if let Some(reason) = bed.ground.uncuttable() {
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    for _ in 0..EDGES {
        let token = bed.cluster.join_token(0).await?;
        let edge = bed.add_machine(&token)?;
        bed.cluster.start_node(edge)?;
        bed.cluster.wait_joined(edge).await?;
    }
    bed.cluster.wait_ready().await?;
    let far = Far::away(&bed, &[CORES, CORES + 1], &run.rng("bytes")).await?;
    far.distance.set(MS_MIN, MS_MAX);
    bed.cluster.wait_ready().await?;
    run.say("five nodes see each other, two of them from far away");
    // Spread over all nodes: some write and read at a far edge.
    let load = Load::start(run, &bed.cluster, Size { senders: 6, per_s: 150, ..Size::default() }).await?;
    load.more(200).await?;
    for round in 1..=run.rounds {
        let ms = rng.random_range(MS_MIN..=MS_MAX);
        far.distance.set(ms, (ms + rng.random_range(0..50)).min(MS_MAX));
        load.more(rng.random_range(50..200)).await?;
        let leader = bed.cluster.leading_most().await?;
        let core = if rng.random() { leader } else { rng.random_range(0..CORES) };
        let edge = CORES + rng.random_range(0..EDGES);
        bed.cluster.kill9(edge)?;
        bed.cluster.kill9(core)?;
        run.say(&format!("round {round}: nodes {} and {} killed at {} acked", edge + 1, core + 1, load.oracle.acked()));
        load.more(rng.random_range(100..300)).await?;
        bed.cluster.heal().await?;
    }
    load.more(100).await?;
    let gap = load.oracle.longest_gap();
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(Outcome::Ran(tally.with("longest_gap_ms", gap.as_millis())))
}
