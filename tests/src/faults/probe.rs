//! Questions to a cluster in the middle of a fault: does a node's read show everything that was acked before it, is the leadership
//! settled again, how long does an ack take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iris_client::{Client, NodeId, UserId};
use iris_protocol::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::oracle::{Fate, Logs, Oracle, Record};
use crate::verify::read_inbox;
use crate::wait::{wait_for, within};
use crate::workload::Message;

/// Reads a user's inbox through one node to what it says is the end, and fails if anything is missing that was acked before the
/// read began: such an answer is stale (C7). A node that does not answer in time is not stale; `None`.
///
/// # Errors
/// Something acked is missing.
pub async fn fresh_read(
    cluster: &Cluster,
    oracle: &Oracle,
    user: &UserId,
    node: usize,
    patience: Duration,
) -> anyhow::Result<Option<usize>> {
    let is_due = |record: &Record| record.intent.recipient == *user && matches!(record.fate, Fate::Acked(_));
    let due: Vec<Record> = oracle.records().into_iter().filter(is_due).collect();
    let due_len = due.len();
    let Ok(read) = within("a read", patience, read_inbox(cluster, user, node)).await else { return Ok(None) };
    let logs = Logs::from([(user.clone(), read?)]);
    let verdict = Oracle::from_records(due).judge(&logs);
    if verdict.lost > 0 {
        bail!(
            "node {} answered a read of {user}'s inbox without {} of {due_len} entries that were acked before it: {:?}",
            node + 1,
            verdict.lost,
            verdict.problems
        );
    }
    Ok(Some(due_len))
}

/// How long the leadership has to stay as it is to count as settled.
const SETTLED: Duration = Duration::from_secs(3);

/// Longest that may take.
const SETTLE_DEADLINE: Duration = Duration::from_secs(90);

type Leaders = BTreeMap<Option<ShardId>, NodeId>;

/// Waits until all running nodes have named the same leaders for a while; returns how long the last change came after `since`.
///
/// # Errors
/// The leadership does not settle.
pub async fn settled(cluster: &Cluster, since: Instant) -> anyhow::Result<Duration> {
    let mut known: Option<(Leaders, Instant)> = None;
    wait_for("the leadership to settle", SETTLE_DEADLINE, async || {
        let now = agreed(cluster).await;
        match (&known, now) {
            (_, Err(why)) => {
                known = None;
                Err(why.into())
            }
            (Some((leaders, at)), Ok(now)) if *leaders == now => match at.elapsed() >= SETTLED {
                true => Ok(at.saturating_duration_since(since)),
                false => Err("it changed a moment ago".into()),
            },
            (_, Ok(now)) => {
                known = Some((now, Instant::now()));
                Err("it changed right now".into())
            }
        }
    })
    .await
}

/// The leaders all running nodes agree on.
async fn agreed(cluster: &Cluster) -> Result<Leaders, String> {
    let mut agreed = Leaders::new();
    for node in cluster.running() {
        let report = cluster.status(node).await.map_err(|error| format!("{error:#}"))?;
        for group in report.groups {
            let leader = group.leader.ok_or_else(|| format!("node {} knows no leader", node + 1))?;
            if *agreed.entry(group.shard).or_insert(leader) != leader {
                return Err("two nodes name different leaders".to_owned());
            }
        }
    }
    Ok(agreed)
}

/// Acks of one sender that waits for each: when they came, and how long they took.
pub type Latencies = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// One sender that waits for each ack.
#[derive(Debug)]
pub struct Prober {
    /// What it has measured so far.
    pub latencies: Latencies,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Prober {
    /// Sends one message after the other until it is stopped.
    #[must_use]
    pub fn start(
        client: Client,
        user: UserId,
        oracle: Arc<Oracle>,
        messages: impl Iterator<Item = Message> + Send + 'static,
    ) -> Self {
        let latencies = Latencies::default();
        let (stop, stopped) = watch::channel(false);
        let measured = Arc::clone(&latencies);
        let task = tokio::spawn(async move {
            for message in messages {
                if *stopped.borrow() {
                    break;
                }
                let outgoing = oracle.intend(&user, 0, &message.recipient, message.body);
                let (key, began) = (outgoing.key, Instant::now());
                let outcome = client.send_and_wait(outgoing).await;
                oracle.settle(&user, key, &outcome);
                if outcome.is_ok() {
                    let now = Instant::now();
                    measured.lock().unwrap_or_else(PoisonError::into_inner).push((now, now - began));
                }
            }
        });
        Self { latencies, stop, task }
    }

    /// Stops it once its last message is answered.
    ///
    /// # Errors
    /// Not in time.
    pub async fn finish(self, deadline: Duration) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        within("the prober's last answer", deadline, self.task).await?.context("the prober panicked")
    }
}

/// The quantile of what was measured in a stretch of time; none if nothing was.
#[must_use]
pub fn quantile(latencies: &Latencies, from: Instant, until: Instant, quantile: f64) -> Option<Duration> {
    let measured = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let within = |at: &Instant| *at >= from && *at < until;
    let mut taken: Vec<Duration> = measured.iter().filter(|(at, _)| within(at)).map(|(_, took)| *took).collect();
    drop(measured);
    taken.sort();
    let last = taken.len().checked_sub(1)?;
    taken.get((last as f64 * quantile).round() as usize).copied()
}
