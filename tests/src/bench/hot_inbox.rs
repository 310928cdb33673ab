//! A hot inbox (A11): what one that gets a million messages costs the other users of its shard, beside the same number of messages
//! to many inboxes of that shard, and what it costs the nodes in memory.

use std::fmt::Write as _;
use std::time::Duration;

use iris_client::UserId;

use super::latency::Latencies;
use crate::cluster::{Cluster, Options};
use crate::hot_inbox::{Flood, beside, flood, neighbours, read_all};

/// Inboxes that the same messages go to in the comparison.
const SPREAD: usize = 256;

/// Of these the spread's share is read in the comparison: enough for percentiles.
const READ_OF_SPREAD: usize = 64;

/// The others.
const OTHERS: usize = 16;

/// How long the others are measured alone.
const ALONE: Duration = Duration::from_secs(5);

/// One phase.
#[derive(Debug, Clone)]
pub struct Phase {
    /// What went on.
    pub what: &'static str,
    /// Messages a second.
    pub per_s: f64,
    /// From `send` to the receipt, for the other users of the shard.
    pub others: Latencies,
    /// Most memory any node had up to then, bytes.
    pub rss_peak_bytes: u64,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct HotInbox {
    /// Messages to the one user.
    pub entries: u64,
    /// In order: the others alone, spread written, spread read, hot written, hot read.
    pub phases: Vec<Phase>,
}

/// Measures on three nodes.
///
/// # Errors
/// A message is not acked or not shown, or shown twice or out of order.
pub async fn measure(entries: u64) -> anyhow::Result<HotInbox> {
    let mut cluster = Cluster::start_with(Options::nodes(3)).await?;
    let hot = UserId::new("hot")?;
    let size = Flood { messages: entries, senders: 16, depth: 64, bytes: 256 };
    let near = neighbours(&cluster, &hot, SPREAD + OTHERS)?;
    let (others, spread) = near.split_at(OTHERS);
    let mut phases = Vec::new();
    let alone = async {
        crate::wait::let_pass(ALONE).await;
        Ok(())
    };
    let (_, latencies) = beside(&cluster, others, alone).await?;
    phases.push(phase(&cluster, "nothing else", 0.0, latencies)?);
    let per_s = |took: Duration, count: u64| count as f64 / took.as_secs_f64();
    let (took, latencies) = beside(&cluster, others, flood(&cluster, spread, size)).await?;
    phases.push(phase(&cluster, "written to 256 inboxes", per_s(took, size.total()), latencies)?);
    let reading = async {
        let mut read = (0, Duration::ZERO);
        for user in spread.iter().take(READ_OF_SPREAD) {
            // Each sender's numbers have gaps here: only how fast it goes is looked at.
            let (shown, took) = read_all(&cluster, user, "late", 0, size).await?;
            read = (read.0 + shown.entries, read.1 + took);
        }
        Ok(read)
    };
    let ((count, took), latencies) = beside(&cluster, others, reading).await?;
    phases.push(phase(&cluster, "read from 64 of them", per_s(took, count), latencies)?);
    let (took, latencies) = beside(&cluster, others, flood(&cluster, std::slice::from_ref(&hot), size)).await?;
    phases.push(phase(&cluster, "written to one inbox", per_s(took, size.total()), latencies)?);
    let ((shown, took), latencies) = beside(&cluster, others, read_all(&cluster, &hot, "late", 0, size)).await?;
    let whole = shown.entries == size.total() && shown.lost + shown.doubled + shown.unordered == 0;
    anyhow::ensure!(whole, "the reader was not shown what was sent: {} entries, {} lost", shown.entries, shown.lost);
    phases.push(phase(&cluster, "read from it", per_s(took, shown.entries), latencies)?);
    for index in cluster.running() {
        cluster.stop(index).await?;
    }
    Ok(HotInbox { entries: size.total(), phases })
}

fn phase(cluster: &Cluster, what: &'static str, per_s: f64, others: Latencies) -> anyhow::Result<Phase> {
    let mut rss_peak_bytes = 0;
    for index in cluster.running() {
        rss_peak_bytes = rss_peak_bytes.max(cluster.usage(index)?.rss_peak_bytes);
    }
    eprintln!(
        "bench:   {what}: {per_s:.0}/s, others p50 {:.2} ms p99 {:.1} ms, {} MiB",
        others.percentile_ms(50.0),
        others.percentile_ms(99.0),
        rss_peak_bytes >> 20
    );
    Ok(Phase { what, per_s, others, rss_peak_bytes })
}

/// As Markdown.
#[must_use]
pub fn render(hot: &HotInbox) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        out,
        "\n## Hot inbox\n\n{} messages of 256 bytes to one user who is not there and then comes, beside the same number to 256 users of the same shard; \
         three nodes, 16 senders. Others: one message after the other to users of that shard, through each node. The ratio is to the same work spread \
         over many inboxes. Memory is the most any node had up to then.\n\n\
         | meanwhile | messages/s | others p50 ms | ratio | others p99 ms | ratio | peak MiB |\n|---|---|---|---|---|---|---|\n",
        hot.entries
    );
    for (at, phase) in hot.phases.iter().enumerate() {
        let beside = at.checked_sub(2).filter(|_| at >= 3).and_then(|before| hot.phases.get(before));
        let figure = |percent: f64| {
            let ms = phase.others.percentile_ms(percent);
            let ratio = beside.map(|other| format!("{:.1}", ms / other.others.percentile_ms(percent).max(0.001)));
            format!("{ms:.2} | {}", ratio.unwrap_or_default())
        };
        let (p50, p99, mib) = (figure(50.0), figure(99.0), phase.rss_peak_bytes >> 20);
        let _ = writeln!(out, "| {} | {:.0} | {p50} | {p99} | {mib} |", phase.what, phase.per_s);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_inbox_is_set_beside_the_same_work_spread() {
        let phase = |what, ms| {
            let mut others = Latencies::new().unwrap();
            others.record(Duration::from_millis(ms));
            Phase { what, per_s: 1_000.0, others, rss_peak_bytes: 100 << 20 }
        };
        let phases = vec![phase("a", 1), phase("b", 10), phase("c", 20), phase("d", 15), phase("e", 30)];
        let text = render(&HotInbox { entries: 5, phases });
        assert!(text.contains("| d | 1000 | 15.0") && text.contains("| 1.5 | 15.0"), "{text}");
        assert!(text.lines().last().unwrap().contains("| 1.5 |"), "{text}");
        assert!(text.contains("| a | 1000 | 1.00 |  | 1.00 |  | 100 |"), "{text}");
    }
}
