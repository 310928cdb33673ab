//! The offline check of what a node has on disk: checksums, encodings, and whether the parts fit each other. Changes nothing.
//! Knows the log and the warm tier; what a log entry or a value says is judged by the caller.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use iris_protocol::vnode::vnode_of;
use iris_protocol::{EntryId, ShardId, UserId, VnodeId};

use crate::log::check as check_records;
use crate::state::BucketRow;
use crate::warm::{BucketId, Finding, ShardRow, Verified, WarmRecord, verify_offline};

pub use crate::log::{GroupSpan, LogJudge};

/// Findings told of one area: the first of them say what there is to know.
const FINDINGS_MAX: usize = 20;

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AreaReport {
    /// What it is called.
    pub area: &'static str,
    /// How much of what was read.
    pub counts: Vec<(&'static str, u64)>,
    /// What is wrong; only the first of very many.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
    /// What is unusual and may be right.
    pub notes: Vec<Finding>,
}

impl AreaReport {
    /// A report without findings yet.
    #[must_use]
    pub fn new(area: &'static str) -> Self {
        Self { area, ..Self::default() }
    }

    /// Notes something wrong.
    pub fn wrong(&mut self, what: impl Into<String>, why: impl std::fmt::Display) {
        self.add(Finding { what: what.into(), why: why.to_string() });
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Where a state that was checkpointed stands in its group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpointed {
    /// The group.
    pub group: crate::GroupId,
    /// What people call it.
    pub name: String,
    /// The index applied; `None` if nothing was.
    pub applied: Option<u64>,
}

/// Reads the whole log.
#[must_use]
pub fn check_log(dir: &Path, judge: &dyn LogJudge) -> (AreaReport, Vec<GroupSpan>) {
    let mut report = AreaReport::new("log");
    if !dir.is_dir() {
        report.wrong("the Raft log", format!("{} is not there", dir.display()));
        return (report, Vec::new());
    }
    match check_records(dir, judge, &mut |finding| report.add(finding)) {
        Ok(found) => {
            report.counts =
                vec![("groups", found.groups.len() as u64), ("entries", found.entries), ("values", found.values)];
            (report, found.groups)
        }
        Err(error) => {
            report.wrong("the Raft log", error);
            (report, Vec::new())
        }
    }
}

/// Reads every row of the warm tier, and what each shard's checkpoint says.
#[must_use]
pub fn check_warm(data: &Path) -> (AreaReport, BTreeMap<ShardId, ShardRow>) {
    let mut look = WarmLook { report: AreaReport::new("inboxes"), ..WarmLook::default() };
    match verify_offline(data, &mut |verified| look.at(verified)) {
        Ok(Some(_)) => {}
        Ok(None) => look.report.wrong("the store of inboxes", "no node has made one here"),
        Err(error) => look.report.wrong("the store of inboxes", &error),
    }
    let WarmLook { mut report, shards, entries, cursors, keys, .. } = look;
    report.counts =
        vec![("shards", shards.len() as u64), ("entries", entries), ("cursors", cursors), ("dedup keys", keys)];
    (report, shards)
}

/// What is known while the rows of the warm tier go by.
#[derive(Default)]
struct WarmLook {
    report: AreaReport,
    shards: BTreeMap<ShardId, ShardRow>,
    shard: Option<ShardId>,
    buckets: HashMap<BucketId, BucketRow>,
    /// The inbox last seen and its last entry.
    inbox: Option<(VnodeId, UserId, EntryId)>,
    last_stamp: EntryId,
    entries: u64,
    cursors: u64,
    keys: u64,
}

impl WarmLook {
    fn at(&mut self, verified: Verified) {
        match verified {
            Verified::Shard(shard, row) => {
                (self.shard, self.inbox, self.last_stamp) = (Some(shard), None, row.last_stamp);
                self.buckets = row.dedup.buckets.iter().map(|bucket| (bucket.id, bucket.clone())).collect();
                self.shards.insert(shard, row);
            }
            Verified::Record { vnode, record: WarmRecord::Entry { user, entry } } => {
                self.entries += 1;
                self.entry(vnode, user, entry.id);
            }
            Verified::Record { record: WarmRecord::Cursor(row), .. } => {
                self.cursors += 1;
                if row.cursor > self.last_stamp {
                    let what = format!("the cursor of {} on {}", row.user, row.device);
                    self.wrong(what, format!("{} is beyond the shard's last id {}", row.cursor, self.last_stamp));
                }
            }
            Verified::Record { record: WarmRecord::Dedup { bucket, key }, .. } => {
                self.keys += 1;
                let fits = self.buckets.get(&bucket).map(|row| (row.first..=row.last).contains(&key.id));
                let why = match fits {
                    Some(true) => return,
                    Some(false) => "it is outside of its bucket's range",
                    None => "the shard's row doesn't know its bucket",
                };
                self.wrong(format!("the dedup key of entry {} in bucket {bucket}", key.id), why);
            }
            Verified::Damaged(finding) => self.report.add(finding),
        }
    }

    fn entry(&mut self, vnode: Option<VnodeId>, user: UserId, id: EntryId) {
        let right = vnode_of(&user);
        if vnode.is_some_and(|vnode| vnode != right) {
            self.wrong(format!("entry {id} of {user}"), format!("it lies in another vnode than {right}"));
        }
        if id > self.last_stamp {
            let why = format!("it is beyond the shard's last id {}", self.last_stamp);
            self.wrong(format!("entry {id} of {user}"), why);
        }
        let before = self.inbox.replace((vnode.unwrap_or(right), user, id));
        if let (Some(before), Some(now)) = (before, &self.inbox)
            && before >= *now
        {
            let what = format!("entry {} of {}", now.2, now.1);
            self.wrong(what, format!("it comes after {} of {}", before.2, before.1));
        }
    }

    fn wrong(&mut self, what: String, why: impl std::fmt::Display) {
        let shard = self.shard.map_or_else(String::new, |shard| format!("shard {shard}: "));
        self.report.wrong(format!("{shard}{what}"), why);
    }
}

/// Whether the log begins where each checkpoint ends: nothing in between may be missing. A checkpoint ahead of its log is only
/// noted: an installed snapshot is durable before the log is emptied for it, and a crash in between leaves that. The checkpoint
/// has everything, and the next start lets the log begin behind it. A group that the log doesn't know at all is one that was lost.
#[must_use]
pub fn check_across(groups: &[GroupSpan], checkpointed: &[Checkpointed]) -> AreaReport {
    let mut report = AreaReport::new("checkpoints against log");
    for state in checkpointed {
        let span = groups.iter().find(|span| span.group == state.group);
        let (first, last) = span.and_then(|span| span.span).unzip();
        let purged = span.and_then(|span| span.purged);
        let (name, applied) = (&state.name, state.applied);
        let reaches = last.max(purged);
        if applied > reaches {
            let reaches = reaches.map_or_else(|| "holds nothing".to_owned(), |last| format!("ends at {last}"));
            let at = applied.unwrap_or_default();
            let why = format!("its checkpoint is at {at}, but its log {reaches}");
            // Whoever takes a snapshot in has voted before, or has noted somebody's vote.
            if span.is_none() {
                report.wrong(name, why);
            } else {
                report
                    .notes
                    .push(Finding { what: name.clone(), why: format!("{why}, as when a crash ends an install") });
            }
        }
        // An index is never skipped, so the log must go on right behind the checkpoint.
        let gone = purged.max(first.and_then(|first| first.checked_sub(1)));
        if gone > applied {
            let (at, gone) = (applied.map_or_else(|| "nothing".to_owned(), |at| at.to_string()), gone.unwrap_or(0));
            report.wrong(
                name,
                format!("its checkpoint holds {at}, but its log begins behind {gone}: entries are missing"),
            );
        }
    }
    report.counts = vec![("groups", checkpointed.len() as u64)];
    if !report.notes.is_empty() {
        report.counts.push(("ahead of their log", report.notes.len() as u64));
    }
    report
}
