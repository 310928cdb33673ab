//! Row 15, MEMBERSHIP-CHURN: a cluster grows under load: three machines join one founder at once, then one more, while nodes
//! are killed in the middle of it (C2, C4). Each round is a cluster of its own.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::faults::bed::{Bed, options};
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun, Tally};
use crate::wait::wait_for;

/// The row.
pub const ROW: Row = Row {
    name: "MEMBERSHIP-CHURN",
    number: 15,
    about: "three machines join at once, then one more, and nodes die meanwhile",
    rounds: Rounds { short: 1, long: 10 },
    run,
};

/// Copies of a shard.
const COPIES: usize = 3;

/// Longest all shards may take to have their copies, two at a time.
const COPY_DEADLINE: Duration = Duration::from_secs(180);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut rng = run.rng("growth");
    let mut total = Tally::default();
    let mut ground = "";
    for round in 1..=run.rounds {
        let mut options = options(run, 1);
        let dir = run.dir.join(format!("round-{round}"));
        std::fs::create_dir_all(&dir)?;
        options.dir = Some(dir.clone());
        let mut bed = Bed::found(run, options).await?;
        ground = bed.ground.word();
        total.add(grow(run, round, &mut bed, &mut rng).await?);
        drop(bed);
        std::fs::remove_dir_all(&dir)?;
    }
    total.rounds = run.rounds;
    Ok(Outcome::Ran(total.with("joins", run.rounds * 4).with("on", ground)))
}

async fn grow(run: &RowRun<'_>, round: u32, bed: &mut Bed, rng: &mut StdRng) -> anyhow::Result<Tally> {
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    load.more(rng.random_range(50..300)).await?;
    let tokens = [bed.cluster.join_token(0).await?, bed.cluster.join_token(0).await?, bed.cluster.join_token(0).await?];
    for token in &tokens {
        bed.add_machine(token)?;
    }
    // Whoever is first is node 2: the harness numbers machines by the order in which they are let in.
    for index in 1..=tokens.len() {
        bed.cluster.start_node(index)?;
    }
    bed.cluster.wait_joined_together(1..=tokens.len()).await?;
    run.say(&format!("round {round}: three let in at once at {} acked", load.oracle.acked()));
    kill_one(run, bed, &load, rng).await?;
    bed.cluster.wait_ready().await?;
    wait_copies(&bed.cluster).await?;
    load.more(rng.random_range(50..300)).await?;
    let token = bed.cluster.join_token(rng.random_range(0..bed.cluster.len())).await?;
    let last = bed.add_machine(&token)?;
    bed.cluster.start_node(last)?;
    bed.cluster.wait_joined_together(last..=last).await?;
    kill_one(run, bed, &load, rng).await?;
    bed.cluster.wait_ready().await?;
    run.say(&format!("round {round}: five nodes at {} acked", load.oracle.acked()));
    load.more(200).await?;
    load.finish(bed).await
}

/// Somebody dies in the middle of the steps and comes back.
async fn kill_one(run: &RowRun<'_>, bed: &mut Bed, load: &Load, rng: &mut StdRng) -> anyhow::Result<()> {
    load.more(rng.random_range(1..200)).await?;
    let victim = rng.random_range(0..bed.cluster.len());
    bed.cluster.kill9(victim)?;
    run.say(&format!("node {} killed at {} acked", victim + 1, load.oracle.acked()));
    bed.cluster.start_node(victim)
}

/// Waits until every shard has its copies, as the nodes that hold it say.
async fn wait_copies(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("every shard to have its copies", COPY_DEADLINE, async || {
        for node in cluster.running() {
            let report = cluster.status(node).await.map_err(|error| format!("{error:#}"))?;
            let short = report.groups.iter().find(|group| group.shard.is_some() && group.voters.len() != COPIES);
            if let Some(group) = short {
                return Err(format!("{:?} is on {:?}", group.shard, group.voters).into());
            }
        }
        Ok(())
    })
    .await
}
