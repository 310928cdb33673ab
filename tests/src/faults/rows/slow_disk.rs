//! Row 10, SLOW-DISK: an fsync of the node that leads most takes half a second. Its leaderships go to nodes whose disks keep up, and
//! come back once its own does. Then every disk is slow: there is nobody to go to, and the queues push back instead of growing.

use std::time::Duration;

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::cluster::Options;
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, NODES, disk_says, leads_nothing, must_live, with_each_engine};
use crate::faults::load::{Load, Size};
use crate::faults::outcome::Tally;
use crate::faults::{Outcome, Rounds, Row, RowRun};

/// The row.
pub const ROW: Row = Row {
    name: "SLOW-DISK",
    number: 10,
    about: "an fsync takes half a second, on a leader, then everywhere",
    rounds: Rounds { short: 1, long: 5 },
    run,
};

const SLOW: Duration = Duration::from_millis(500);

/// What a node may take of memory: what the smallest machine has for it.
const RSS_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// More than slow disks bear, so that it piles up somewhere.
const SIZE: Size = Size { senders: 4, users: 6, per_s: 2_000, depth: 512 };

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(with_each_engine(run, play))
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    let mut rng = run.rng("slowness");
    let disks = Disks::mount(run.dir)?;
    let mut bed = Bed::start_with(run, options).await?;
    let load = Load::start(run, &bed.cluster, SIZE).await?;
    for round in 1..=run.rounds {
        load.more(rng.random_range(100..300)).await?;
        let victim = bed.cluster.leading_most().await?;
        disks.of(victim).slow_sync(SLOW);
        disk_says(&bed, victim, "its disk is slow", |disk| disk.slow).await?;
        leads_nothing(&bed, victim).await?;
        let health = bed.cluster.status(victim).await?.health.sentence;
        ensure!(health.contains("disk is slow"), "its health does not say so: {health}");
        load.more(rng.random_range(500..1_000)).await?;
        disks.all().for_each(|disk| disk.slow_sync(SLOW));
        load.more(rng.random_range(200..500)).await?;
        for node in 0..NODES {
            must_live(&mut bed, node)?;
        }
        disks.all().for_each(|disk| disk.slow_sync(Duration::ZERO));
        disk_says(&bed, victim, "its disk keeps up again", |disk| !disk.slow).await?;
        run.say(&format!("round {round}: node {} was slow and led nothing, then all were slow", victim + 1));
    }
    let mut most = 0;
    for node in 0..NODES {
        most = most.max(bed.cluster.usage(node)?.rss_peak_bytes);
    }
    ensure!(most <= RSS_BYTES_MAX, "a node took {most} bytes of memory");
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(tally.with("rss_peak_mb", most / 1_000_000))
}
