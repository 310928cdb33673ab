//! Reads inboxes from their beginning through fresh clients, for the oracle to judge.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use iris_client::{EntryId, Event, SubscribeFrom, UserId};

use crate::cluster::Cluster;
use crate::oracle::{Logs, Oracle, Seen, Verdict};
use crate::wait::within;

/// Inboxes read at a time.
const READERS: usize = 8;

/// Longest one inbox may take.
const READ_DEADLINE: Duration = Duration::from_secs(120);

/// Entries on their way to a reader.
const CREDIT: u32 = 1_024;

/// One inbox, from its beginning to what was committed when the node looked.
///
/// # Errors
/// The node can't be reached, or does not get to the end in time.
pub async fn read_inbox(cluster: &Cluster, user: &UserId, node: usize) -> anyhow::Result<Vec<Seen>> {
    let client = cluster.client_of_one(user, "oracle", node).await?;
    let mut inbox = client.subscribe(SubscribeFrom::After(EntryId::ZERO), CREDIT)?;
    let mut log = Vec::new();
    let read = async {
        while let Event::Entry(entry) = inbox.next().await? {
            log.push(Seen::from(&entry));
        }
        anyhow::Ok(())
    };
    let what = format!("reading {user}'s inbox through node {}", node + 1);
    let outcome = within(&what, READ_DEADLINE, read).await;
    outcome.with_context(|| format!("the client: {:?}", client.stats()))??;
    Ok(log)
}

/// Several inboxes through one node.
///
/// # Errors
/// As [`read_inbox`].
pub async fn read_logs(cluster: &Cluster, users: &BTreeSet<UserId>, node: usize) -> anyhow::Result<Logs> {
    let reads =
        users.iter().map(|user| async move { anyhow::Ok((user.clone(), read_inbox(cluster, user, node).await?)) });
    stream::iter(reads).buffer_unordered(READERS).try_collect().await
}

/// Everybody who sent or was sent something: a stray entry would be in one of their inboxes.
#[must_use]
pub fn everybody(oracle: &Oracle) -> BTreeSet<UserId> {
    let records = oracle.records();
    records.into_iter().flat_map(|record| [record.intent.sender, record.intent.recipient]).collect()
}

/// Waits until the cluster serves, reads every inbox through every running node, and judges each reading.
///
/// # Errors
/// The cluster does not get ready, or an inbox can't be read.
pub async fn verify(cluster: &mut Cluster, oracle: &Oracle) -> anyhow::Result<Verdict> {
    cluster.wait_ready().await?;
    let users = everybody(oracle);
    let mut worst: Option<Verdict> = None;
    for node in cluster.running() {
        let verdict = oracle.judge(&read_logs(cluster, &users, node).await?);
        worst = Some(match worst {
            Some(worst) => worst.worst(verdict),
            None => verdict,
        });
    }
    worst.context("no node runs")
}
