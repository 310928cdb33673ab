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
    let users = everybody(oracle);
    let held = held_by(cluster, &users).await?;
    for index in cluster.running() {
        cluster.stop(index).await?;
    }
    let mut known: Logs = Logs::new();
    let (mut worst, mut equal): (Option<Verdict>, bool) = (None, true);
    for (index, users) in held.into_iter().enumerate() {
        if users.is_empty() {
            continue;
        }
        let logs = read_files(cluster, index, &users)?;
        let its = oracle.records().into_iter().filter(|record| users.contains(&record.intent.recipient));
        let verdict = Oracle::from_records(its).judge(&logs);
        worst = Some(match worst {
            None => verdict,
            Some(worst) => worst.worst(verdict),
        });
        for (user, log) in logs {
            equal &= *known.entry(user).or_insert_with(|| log.clone()) == log;
        }
    }
    anyhow::ensure!(known.len() == users.len(), "{} of {} inboxes are on some node", known.len(), users.len());
    Ok(Replicas { verdict: worst.context("no node holds anything")?, equal })
}

/// Of each node, the users whose inboxes it should have: those of the shards it votes in.
async fn held_by(cluster: &Cluster, users: &BTreeSet<UserId>) -> anyhow::Result<Vec<BTreeSet<UserId>>> {
    let mut held = Vec::new();
    for index in 0..cluster.len() {
        let report = cluster.status(index).await?;
        let votes = |shard: ShardId| {
            let group = report.groups.iter().find(|group| group.shard == Some(shard));
            group.is_some_and(|group| group.voters.contains(&report.node))
        };
        held.push(users.iter().filter(|user| votes(cluster.shard_of(user))).cloned().collect());
    }
    Ok(held)
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
