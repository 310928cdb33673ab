//! The offline check of a data folder (`iris store check`): the store reads, this judges what only openraft's side can.
//! Changes nothing.

use std::path::Path;

use bytes::Bytes;
use iris_protocol::{ShardId, versioned};
use iris_store::check::{AreaReport, Checkpointed, GroupSpan, LogJudge, check_across, check_log, check_warm};
use iris_store::warm::ShardRow;
use iris_store::{GroupId, decode_batch};
use openraft::EntryPayload;

use super::log_store::{PURGED_KEY, VOTE_KEY};
use super::member::META_REGION;
use super::meta::MetaCommand;
use super::raft_types::{LogId, StoredMembership, Vote, decode, decode_entry};
use super::{meta_machine, shards};

/// Checks everything that is under `data`; an area each, in the order in which a start needs them. The caller sees to it that no
/// node runs there.
#[must_use]
pub fn check_store(data: &Path) -> Vec<AreaReport> {
    let (log, groups) = check_log(&data.join("log"), &Judge);
    let mut meta = AreaReport::new("meta");
    let applied = match meta_machine::checkpointed(&data.join("meta")) {
        Ok(applied) => {
            meta.counts = vec![("files", u64::from(applied.is_some()))];
            applied.map(|id| id.index)
        }
        Err(error) => {
            meta.wrong("the meta group's checkpoint", error);
            None
        }
    };
    let mut states = Vec::new();
    // Without its file nothing can be said of the meta group.
    if meta.is_fine() {
        states.push(Checkpointed { group: META_REGION, name: "the meta group".to_owned(), applied });
    }
    let (mut inboxes, rows) = check_warm(data);
    for (shard, row) in &rows {
        check_row(*shard, row, &mut inboxes);
    }
    // Where the rows can't be read, what they would say is unknown.
    if inboxes.is_fine() {
        states.extend(shards_of(&groups, rows.keys().copied()).into_iter().map(|shard| Checkpointed {
            group: shards::region(shard),
            name: format!("shard {shard}"),
            applied: rows.get(&shard).filter(|row| !row.mark.log_id.is_empty()).map(|row| row.mark.index),
        }));
    }
    // A log that can't be read agrees with nothing.
    let across =
        if log.is_fine() { check_across(&groups, &states) } else { AreaReport::new("checkpoints against log") };
    vec![log, meta, inboxes, across]
}

/// Every shard that has a log or a row.
fn shards_of(groups: &[GroupSpan], rows: impl Iterator<Item = ShardId>) -> Vec<ShardId> {
    let first = shards::region(ShardId(0)).0;
    let of_logs = groups.iter().filter_map(|span| span.group.0.checked_sub(first)?.try_into().ok().map(ShardId));
    let mut all: Vec<ShardId> = of_logs.chain(rows).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The mark's parts are openraft's.
fn check_row(shard: ShardId, row: &ShardRow, report: &mut AreaReport) {
    let mark = &row.mark;
    if !mark.log_id.is_empty() {
        match decode::<LogId>("log id", &mark.log_id) {
            Ok(id) if id.index == mark.index => {}
            Ok(id) => report.wrong(format!("shard {shard}: its mark"), format!("{} is not {}", mark.index, id.index)),
            Err(error) => report.wrong(format!("shard {shard}: its mark"), error),
        }
    }
    if !mark.membership.is_empty()
        && let Err(error) = decode::<StoredMembership>("membership", &mark.membership)
    {
        report.wrong(format!("shard {shard}: its membership"), error);
    }
}

/// Knows entries and values of the log.
struct Judge;

impl LogJudge for Judge {
    fn entry(&self, group: GroupId, index: u64, bytes: &Bytes) -> Result<(), String> {
        let entry = decode_entry(bytes).map_err(|error| error.to_string())?;
        if entry.log_id.index != index {
            return Err(format!("it says that it is entry {}", entry.log_id.index));
        }
        match entry.payload {
            EntryPayload::Normal(command) if group == META_REGION => {
                versioned::decode::<MetaCommand>(&command.0).map(drop).map_err(|error| error.to_string())
            }
            EntryPayload::Normal(command) => decode_batch(&command.0).map(drop).map_err(|error| error.to_string()),
            EntryPayload::Blank | EntryPayload::Membership(_) => Ok(()),
        }
    }

    fn keys(&self) -> &'static [&'static [u8]] {
        &[VOTE_KEY, PURGED_KEY]
    }

    fn value(&self, _group: GroupId, key: &[u8], bytes: &[u8]) -> Result<(), String> {
        let judged = if key == VOTE_KEY {
            decode::<Vote>("vote", bytes).map(drop)
        } else {
            decode::<LogId>("purged log id", bytes).map(drop)
        };
        judged.map_err(|error| error.to_string())
    }
}
