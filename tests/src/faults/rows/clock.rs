//! Row 11, CLOCK: nodes' wall clocks jump by up to 30 s either way, and nodes boot in 1970, with leaders moving between clocks (A2).
//! Ids stay ordered and unique. A shim stands between the unmodified program and the system's clock; that it works is checked
//! by the ids themselves.

use std::time::Duration;

use anyhow::Context;
use futures::future::LocalBoxFuture;
use iris_client::{Outgoing, UserId};
use rand::Rng;
use rand::rngs::StdRng;

use crate::faults::bed::{Bed, options};
use crate::faults::clock::{Clocks, Off};
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::wait::{let_pass, within};

/// The row.
pub const ROW: Row = Row {
    name: "CLOCK",
    number: 11,
    about: "wall clocks jump by 30 s, and nodes boot in 1970",
    rounds: Rounds { short: 6, long: 60 },
    run,
};

/// How far clocks jump.
const JUMP_MS: i64 = 30_000;

/// Every so many rounds a node boots in 1970.
const BOOT_EVERY: u32 = 3;

/// And every so many of those, all of them do.
const ALL_EVERY: u32 = 2;

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("clocks");
    let mut bed = Bed::prepare(run, options(run, 3))?;
    let clocks = match Clocks::install(&mut bed)? {
        Ok(clocks) => clocks,
        Err(reason) => return Ok(Outcome::Skipped(reason)),
    };
    bed.cluster.heal().await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(200).await?;
    is_moved(&bed, &clocks).await?;
    let mut boots = 0;
    for round in 1..=run.rounds {
        load.more(rng.random_range(50..300)).await?;
        if round % BOOT_EVERY == 0 {
            boots += 1;
            if boots % ALL_EVERY == 0 {
                boot_all_in_1970(run, round, &mut bed, &clocks, &load, &mut rng).await?;
            } else {
                boot_in_1970(run, round, &mut bed, &clocks, &load, &mut rng).await?;
            }
        } else {
            jump(run, round, &mut bed, &clocks, &load, &mut rng).await?;
        }
    }
    clocks.right()?;
    load.more(200).await?;
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(Outcome::Ran(tally.with("boots_in_1970", boots).with("on", bed.ground.word())))
}

/// Sets every clock ahead and looks at the id of a message: the harness would show nothing if the program did not see it.
async fn is_moved(bed: &Bed, clocks: &Clocks) -> anyhow::Result<()> {
    let user = UserId::new("clock-watcher")?;
    let client = bed.cluster.client(&user, "watch").await?;
    for node in 0..bed.cluster.len() {
        clocks.set(node, Off::ByMs(JUMP_MS))?;
    }
    let sent = client.send_and_wait(Outgoing::new(user, "what time is it?"));
    let receipt = within("a message's id", Duration::from_secs(60), sent).await??;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let ahead = i128::from(receipt.id.0 >> 16) - i128::try_from(now.as_millis())?;
    anyhow::ensure!(ahead > i128::from(JUMP_MS / 2), "the nodes don't see the moved clock: an id is {ahead} ms ahead");
    clocks.right()
}

/// Every clock jumps, each its own way; then the leadership moves to another clock.
async fn jump(
    run: &RowRun<'_>,
    round: u32,
    bed: &mut Bed,
    clocks: &Clocks,
    load: &Load,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let mut jumps = Vec::new();
    for node in 0..bed.cluster.len() {
        let ms = [-JUMP_MS, 0, JUMP_MS][rng.random_range(0..3)] + rng.random_range(-500..=500);
        clocks.set(node, Off::ByMs(ms))?;
        jumps.push(ms);
    }
    run.say(&format!("round {round}: clocks off by {jumps:?} ms at {} acked", load.oracle.acked()));
    load.more(rng.random_range(50..300)).await?;
    let leader = bed.cluster.leading_most().await?;
    bed.cluster.kill9(leader)?;
    load.more(rng.random_range(50..300)).await?;
    bed.cluster.heal().await
}

/// A node dies and boots in 1970; another dies, so that it may lead; then its clock is set right.
async fn boot_in_1970(
    run: &RowRun<'_>,
    round: u32,
    bed: &mut Bed,
    clocks: &Clocks,
    load: &Load,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let booted = rng.random_range(0..bed.cluster.len());
    bed.cluster.kill9(booted)?;
    clocks.set(booted, Off::Boot1970(Duration::from_secs(rng.random_range(0..3_600))))?;
    load.more(rng.random_range(1..100)).await?;
    bed.cluster.heal().await.context("with a node that booted in 1970")?;
    run.say(&format!("round {round}: node {} booted in 1970 at {} acked", booted + 1, load.oracle.acked()));
    load.more(rng.random_range(50..200)).await?;
    let other = (booted + rng.random_range(1..bed.cluster.len())) % bed.cluster.len();
    bed.cluster.kill9(other)?;
    load.more(rng.random_range(50..300)).await?;
    bed.cluster.heal().await?;
    clocks.set(booted, Off::ByMs(0))?;
    load.more(rng.random_range(50..200)).await
}

/// The power fails, and no machine of the house has a battery: all boot in 1970, and their clocks are set right some time later.
/// Until then no token is valid yet; clients wait.
async fn boot_all_in_1970(
    run: &RowRun<'_>,
    round: u32,
    bed: &mut Bed,
    clocks: &Clocks,
    load: &Load,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    bed.cluster.kill9_all()?;
    for node in 0..bed.cluster.len() {
        clocks.set(node, Off::Boot1970(Duration::from_secs(rng.random_range(0..60))))?;
    }
    bed.cluster.heal().await.context("with all nodes in 1970")?;
    run.say(&format!("round {round}: all nodes booted in 1970 at {} acked", load.oracle.acked()));
    let_pass(Duration::from_millis(rng.random_range(500..5_000))).await;
    for node in 0..bed.cluster.len() {
        clocks.set(node, Off::ByMs(0))?;
        let_pass(Duration::from_millis(rng.random_range(0..1_000))).await;
    }
    load.more(rng.random_range(50..200)).await
}
