//! How long a kill -9 is felt: per kill, the time until every shard has acked a message again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use iris_client::{Outgoing, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::latency::Latencies;
use crate::cluster::Cluster;
use crate::wait::wait_for;

/// Longest a failover may take before the benchmark gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Users tried until one is found for every shard.
const NAMES_MAX: usize = 10_000;

/// When each lane was acked last.
type LastAcks = Arc<Mutex<Vec<Instant>>>;

/// Kills the node that leads most, again and again, under a sender for each shard.
///
/// # Errors
/// The cluster does not come back.
pub async fn gaps(cluster: &mut Cluster, kills: usize, mut progress: impl FnMut(usize)) -> anyhow::Result<Latencies> {
    let shards = cluster.leaders().await?.len();
    let recipients = one_user_per_shard(cluster, shards)?;
    let acks: LastAcks = Arc::new(Mutex::new(vec![Instant::now(); recipients.len()]));
    let stop = watch::Sender::new(false);
    let mut lanes = JoinSet::new();
    for (lane, recipient) in recipients.into_iter().enumerate() {
        let client = cluster.client_at(&UserId::new(format!("prober-{lane}"))?, "bench", lane % cluster.len()).await?;
        let (acks, stop) = (acks.clone(), stop.subscribe());
        lanes.spawn(async move {
            while !*stop.borrow() {
                client.send_and_wait(Outgoing::new(recipient.clone(), "probe")).await?;
                acks.lock().unwrap_or_else(PoisonError::into_inner)[lane] = Instant::now();
            }
            anyhow::Ok(())
        });
    }
    let mut gaps = Latencies::new()?;
    for kill in 0..kills {
        let victim = cluster.leading_most().await?;
        let killed = Instant::now();
        cluster.kill9(victim)?;
        // An ack that was on its way when the node died says nothing: every lane must be acked twice since.
        let first = acked_since(&acks, killed).await?;
        let second = acked_since(&acks, first).await?;
        gaps.record(first.min(second) - killed);
        cluster.heal().await?;
        progress(kill + 1);
    }
    stop.send_replace(true);
    while let Some(lane) = lanes.join_next().await {
        lane.context("a prober panicked")??;
    }
    Ok(gaps)
}

/// Waits until every lane was acked after `since`, and returns the last lane's time.
async fn acked_since(acks: &LastAcks, since: Instant) -> anyhow::Result<Instant> {
    let mut first_after: Vec<Option<Instant>> = Vec::new();
    wait_for("every shard to ack again", DEADLINE, async || {
        let acks = acks.lock().unwrap_or_else(PoisonError::into_inner);
        first_after.resize(acks.len(), None);
        for (first, last) in first_after.iter_mut().zip(acks.iter()) {
            if first.is_none() && *last > since {
                *first = Some(*last);
            }
        }
        let known: Option<Vec<Instant>> = first_after.iter().copied().collect();
        known.and_then(|times| times.into_iter().max()).ok_or_else(|| "not every shard yet".into())
    })
    .await
}

fn one_user_per_shard(cluster: &Cluster, shards: usize) -> anyhow::Result<Vec<UserId>> {
    let mut found = std::collections::BTreeMap::new();
    for number in 0..NAMES_MAX {
        let user = UserId::new(format!("probe-{number}"))?;
        found.entry(cluster.shard_of(&user)).or_insert(user);
        if found.len() == shards {
            break;
        }
    }
    anyhow::ensure!(found.len() == shards, "no user was found for some shard");
    Ok(found.into_values().collect())
}
