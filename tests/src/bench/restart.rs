//! How long a restart takes with much on the disk: a million inbox entries in the warm store and a gigabyte of log, of which
//! only what lies behind the last checkpoint is applied again. Beside it, as the floor, reading the log's files once.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::load::{Load, measure};
use crate::cluster::{Cluster, Options};
use crate::wait::wait_for;

/// Bytes of a message: a million of them fill a gigabyte of log.
const BYTES: usize = 1_024;

/// Longest the filling may take.
const FILL_DEADLINE: Duration = Duration::from_secs(300);

/// Longest a restart may take before the benchmark gives up.
const RESTART_DEADLINE: Duration = Duration::from_secs(300);

/// More than is written: the log is kept whole.
const LOG_BYTES_MAX: u64 = 8 << 30;

/// What the restarts came to.
#[derive(Debug, Clone, Copy)]
pub struct Restarts {
    /// Messages in inboxes.
    pub entries: u64,
    /// Bytes of the log's folder.
    pub log_bytes: u64,
    /// Bytes of the warm store's files.
    pub store_bytes: u64,
    /// Reading the log's files once, from the page cache as the restarts do.
    pub read: Duration,
    /// From the start of the process to the first answer that all shards are led, after SIGTERM.
    pub after_stop: Duration,
    /// The same after kill -9 under load.
    pub after_kill: Duration,
    /// Memory of the node right after that.
    pub rss_bytes: u64,
}

/// Fills one node with so many messages and restarts it twice.
///
/// # Errors
/// The node does not come back.
pub async fn restarts(entries: u64) -> anyhow::Result<Restarts> {
    let options = Options::nodes(1).with("store", "log_bytes_max", LOG_BYTES_MAX);
    let mut cluster = Cluster::start_with(options).await?;
    fill(&cluster, entries).await?;
    cluster.stop(0).await?;
    let node = cluster.node(0);
    let (log_bytes, store_bytes) = (node.disk_bytes("log"), node.disk_bytes("inboxes.db"));
    let log = node.data.join("log");
    let read = read_all(&log)?.min(read_all(&log)?);
    let after_stop = restart(&mut cluster).await?;
    // A little more, so that something lies behind the checkpoint when the node dies.
    let entries = fill(&cluster, entries + 10_000).await?;
    cluster.kill9(0)?;
    let after_kill = restart(&mut cluster).await?;
    let rss_bytes = cluster.usage(0)?.rss_bytes;
    cluster.stop(0).await?;
    Ok(Restarts { entries, log_bytes, store_bytes, read, after_stop, after_kill, rss_bytes })
}

async fn fill(cluster: &Cluster, entries: u64) -> anyhow::Result<u64> {
    let load = Load { senders: 64, depth: 64, bytes: BYTES, warm_up: Duration::ZERO, run: Duration::from_secs(2) };
    let give_up = Instant::now() + FILL_DEADLINE;
    loop {
        let sent = cluster.status(0).await?.counters.ack_sent;
        let left = entries.saturating_sub(sent);
        if left == 0 {
            return Ok(sent);
        }
        anyhow::ensure!(Instant::now() < give_up, "{sent} of {entries} messages in {FILL_DEADLINE:?}");
        Box::pin(measure(cluster, load)).await?;
    }
}

async fn restart(cluster: &mut Cluster) -> anyhow::Result<Duration> {
    let began = Instant::now();
    cluster.start_node(0)?;
    wait_for("the node to lead its shards", RESTART_DEADLINE, async || {
        let report = cluster.status(0).await.map_err(|error| format!("{error:#}"))?;
        match report.groups.iter().all(|group| group.leader.is_some()) && report.groups.len() > 1 {
            true => Ok(()),
            false => Err("some shard has no leader".into()),
        }
    })
    .await?;
    let took = began.elapsed();
    cluster.wait_ready().await?;
    Ok(took)
}

fn read_all(folder: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        std::io::copy(&mut std::fs::File::open(entry?.path())?, &mut std::io::sink())?;
    }
    Ok(began.elapsed())
}
