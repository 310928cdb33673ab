//! The judgement at the end of a row: every inbox read through every node, what live readers were shown, and every replica's
//! files, by the oracle's book.

use std::collections::HashMap;

use anyhow::Context;
use iris_client::UserId;

use super::bed::Bed;
use super::outcome::Tally;
use crate::oracle::{Logs, Oracle};
use crate::replicas::verify_replicas;
use crate::verify::{everybody, read_logs};

/// Reads every inbox through every running node and judges each reading. Returns how many entries each inbox has.
///
/// # Errors
/// The cluster does not get ready, or an inbox can't be read.
pub async fn through_every_node(
    bed: &mut Bed,
    oracle: &Oracle,
    tally: &mut Tally,
) -> anyhow::Result<HashMap<UserId, usize>> {
    bed.cluster.wait_ready().await?;
    let users = everybody(oracle);
    let mut first: Option<Logs> = None;
    for node in bed.cluster.running() {
        let logs = read_logs(&bed.cluster, &users, node).await?;
        tally.count(oracle.judge(&logs));
        if first.as_ref().is_some_and(|first| *first != logs) {
            tally.diverged = tally.diverged.max(1);
            tally.problems.push(format!("node {} shows other inboxes than the first", node + 1));
        }
        first.get_or_insert(logs);
    }
    let first = first.context("no node runs")?;
    Ok(first.into_iter().map(|(user, log)| (user, log.len())).collect())
}

/// Stops all nodes and judges the files of each.
///
/// # Errors
/// As [`verify_replicas`].
pub async fn at_every_replica(bed: &mut Bed, oracle: &Oracle, tally: &mut Tally) -> anyhow::Result<()> {
    let replicas = Box::pin(verify_replicas(&mut bed.cluster, oracle)).await?;
    tally.count(replicas.verdict);
    if !replicas.equal {
        tally.diverged = tally.diverged.max(1);
        tally.problems.push("the replicas' files differ".to_owned());
    }
    Ok(())
}
