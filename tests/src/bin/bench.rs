//! `make bench`: prints the figures of docs/performance.md as Markdown. Progress goes to stderr.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use iris_tests::bench::floors::{self, Floor};
use iris_tests::bench::hot_inbox;
use iris_tests::bench::links;
use iris_tests::bench::load::{Load, measure};
use iris_tests::bench::report::{Figures, Row, render};
use iris_tests::bench::restart::restarts;
use iris_tests::bench::{failover, latency::Latencies};
use iris_tests::cluster::{Cluster, Options};

/// What is measured: nodes do not matter to the disk's floor, so each load has one.
const LOADS: [(usize, usize); 3] = [(1, 1), (64, 1), (64, 16)];

/// Sizes of cluster.
const CLUSTERS: [usize; 2] = [1, 3];

/// Measures acks, latency, cost and failover beside floors of the same run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds each figure is measured.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// kill -9 of the leading node; 0 leaves failover out.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Messages in a node that is restarted; 0 leaves restarts out.
    #[arg(long, default_value_t = 1_000_000)]
    restart_entries: u64,
    /// Messages to one absent user; 0 leaves the hot inbox out.
    #[arg(long, default_value_t = 1_000_000)]
    hot_entries: u64,
    /// Only the hot inbox.
    #[arg(long)]
    only_hot_inbox: bool,
    /// Only the links between nodes, no cluster.
    #[arg(long)]
    only_links: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build: its figures mean nothing. Use `make bench`.");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(bench(&arguments))),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> anyhow::Result<String> {
    let (run, warm_up) = (Duration::from_secs(arguments.seconds), Duration::from_secs(arguments.warm_up));
    if arguments.only_hot_inbox {
        return Ok(hot_inbox::render(&Box::pin(hot_inbox::measure(arguments.hot_entries)).await?));
    }
    eprintln!("bench: a link between nodes under bulk");
    // Ten cases of thousands of round trips each: a quarter of the time is plenty.
    let links = Box::pin(links::measure(run / 4)).await?;
    if arguments.only_links {
        return Ok(links::render(&links));
    }
    let scratch = tempfile::Builder::new().prefix("iris-bench-").tempdir()?;
    eprintln!("bench: floor: loopback round trip");
    let round_trip = floors::round_trip(arguments.bytes, run).await?;
    let mut rows = Vec::new();
    for nodes in CLUSTERS {
        for (senders, depth) in LOADS {
            eprintln!("bench: {nodes} node(s), {senders} sender(s), {depth} in flight each");
            // The floor is measured right beside the figure: a shared disk's speed changes by the minute.
            let disk: Floor = floors::fsync(scratch.path(), senders, depth, arguments.bytes, run).await?;
            // A fresh cluster for each: no figure carries another's data.
            let mut cluster = Cluster::start(nodes).await?;
            let load = Load { senders, depth, bytes: arguments.bytes, warm_up, run };
            let measured = Box::pin(measure(&cluster, load)).await?;
            eprintln!("bench:   {:.0} acked/s, disk floor {:.0}/s", measured.per_s, disk.per_s);
            stop_all(&mut cluster).await?;
            rows.push(Row { nodes, load, measured, disk });
        }
    }
    let gaps = match arguments.kills {
        0 => None,
        kills => Some(kill_gaps(kills).await?),
    };
    let restarts = match arguments.restart_entries {
        0 => None,
        entries => {
            eprintln!("bench: restart of a node with {entries} messages");
            Some(Box::pin(restarts(entries)).await?)
        }
    };
    let hot_inbox = match arguments.hot_entries {
        0 => None,
        entries => {
            eprintln!("bench: a hot inbox with {entries} messages");
            Some(Box::pin(hot_inbox::measure(entries)).await?)
        }
    };
    Ok(render(&Figures { rows, round_trip, links, gaps, restarts, hot_inbox, machine: machine() }))
}

async fn kill_gaps(kills: usize) -> anyhow::Result<Latencies> {
    let mut cluster = Cluster::start_with(Options::nodes(3)).await?;
    let shown = |kill| eprintln!("bench: failover {kill} of {kills}");
    let gaps = Box::pin(failover::gaps(&mut cluster, kills, shown)).await?;
    stop_all(&mut cluster).await?;
    Ok(gaps)
}

async fn stop_all(cluster: &mut Cluster) -> anyhow::Result<()> {
    for index in cluster.running() {
        cluster.stop(index).await?;
    }
    Ok(())
}

/// What Linux says of the machine.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} cores, {model}; load average before the end {load}")
}
