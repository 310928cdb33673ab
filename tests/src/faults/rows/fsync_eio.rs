//! Row 8, FSYNC-EIO: the fsyncs of the node that leads most fail. It must end rather than ack anything more; the others go on.
//! Started again on the same machine, it must not take for stored what only the system's memory has: that is put to the test by
//! a majority which needs its word, and then a power cut of it.

use std::time::Duration;

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::cluster::Options;
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, NODES, with_each_engine};
use crate::faults::load::{Load, Size};
use crate::faults::outcome::Tally;
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::lossy_disk::Tear;

/// The row.
pub const ROW: Row = Row {
    name: "FSYNC-EIO",
    number: 8,
    about: "fsync fails on the leader, which is started again and then loses power",
    rounds: Rounds { short: 1, long: 20 },
    run,
};

/// Longest a node may go on after its fsyncs began to fail.
const END_DEADLINE: Duration = Duration::from_secs(30);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(with_each_engine(run, play))
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    let mut rng = run.rng("failures");
    let disks = Disks::mount(run.dir)?;
    let mut bed = Bed::start_with(run, options).await?;
    bed.fails_disks = true;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    for round in 1..=run.rounds {
        load.more(rng.random_range(100..300)).await?;
        let victim = bed.cluster.leading_most().await?;
        disks.of(victim).fail_sync(true);
        let status = bed.cluster.node_mut(victim).wait_ended(END_DEADLINE).await?;
        ensure!(!status.success(), "node {} took a failed fsync for a good end", victim + 1);
        load.more(rng.random_range(50..200)).await?;
        disks.of(victim).fail_sync(false);
        bed.cluster.start_node(victim)?;
        bed.cluster.wait_ready().await?;
        // One of the others goes: from here on nothing is committed without the victim's word.
        let others: Vec<usize> = (0..NODES).filter(|node| *node != victim).collect();
        let at = rng.random_range(0..others.len());
        let (gone, witness) = (others[at], others[1 - at]);
        bed.cluster.kill9(gone)?;
        load.more(rng.random_range(50..200)).await?;
        bed.cluster.kill9(victim)?;
        let cut = disks.of(victim).power_cut(Tear::Clean);
        // And the only other one that has it all goes, too: what the victim promised must be on its disk.
        bed.cluster.kill9(witness)?;
        bed.cluster.start_node(victim)?;
        bed.cluster.start_node(gone)?;
        bed.cluster.wait_ready().await?;
        load.more(rng.random_range(50..200)).await?;
        bed.cluster.heal().await?;
        run.say(&format!(
            "round {round}: node {} ended by itself, came back, and lost {} unsynced bytes at {} acked",
            victim + 1,
            cut.bytes,
            load.oracle.acked()
        ));
    }
    load.more(200).await?;
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(tally)
}
