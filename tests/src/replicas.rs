//! What every replica has on its own disk: the nodes are stopped in order, and each one's files are read without them. The
//! oracle's last question (faults.md): every acked key at every replica, and the replicas equal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use iris_client::{EntryId, UserId};
use iris_protocol::ShardId;
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_store::warm::{made_with, open};
use iris_store::{PageLimits, WarmStore};

use crate::cluster::Cluster;
use crate::oracle::{Logs, Oracle, Seen, Verdict, hash};
use crate::verify::everybody;
use crate::wait::wait_for;

/// Longest a follower may take to apply what its leader has applied.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);

/// One read of a replica's file.
const PAGE: PageLimits = PageLimits { entries_max: 1_000, bytes_max: 8 * 1024 * 1024 };

/// What the replicas hold.
#[derive(Debug)]
pub struct Replicas {
    /// The worst of all replicas.
    pub verdict: Verdict,
    /// Whether all of them hold the same entries.
    pub equal: bool,
}

impl Replicas {
    /// Panics unless every replica has everything and all are the same.
    pub fn assert_clean(&self) {
        self.verdict.assert_clean();
        assert!(self.equal, "the replicas differ: {}", self.verdict);
    }
}

/// Starts what does not run, waits until every node has applied everything, stops them all by SIGTERM, and reads every
/// inbox from every node's files. Nothing may be sending.
///
/// # Errors
/// A node does not get there, does not stop with 0, or its files can't be read.
pub async fn verify_replicas(cluster: &mut Cluster, oracle: &Oracle) -> anyhow::Result<Replicas> {
    cluster.heal().await?;
    wait_caught_up(cluster).await?;
    for index in cluster.running() {
        cluster.stop(index).await?;
    }
    let users = everybody(oracle);
    let mut first: Option<(Verdict, Logs)> = None;
    let (mut worst, mut equal) = (Verdict::default(), true);
    for index in 0..cluster.len() {
        let logs = read_files(cluster, index, &users)?;
        let verdict = oracle.judge(&logs);
        match &first {
            None => {
                worst = verdict.clone();
                first = Some((verdict, logs));
            }
            Some((_, known)) => {
                equal &= *known == logs;
                worst = worst.worst(verdict);
            }
        }
    }
    Ok(Replicas { verdict: worst, equal })
}

/// Waits until all nodes have applied the same log to its end, in every group.
///
/// # Errors
/// Not within a minute.
pub async fn wait_caught_up(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("every replica to have applied everything", CATCH_UP_DEADLINE, async || {
        let mut applied: BTreeMap<Option<ShardId>, BTreeSet<u64>> = BTreeMap::new();
        for index in cluster.running() {
            let report = cluster.status(index).await.map_err(|error| format!("{error:#}"))?;
            for group in report.groups {
                applied.entry(group.shard).or_default().extend([group.applied_index, group.last_index]);
            }
        }
        match applied.iter().find(|(_, indices)| indices.len() != 1) {
            Some((shard, indices)) => Err(format!("{shard:?} is applied or written up to {indices:?}").into()),
            None => Ok(()),
        }
    })
    .await
}

fn read_files(cluster: &Cluster, index: usize, users: &BTreeSet<UserId>) -> anyhow::Result<Logs> {
    let data = &cluster.node(index).data;
    let engine = made_with(data)?.with_context(|| format!("{} has no store", data.display()))?;
    let warm = open(engine, data).with_context(|| format!("opening the store in {}", data.display()))?;
    let read = |user: &UserId| Ok((user.clone(), read_inbox(&*warm, cluster.shard_of(user), user)?));
    users.iter().map(read).collect()
}

fn read_inbox(warm: &dyn WarmStore, shard: ShardId, user: &UserId) -> anyhow::Result<Vec<Seen>> {
    let (mut log, mut after) = (Vec::new(), EntryId::ZERO);
    loop {
        let (entries, more) = warm.scan(shard, user, after, ENTRY_ID_MAX, PAGE)?;
        for entry in entries {
            after = entry.id;
            log.push(Seen { id: entry.id, key: entry.key, sender: entry.sender, hash: hash(&entry.body) });
        }
        if !more {
            return Ok(log);
        }
    }
}
