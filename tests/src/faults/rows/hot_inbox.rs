//! Row 19 (its second half), HOT-INBOX: very many messages to one user who is not there, who then comes and reads them, while
//! everybody else goes on (A11). Every node's memory stays within what a node has (E8); everything is shown in order, through
//! every node. What the others notice is a figure of the benchmarks.

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use iris_client::UserId;

use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::hot_inbox::{Flood, flood, read_all};

/// What a node does its work within (E8).
const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The row.
pub const ROW: Row = Row {
    name: "HOT-INBOX",
    number: 19,
    about: "very many messages to one absent user, who then comes",
    rounds: Rounds { short: 1, long: 1 },
    run,
};

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size { per_s: 100, ..Size::default() }).await?;
    load.more(50).await?;
    let hot = UserId::new("hot")?;
    let size = Flood { messages: run.choose(20_000, 1_000_000), senders: 8, depth: 64, bytes: 256 };
    for round in 0..u64::from(run.rounds) {
        ensure!(round == 0, "one round: the flood's numbers begin anew with each");
        let took = flood(&bed.cluster, std::slice::from_ref(&hot), size).await?;
        run.say(&format!("{} messages to one user in {} s", size.total(), took.as_secs()));
    }
    load.more(50).await?;
    let (mut lost, mut doubled, mut unordered, mut peak) = (0, 0, 0, 0);
    for node in 0..bed.cluster.len() {
        let (shown, took) = read_all(&bed.cluster, &hot, &format!("device-{node}"), node, size).await?;
        run.say(&format!("{} of them read through node {} in {} ms", shown.entries, node + 1, took.as_millis()));
        (lost, doubled) = (lost.max(shown.lost), doubled.max(shown.doubled));
        unordered = unordered.max(shown.unordered);
    }
    load.more(50).await?;
    for node in 0..bed.cluster.len() {
        peak = peak.max(bed.cluster.usage(node)?.rss_peak_bytes);
    }
    ensure!(peak <= MEMORY_BYTES_MAX, "a node used {} MiB", peak >> 20);
    let mut tally = load.finish(&mut bed).await?;
    let count = |figure: u64| usize::try_from(figure).unwrap_or(usize::MAX);
    tally.rounds = run.rounds;
    tally.committed += count(size.total());
    tally.lost += count(lost);
    tally.duplicated += count(doubled);
    tally.reordered += count(unordered);
    Ok(Outcome::Ran(tally.with("rss_peak_mib", peak >> 20).with("on", bed.ground.word())))
}
