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

/// Whether the nodes have borne what was done to them: a node that quarantined itself and came back by itself loses nothing, and
/// yet took healthy data for damaged, unless the row did damage them.
///
/// # Errors
/// One has not.
pub fn nothing_unexpected(bed: &Bed) -> anyhow::Result<()> {
    for index in 0..bed.cluster.len() {
        let node = bed.cluster.node(index);
        let names = std::fs::read_dir(&node.data).with_context(|| format!("listing {}", node.data.display()))?;
        let is_quarantine = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("quarantine");
        let quarantines =
            names.filter(|entry| entry.as_ref().is_ok_and(|entry| is_quarantine(&entry.file_name()))).count();
        anyhow::ensure!(
            quarantines == 0 || bed.damages,
            "node {} took its data for damaged\n{}",
            index + 1,
            node.log_tail()
        );
        let panicked = node.has_logged("panicked at") && !bed.fails_disks;
        anyhow::ensure!(!panicked, "node {} panicked\n{}", index + 1, node.log_tail());
    }
    Ok(())
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
