//! Senders as fast as they can against a cluster: acks a second, time to an ack, and what the nodes say it cost them.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iris_client::{Client, Outgoing, UserId};
use iris_protocol::admin::Counters;
use tokio::task::JoinSet;

use super::latency::Latencies;
use crate::cluster::Cluster;
use crate::workload::users;

/// Who receives: spread over all shards.
const RECIPIENTS: usize = 256;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Senders, each with a connection and a user of its own.
    pub senders: usize,
    /// Unanswered messages each has.
    pub depth: usize,
    /// Bytes of a message's body.
    pub bytes: usize,
    /// Before measuring.
    pub warm_up: Duration,
    /// Measured.
    pub run: Duration,
}

/// What a load came to.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Acks a second.
    pub per_s: f64,
    /// From `send` to the receipt.
    pub latencies: Latencies,
    /// Fsyncs of all nodes' logs, per message.
    pub fsyncs_per_message: f64,
    /// CPU of all nodes, per message, in microseconds.
    pub cpu_us_per_message: f64,
    /// Messages in one Raft entry.
    pub batch: f64,
    /// Cores the nodes used together.
    pub cores: f64,
    /// Most memory any node had, bytes.
    pub rss_peak_bytes: u64,
}

/// Puts a load on a cluster.
///
/// # Errors
/// A message is not acked, or a node does not say what it counted.
pub async fn measure(cluster: &Cluster, load: Load) -> anyhow::Result<Measured> {
    let recipients = users("reader-", RECIPIENTS)?;
    let start = Instant::now();
    let from = start + load.warm_up;
    let until = from + load.run;
    let mut senders = JoinSet::new();
    for (at, user) in users("bench-", load.senders)?.into_iter().enumerate() {
        let client = cluster.client_at(&user, "bench", at % cluster.len()).await?;
        senders.spawn(Box::pin(send(client, recipients.clone(), at, load, from, until)));
    }
    tokio::time::sleep_until(from.into()).await;
    let before = counters(cluster).await?;
    tokio::time::sleep_until(until.into()).await;
    let after = counters(cluster).await?;
    let mut latencies = Latencies::new()?;
    while let Some(sender) = senders.join_next().await {
        latencies.add(&sender??)?;
    }
    let acked = latencies.count() as f64;
    let spent = |count: fn(&Counters) -> u64| {
        after.iter().map(count).sum::<u64>().saturating_sub(before.iter().map(count).sum())
    };
    let cpu_us = spent(|counters| counters.cpu_us) as f64;
    let batches = spent(|counters| counters.batches).max(1) as f64;
    let peaks = cluster.running().into_iter().map(|index| cluster.usage(index));
    let peaks = peaks.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Measured {
        per_s: acked / load.run.as_secs_f64(),
        latencies,
        fsyncs_per_message: spent(|counters| counters.fsyncs) as f64 / acked.max(1.0),
        cpu_us_per_message: cpu_us / acked.max(1.0),
        batch: spent(|counters| counters.batched_messages) as f64 / batches,
        cores: cpu_us / load.run.as_micros() as f64,
        rss_peak_bytes: peaks.iter().map(|usage| usage.rss_peak_bytes).max().unwrap_or(0),
    })
}

async fn counters(cluster: &Cluster) -> anyhow::Result<Vec<Counters>> {
    let mut all = Vec::new();
    for index in cluster.running() {
        all.push(cluster.status(index).await?.counters);
    }
    Ok(all)
}

/// Sends until `until`; counts what was acked between `from` and `until`.
async fn send(
    client: Client,
    recipients: Vec<UserId>,
    first: usize,
    load: Load,
    from: Instant,
    until: Instant,
) -> anyhow::Result<Latencies> {
    client.connected().await?;
    let body = Bytes::from(vec![0x5a; load.bytes]);
    let (mut latencies, mut answers, mut sent) = (Latencies::new()?, FuturesUnordered::new(), first);
    loop {
        while answers.len() < load.depth && Instant::now() < until {
            let recipient = recipients[sent * 31 % recipients.len()].clone();
            sent += 1;
            let began = Instant::now();
            let pending = client.send(Outgoing::new(recipient, body.clone())).await?;
            answers.push(async move { pending.await.map(|_| began) });
        }
        let Some(answer) = answers.next().await else { return Ok(latencies) };
        let began = answer.context("a message of the benchmark was not acked")?;
        let now = Instant::now();
        if now >= from && now < until {
            latencies.record(now - began);
        }
    }
}
