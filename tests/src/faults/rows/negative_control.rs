//! Row 4, NEGATIVE-CONTROL: rows 2 and 3 on disks whose fsync says yes and does nothing must go red, or those rows would prove
//! nothing. The cluster is founded on honest disks, so that it comes back and can be asked; what was acked since must be
//! missed by the oracle, in each part and with each engine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use futures::future::LocalBoxFuture;

use crate::cluster::{Cluster, Options};
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, with_each_engine};
use crate::faults::outcome::Tally;
use crate::faults::{Outcome, Rounds, Row, RowRun, audit};
use crate::lossy_disk::Tear;
use crate::oracle::Oracle;
use crate::traffic::{Pace, Sender, Style, Traffic};
use crate::workload::{chatter, users};

/// The row.
pub const ROW: Row = Row {
    name: "NEGATIVE-CONTROL",
    number: 4,
    about: "rows 2 and 3 with an fsync that does nothing, which must go red",
    rounds: Rounds { short: 1, long: 5 },
    run,
};

const SENDERS: usize = 4;
/// Acked on disks that lie, before the power goes.
const ACKED: usize = 300;
const DEADLINE: Duration = Duration::from_secs(120);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(async move {
        Ok(match with_each_engine(run, play).await? {
            Outcome::Ran(tally) => Outcome::Control(tally),
            other => other,
        })
    })
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    let mut total = Tally::default();
    for round in 1..=run.rounds {
        let mut all = all_lose_power(run, options.clone(), round).await?;
        ensure!(all.lost + all.diverged > 0, "fsync did nothing, all lost their power, and nobody noticed: {all}");
        let one = one_loses_power(run, options.clone(), round).await?;
        ensure!(one.lost + one.diverged > 0, "fsync did nothing, one lost its power, and nobody noticed: {one}");
        run.say(&format!("round {round}: red, as it must be: {} lost of all, {} of one", all.lost, one.lost));
        all.add(one);
        total.add(Tally { rounds: 1, ..all });
    }
    // What is missing is what this is about.
    total.problems.clear();
    Ok(total)
}

/// A cluster on disks of its own that has begun to lie, and clients that are told of acks.
async fn lying(run: &RowRun<'_>, options: Options, part: String) -> anyhow::Result<(Disks, Bed, Arc<Oracle>)> {
    let dir = run.dir.join(part);
    std::fs::create_dir_all(&dir)?;
    let disks = Disks::mount(&dir)?;
    let options = Options { dir: Some(dir), ..options };
    let bed = Bed::start_with(run, options).await?;
    disks.all().for_each(|disk| disk.ignore_sync(true));
    Ok((disks, bed, Arc::new(Oracle::new())))
}

/// Senders through these nodes, until enough is acked. They don't go on: they would send the rest again, and who reads would wait
/// for what is gone.
async fn some_acks(run: &RowRun<'_>, cluster: &Cluster, through: &[usize], oracle: &Arc<Oracle>) -> anyhow::Result<()> {
    let style = Style { depth: 32, pace: Some(Pace::steady(1_000)) };
    let everybody = users("user-", SENDERS)?;
    let mut traffic = Traffic::new();
    for (at, user) in users("sender-", SENDERS)?.into_iter().enumerate() {
        let client = cluster.client_of_one(&user, "sender", through[at % through.len()]).await?;
        let messages = chatter(run.rng(&format!("chatter {at}")), everybody.clone());
        traffic.add(Sender { client, user, lane: 0, oracle: oracle.clone(), style: style.clone() }, messages);
    }
    oracle.wait_acked(ACKED, DEADLINE).await
}

async fn all_lose_power(run: &RowRun<'_>, options: Options, round: u32) -> anyhow::Result<Tally> {
    let (disks, mut bed, oracle) = lying(run, options, format!("a{round}")).await?;
    some_acks(run, &bed.cluster, &[0, 1, 2], &oracle).await?;
    bed.cluster.kill9_all()?;
    disks.all().for_each(|disk| drop(disk.power_cut(Tear::Clean)));
    bed.cluster.heal().await?;
    let mut tally = Tally::default();
    audit::through_every_node(&mut bed, &oracle, &mut tally).await?;
    Ok(tally)
}

/// Judged by the one that slept and the one that lost power, before the third is back: that one's log would not go together with
/// what they have committed since.
async fn one_loses_power(run: &RowRun<'_>, options: Options, round: u32) -> anyhow::Result<Tally> {
    let (disks, mut bed, oracle) = lying(run, options, format!("o{round}")).await?;
    let (cut, paused, third) = (0, 1, 2);
    bed.cluster.node(paused).pause()?;
    some_acks(run, &bed.cluster, &[cut, third], &oracle).await?;
    bed.cluster.kill9(cut)?;
    disks.of(cut).power_cut(Tear::Clean);
    bed.cluster.kill9(third)?;
    bed.cluster.node(paused).wake()?;
    bed.cluster.start_node(cut)?;
    let mut tally = Tally::default();
    audit::through_every_node(&mut bed, &oracle, &mut tally).await?;
    Ok(tally)
}
