//! Row 13, SIGSTOP-LEADER: the node that leads most is stopped in the middle of whatever it does, and wakes a minute later in a
//! world that went on without it (C7). It commits nothing stale, and its first reads show what was acked meanwhile.

use std::time::Duration;

use anyhow::Context;
use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::probe::fresh_read;
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::wait::let_pass;
use crate::workload::users;

/// The row.
pub const ROW: Row = Row {
    name: "SIGSTOP-LEADER",
    number: 13,
    about: "the leader is stopped for a while, then wakes",
    rounds: Rounds { short: 2, long: 10 },
    run,
};

/// Longest a read through the woken node may take.
const READ_DEADLINE: Duration = Duration::from_secs(60);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("pauses");
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    let everybody = users("user-", Size::default().users)?;
    for round in 1..=run.rounds {
        load.more(rng.random_range(100..300)).await?;
        let victim = bed.cluster.leading_most().await?;
        let before = load.oracle.acked();
        bed.cluster.node(victim).pause()?;
        // Short against its election timeout in one half of the short rounds, long in the other.
        let lasts_ms = match round % 2 {
            0 => rng.random_range(200..1_500),
            _ => run.choose(8_000, 60_000),
        };
        let_pass(Duration::from_millis(lasts_ms)).await;
        let meanwhile = load.oracle.acked() - before;
        bed.cluster.node(victim).wake()?;
        for user in &everybody {
            let read = fresh_read(&bed.cluster, &load.oracle, user, victim, READ_DEADLINE).await?;
            read.with_context(|| format!("node {} answers no read since it woke", victim + 1))?;
        }
        run.say(&format!(
            "round {round}: node {} stopped for {lasts_ms} ms, {meanwhile} acked meanwhile, nothing stale when it woke",
            victim + 1
        ));
        bed.cluster.wait_ready().await?;
    }
    load.more(200).await?;
    let gap = load.oracle.longest_gap();
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(Outcome::Ran(tally.with("stale_reads", 0).with("longest_gap_ms", gap.as_millis()).with("on", bed.ground.word())))
}
