//! The report in Markdown: every figure beside its floor. Pure.

use std::fmt::Write as _;

use super::floors::Floor;
use super::hot_inbox::{self, HotInbox};
use super::latency::Latencies;
use super::links::{self, LinkRow};
use super::load::{Load, Measured};
use super::restart::Restarts;

/// One measured scenario.
#[derive(Debug, Clone)]
pub struct Row {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// The load.
    pub load: Load,
    /// What the cluster did.
    pub measured: Measured,
    /// What the disk alone does with the same concurrency.
    pub disk: Floor,
}

/// Everything a run measured.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Scenarios.
    pub rows: Vec<Row>,
    /// Loopback round trip.
    pub round_trip: Floor,
    /// Links under bulk.
    pub links: Vec<LinkRow>,
    /// One gap per kill.
    pub gaps: Option<Latencies>,
    /// Restarts of a full node.
    pub restarts: Option<Restarts>,
    /// One inbox that gets more than all others.
    pub hot_inbox: Option<HotInbox>,
    /// What machine this is.
    pub machine: String,
}

/// Renders the report.
#[must_use]
pub fn render(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        out,
        "# Measured\n\nMachine: {}. Floors are from the same run on the same disk: *disk* is as many writers appending the same bytes to a plain file, \
         grouped by one thread into one write and one fdatasync; *round trip* is the same bytes over loopback TCP and back.\n",
        figures.machine
    );
    throughput(&mut out, figures);
    cost(&mut out, figures);
    time(&mut out, figures);
    out.push_str(&links::render(&figures.links));
    if let Some(gaps) = &figures.gaps {
        let _ = write!(
            out,
            "\n## Failover\n\n{} kill -9 of the node that led most shards, three nodes, one sender per shard; from the kill until every shard had acked \
             again.\n\n| p50 ms | p99 ms | max ms |\n|---|---|---|\n| {:.0} | {:.0} | {:.0} |\n",
            gaps.count(),
            gaps.percentile_ms(50.0),
            gaps.percentile_ms(99.0),
            gaps.max_ms()
        );
    }
    if let Some(restarts) = &figures.restarts {
        restart(&mut out, restarts);
    }
    if let Some(hot) = &figures.hot_inbox {
        out.push_str(&hot_inbox::render(hot));
    }
    out
}

fn restart(out: &mut String, restarts: &Restarts) {
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    let floor_ms = restarts.read.as_secs_f64() * 1_000.0;
    let _ = write!(
        out,
        "\n## Restart\n\nOne node with {} messages of 1 KiB in its inboxes, {:.0} MiB of log kept behind the checkpoints and {:.0} MiB in the warm store; from \
         the start of the process until all its shards are led. The floor is reading the log's files once. Memory right afterwards: {:.0} MiB.\n\n\
         | after | ms | floor ms | ratio |\n|---|---|---|---|\n",
        restarts.entries,
        mib(restarts.log_bytes),
        mib(restarts.store_bytes),
        mib(restarts.rss_bytes),
    );
    for (after, took) in [("SIGTERM", restarts.after_stop), ("kill -9", restarts.after_kill)] {
        let ms = took.as_secs_f64() * 1_000.0;
        let _ = writeln!(out, "| {after} | {ms:.0} | {floor_ms:.0} | {:.1} |", ms / floor_ms.max(0.001));
    }
}

fn name(row: &Row) -> String {
    format!("{} | {} | {}", row.nodes, row.load.senders, row.load.depth)
}

fn throughput(out: &mut String, figures: &Figures) {
    let _ = write!(
        out,
        "\n## Throughput and latency\n\n| nodes | senders | in flight each | acked/s | disk floor/s | ratio | ack p50 ms | ack p99 ms | floor p50 ms | floor p99 ms | p50 ratio | p99 ratio |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for row in &figures.rows {
        let (p50, p99) = (row.measured.latencies.percentile_ms(50.0), row.measured.latencies.percentile_ms(99.0));
        let (floor_p50, floor_p99) = floor_ms(figures, row);
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.2} | {p50:.2} | {p99:.2} | {floor_p50:.2} | {floor_p99:.2} | {:.1} | {:.1} |",
            name(row),
            row.measured.per_s,
            row.disk.per_s,
            row.measured.per_s / row.disk.per_s.max(1.0),
            p50 / floor_p50.max(0.001),
            p99 / floor_p99.max(0.001),
        );
    }
    let _ = writeln!(out, "\nThe latency floor is one group-committed fsync plus one loopback round trip.");
}

/// One fsync and one round trip, at the median and at the 99th percentile.
fn floor_ms(figures: &Figures, row: &Row) -> (f64, f64) {
    let sum = |percent| row.disk.latencies.percentile_ms(percent) + figures.round_trip.latencies.percentile_ms(percent);
    (sum(50.0), sum(99.0))
}

fn cost(out: &mut String, figures: &Figures) {
    let _ = write!(
        out,
        "\n## Cost per message, all nodes together\n\n| nodes | senders | in flight each | fsyncs/message | disk floor fsyncs | CPU us/message | messages per Raft entry | cores used | peak RSS MiB |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for row in &figures.rows {
        let measured = &row.measured;
        let _ = writeln!(
            out,
            "| {} | {:.3} | {:.3} | {:.1} | {:.1} | {:.2} | {:.0} |",
            name(row),
            measured.fsyncs_per_message,
            row.disk.fsyncs_per_append,
            measured.cpu_us_per_message,
            measured.batch,
            measured.cores,
            measured.rss_peak_bytes as f64 / (1024.0 * 1024.0),
        );
    }
}

fn time(out: &mut String, figures: &Figures) {
    let _ = write!(
        out,
        "\n## Where the time of a median ack goes\n\n| nodes | senders | in flight each | ack ms | fsync (floor) | round trip (floor) | the rest: queues, Raft, CPU |\n|---|---|---|---|---|---|---|\n"
    );
    for row in &figures.rows {
        let ack = row.measured.latencies.percentile_ms(50.0);
        let (disk, trip) = (row.disk.latencies.percentile_ms(50.0), figures.round_trip.latencies.percentile_ms(50.0));
        let percent = |part: f64| 100.0 * part / ack.max(0.001);
        let rest = (ack - disk - trip).max(0.0);
        let _ = writeln!(
            out,
            "| {} | {ack:.2} | {disk:.2} ms, {:.0} % | {trip:.2} ms, {:.0} % | {rest:.2} ms, {:.0} % |",
            name(row),
            percent(disk),
            percent(trip),
            percent(rest),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_row_has_its_ratio_and_every_table_its_columns() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_millis(3));
        let load = Load { senders: 64, depth: 1, bytes: 256, warm_up: Duration::ZERO, run: Duration::from_secs(1) };
        let measured = Measured {
            per_s: 500.0,
            latencies: latencies.clone(),
            fsyncs_per_message: 0.25,
            cpu_us_per_message: 20.0,
            batch: 12.0,
            cores: 1.5,
            rss_peak_bytes: 64 << 20,
        };
        let floor = Floor { per_s: 1_000.0, latencies: latencies.clone(), fsyncs_per_append: 1.0 };
        let rows = vec![Row { nodes: 3, load, measured, disk: floor.clone() }];
        let machine = "a test".to_owned();
        let restarts = Restarts {
            entries: 1_000_000,
            log_bytes: 1 << 30,
            store_bytes: 1 << 30,
            read: Duration::from_millis(500),
            after_stop: Duration::from_millis(1_500),
            after_kill: Duration::from_millis(2_000),
            rss_bytes: 1 << 26,
        };
        let restarts = Some(restarts);
        let text = render(&Figures {
            rows,
            round_trip: floor,
            links: Vec::new(),
            gaps: Some(latencies),
            restarts,
            hot_inbox: None,
            machine,
        });
        assert!(text.contains("| kill -9 | 2000 | 500 | 4.0 |"), "{text}");
        assert!(text.contains("| 3 | 64 | 1 | 500 | 1000 | 0.50 |"), "{text}");
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let columns: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
            assert!(columns.iter().all(|count| *count == columns[0]), "{table}");
        }
    }
}
