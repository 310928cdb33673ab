//! Row 12, PARTITION: symmetric, one-way, non-transitive and flapping, around the node that leads most (C7). Whoever is cut off
//! from a majority commits nothing and shows nothing stale; after the heal the leadership settles, printed as a figure. Queued
//! entries (`hardened_ap`) come with that mode.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::LocalBoxFuture;
use iris_client::UserId;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::partition::Kind;
use crate::faults::probe::{fresh_read, settled};
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::wait::{let_pass, within};
use crate::workload::users;

/// The row.
pub const ROW: Row = Row {
    name: "PARTITION",
    number: 12,
    about: "symmetric, one-way, non-transitive and flapping partitions",
    rounds: Rounds { short: 5, long: 60 },
    run,
};

/// Longest a read through a node that is cut off is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest what a minority was given may take to be answered after the heal.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("partitions");
    let mut bed = Bed::start(run).await?;
    if let Some(reason) = bed.ground.uncuttable() {
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    let loner = UserId::new("loner")?;
    // Tokens are given out before anything is cut.
    bed.cluster.token(&loner).await?;
    load.more(200).await?;
    let mut slowest = Duration::ZERO;
    for (round, kind) in (1..=run.rounds).zip(Kind::ALL.into_iter().cycle()) {
        load.more(rng.random_range(1..200)).await?;
        let victim = bed.cluster.leading_most().await?;
        let before = load.oracle.acked();
        kind.begin(&bed, victim, &mut rng).await?;
        let lasts = Duration::from_millis(rng.random_range(2_000..run.choose(4_000, 12_000)));
        let mut given = Given::default();
        if kind.is_minority() {
            given = give(&bed, &load, &loner, victim).await?;
        }
        let_pass(lasts).await;
        if kind.is_minority() {
            let user = users("user-", 1)?.remove(0);
            // It may refuse, or not answer at all; it may not leave out what the others have acked.
            fresh_read(&bed.cluster, &load.oracle, &user, victim, PATIENCE).await?;
            given.none_is_answered(victim)?;
        }
        let meanwhile = load.oracle.acked() - before;
        bed.end_cuts()?;
        let stable = settled(&bed.cluster, Instant::now()).await?;
        slowest = slowest.max(stable);
        run.say(&format!(
            "round {round}: {kind:?} around node {}, {meanwhile} acked meanwhile, settled {} ms after the heal",
            victim + 1,
            stable.as_millis()
        ));
        within("what the minority was given to be answered", ANSWER_DEADLINE, given.answers.join_all()).await?;
        check_reads(&bed, &load, &mut rng).await?;
    }
    load.more(200).await?;
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    let tally = tally.with("minority_committed", 0).with("settled_ms_max", slowest.as_millis());
    Ok(Outcome::Ran(tally))
}

/// What a node that is cut off was given to commit.
#[derive(Default)]
struct Given {
    answers: JoinSet<bool>,
}

impl Given {
    /// Fails if one was acked by now.
    fn none_is_answered(&mut self, node: usize) -> anyhow::Result<()> {
        while let Some(answered) = self.answers.try_join_next() {
            if answered? {
                bail!("node {}, cut off from the others, acked a message", node + 1);
            }
        }
        Ok(())
    }
}

/// Gives the node a message for each user; the answers come when they come, and the oracle hears of them.
async fn give(bed: &Bed, load: &Load, loner: &UserId, node: usize) -> anyhow::Result<Given> {
    let client = bed.cluster.client_of_one(loner, "loner", node).await?;
    within("the cut-off node to let a client in", ANSWER_DEADLINE, client.connected()).await??;
    let mut given = Given::default();
    for recipient in users("user-", Size::default().users)? {
        let outgoing = load.oracle.intend(loner, 0, &recipient, "is anybody there?".into());
        let (client, oracle, loner) = (client.clone(), load.oracle.clone(), loner.clone());
        given.answers.spawn(async move {
            let key = outgoing.key;
            let outcome = client.send_and_wait(outgoing).await;
            oracle.settle(&loner, key, &outcome);
            outcome.is_ok()
        });
    }
    Ok(given)
}

/// Every node shows what was acked, right after the heal.
async fn check_reads(bed: &Bed, load: &Load, rng: &mut StdRng) -> anyhow::Result<()> {
    let all = users("user-", Size::default().users)?;
    for node in 0..bed.cluster.len() {
        let user = &all[rng.random_range(0..all.len())];
        let read = fresh_read(&bed.cluster, &load.oracle, user, node, ANSWER_DEADLINE).await?;
        read.with_context(|| format!("node {} answers no read after the heal", node + 1))?;
    }
    Ok(())
}
