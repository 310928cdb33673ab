//! Reading a log that nobody uses from end to end, changing nothing: for `iris store check`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::load_bounds;
use super::overlay::OverlayFs;
use super::{GroupId, GroupLog, LogEntry, LogError, LogOptions, RaftLog};
use crate::warm::Finding;

/// Bytes read at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Damaged places in one group after which the rest of it is left unread.
const DAMAGES_MAX: usize = 20;

/// Judges what the log holds but can't read itself.
pub trait LogJudge {
    /// Whether an entry is what its caller wrote at this index.
    ///
    /// # Errors
    /// What is wrong.
    fn entry(&self, group: GroupId, index: u64, bytes: &Bytes) -> Result<(), String>;

    /// The keys of the values a group may have.
    fn keys(&self) -> &'static [&'static [u8]];

    /// Whether a value is what its caller wrote.
    ///
    /// # Errors
    /// What is wrong.
    fn value(&self, group: GroupId, key: &[u8], bytes: &[u8]) -> Result<(), String>;
}

/// What one group has in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSpan {
    /// The group.
    pub group: GroupId,
    /// First and last index, if there is any entry.
    pub span: Option<(u64, u64)>,
    /// Everything up to here was purged.
    pub purged: Option<u64>,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct LogFound {
    pub(crate) groups: Vec<GroupSpan>,
    pub(crate) entries: u64,
    pub(crate) values: u64,
}

/// Reads everything in the log of `dir`, which must exist.
///
/// # Errors
/// Another process has it, the disk's, or damage so deep that no recovery would get past it.
pub(crate) fn check(dir: &Path, judge: &dyn LogJudge, wrong: &mut dyn FnMut(Finding)) -> Result<LogFound, LogError> {
    let fs = Arc::new(OverlayFs::default());
    let log = RaftLog::open_with(LogOptions::new(dir), fs.clone())?;
    for torn in fs.torn() {
        wrong(Finding {
            what: format!("the log file {}", torn.file.display()),
            why: format!(
                "its last {} bytes (from {}) are no record: a write that a power cut broke off, which was never acked, or \
                 damage. The next start drops them",
                torn.len, torn.at
            ),
        });
    }
    let mut found = LogFound::default();
    let engine = log.handle.shared.engine.clone();
    let mut groups: Vec<GroupId> = engine.groups().into_iter().map(GroupId).collect();
    groups.sort();
    for id in groups {
        let group = log.group(id);
        let purged = load_bounds(engine.as_ref(), id.0, dir).map(|bounds| bounds.floor).unwrap_or_else(|error| {
            wrong(Finding { what: format!("the bounds of group {}", id.0), why: error.to_string() });
            None
        });
        let span = group.first_index().zip(group.last_index());
        found.groups.push(GroupSpan { group: id, span, purged });
        for key in judge.keys() {
            let Some(value) = group.get(key)? else { continue };
            found.values += 1;
            if let Err(why) = judge.value(id, key, &value) {
                wrong(Finding { what: format!("{} of group {}", String::from_utf8_lossy(key), id.0), why });
            }
        }
        if let Some(span) = span {
            found.entries += entries(&group, id, span, judge, wrong);
        }
    }
    Ok(found)
}

/// Reads every entry of a group; how many could be read.
fn entries(
    log: &GroupLog,
    id: GroupId,
    (first, last): (u64, u64),
    judge: &dyn LogJudge,
    wrong: &mut dyn FnMut(Finding),
) -> u64 {
    let (mut next, mut read, mut damages) = (first, 0, 0);
    while next <= last {
        let piece = log.read(next..last + 1, PIECE_BYTES).or_else(|_| log.read(next..next + 1, PIECE_BYTES));
        match piece.map_err(|error| error.to_string()) {
            Ok(entries) if !entries.is_empty() => {
                for LogEntry { index, bytes } in &entries {
                    if let Err(why) = judge.entry(id, *index, bytes) {
                        damages += 1;
                        wrong(Finding { what: format!("entry {index} of group {}", id.0), why });
                    }
                }
                read += entries.len() as u64;
                next += entries.len() as u64;
            }
            missing => {
                damages += 1;
                let why = missing.err().unwrap_or_else(|| "it is missing".to_owned());
                wrong(Finding { what: format!("entry {next} of group {}", id.0), why });
                next += 1;
            }
        }
        if damages >= DAMAGES_MAX {
            let why = format!("too much is damaged: entries from {next} to {last} are not read");
            wrong(Finding { what: format!("the log of group {}", id.0), why });
            break;
        }
    }
    read
}
