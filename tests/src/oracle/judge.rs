//! The judgement: records and logs in, verdict out. Pure, and itself tested against logs with every kind of damage.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use iris_client::{EntryId, MessageKey, UserId};

use super::{Fate, Intent, Record, Seen};

/// Problems spelled out in a verdict; the rest is counted.
pub(super) const PROBLEMS_SHOWN: usize = 12;

/// Every inbox as a reader saw it, in the order it was shown.
pub type Logs = BTreeMap<UserId, Vec<Seen>>;

/// What the logs say about the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages intended.
    pub intended: usize,
    /// Messages acked.
    pub acked: usize,
    /// Messages, acked or not, that are in their recipient's log with their hash.
    pub delivered: usize,
    /// Acked messages that are not.
    pub lost: usize,
    /// Entries beyond the first that share a key, in any log.
    pub duplicated: usize,
    /// Entries that stand behind a later one of their lane and recipient.
    pub reordered: usize,
    /// Entries with a known key and another body.
    pub corrupted: usize,
    /// Acked messages whose entry has another id than the ack named.
    pub misnumbered: usize,
    /// Entries whose id does not exceed the one before.
    pub not_increasing: usize,
    /// Entries nobody sent, or in an inbox they were not sent to.
    pub foreign: usize,
    /// Messages that were finally refused and are there all the same.
    pub refused_present: usize,
    /// Messages without an answer that are there: fine.
    pub unknown_present: usize,
    /// Messages without an answer that are not there: fine.
    pub unknown_absent: usize,
    /// Answers that can't both be true.
    pub contradicted: usize,
    /// The first problems in words.
    pub problems: Vec<String>,
}

impl Verdict {
    /// Whether the cluster kept every promise.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults() == 0
    }

    /// How many promises were broken.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.lost
            + self.duplicated
            + self.reordered
            + self.corrupted
            + self.misnumbered
            + self.not_increasing
            + self.foreign
            + self.refused_present
            + self.contradicted
    }

    /// The worst of two readings of the same logs.
    #[must_use]
    pub fn worst(mut self, other: Self) -> Self {
        self.intended = self.intended.min(other.intended);
        self.acked = self.acked.min(other.acked);
        self.delivered = self.delivered.min(other.delivered);
        self.lost = self.lost.max(other.lost);
        self.duplicated = self.duplicated.max(other.duplicated);
        self.reordered = self.reordered.max(other.reordered);
        self.corrupted = self.corrupted.max(other.corrupted);
        self.misnumbered = self.misnumbered.max(other.misnumbered);
        self.not_increasing = self.not_increasing.max(other.not_increasing);
        self.foreign = self.foreign.max(other.foreign);
        self.refused_present = self.refused_present.max(other.refused_present);
        self.unknown_present = self.unknown_present.max(other.unknown_present);
        self.unknown_absent = self.unknown_absent.max(other.unknown_absent);
        self.contradicted = self.contradicted.max(other.contradicted);
        self.problems.extend(other.problems);
        self.problems.truncate(PROBLEMS_SHOWN);
        self
    }

    /// Panics with everything that is known, unless every promise was kept.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "the cluster broke a promise: {self}");
    }

    fn problem(&mut self, text: impl FnOnce() -> String) {
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(text());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "intended {} acked {} delivered {} lost {} duplicated {} reordered {} corrupted {} misnumbered {} \
             not_increasing {} foreign {} refused_present {} contradicted {} (unknown: {} present, {} absent)",
            self.intended,
            self.acked,
            self.delivered,
            self.lost,
            self.duplicated,
            self.reordered,
            self.corrupted,
            self.misnumbered,
            self.not_increasing,
            self.foreign,
            self.refused_present,
            self.contradicted,
            self.unknown_present,
            self.unknown_absent,
        )?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Judges what readers saw (`logs`) by what was sent and answered (`records`).
#[must_use]
pub fn judge(records: &[Record], logs: &Logs) -> Verdict {
    let by_key: HashMap<(&UserId, MessageKey), usize> =
        records.iter().enumerate().map(|(at, record)| ((&record.intent.sender, record.intent.key), at)).collect();
    let mut verdict = Verdict { intended: records.len(), ..Verdict::default() };
    // Where each record's first good entry is.
    let mut found: Vec<Option<EntryId>> = vec![None; records.len()];
    let mut entries: HashMap<(&UserId, MessageKey), usize> = HashMap::new();
    for (user, log) in logs {
        let mut last = EntryId::ZERO;
        let mut highest: HashMap<(&UserId, u16), u64> = HashMap::new();
        for seen in log {
            if seen.id <= last {
                verdict.not_increasing += 1;
                verdict.problem(|| format!("{user}'s log: {} comes after {last}", seen.id));
            }
            last = seen.id;
            let times = entries.entry((&seen.sender, seen.key)).or_default();
            *times += 1;
            if *times > 1 {
                verdict.duplicated += 1;
                verdict.problem(|| format!("{user}'s log: the key {} is there again, as {}", seen.key, seen.id));
                continue;
            }
            let at = by_key.get(&(&seen.sender, seen.key)).copied();
            let Some((at, record)) =
                at.map(|at| (at, &records[at])).filter(|(_, record)| record.intent.recipient == *user)
            else {
                verdict.foreign += 1;
                verdict.problem(|| {
                    format!("{user}'s log: nobody sent {} ({} from {}) here", seen.id, seen.key, seen.sender)
                });
                continue;
            };
            if record.intent.hash == seen.hash {
                found[at] = Some(seen.id);
            } else {
                verdict.corrupted += 1;
                verdict.problem(|| format!("{user}'s log: {} has another body than was sent", seen.id));
            }
            let number = record.intent.number;
            let highest = highest.entry((&seen.sender, record.intent.lane)).or_insert(number);
            if number < *highest {
                verdict.reordered += 1;
                verdict.problem(|| {
                    format!("{user}'s log: number {number} from {} comes after number {highest}", seen.sender)
                });
            }
            *highest = number.max(*highest);
        }
    }
    judge_records(&mut verdict, records, &found);
    verdict
}

fn judge_records(verdict: &mut Verdict, records: &[Record], found: &[Option<EntryId>]) {
    for (record, found) in records.iter().zip(found) {
        let Record { intent, fate } = record;
        verdict.delivered += usize::from(found.is_some());
        match (fate, found) {
            (Fate::Acked(acked), Some(id)) => {
                verdict.acked += 1;
                if acked != id {
                    verdict.misnumbered += 1;
                    verdict.problem(|| format!("{} was acked as {acked} and stands at {id}", intent.key));
                }
            }
            (Fate::Acked(acked), None) => {
                verdict.acked += 1;
                verdict.lost += 1;
                verdict.problem(|| {
                    let Intent { key, sender, recipient, number, .. } = intent;
                    format!("LOST: {key}, number {number} from {sender} to {recipient}, acked as {acked}")
                });
            }
            (Fate::Refused, Some(id)) => {
                verdict.refused_present += 1;
                verdict.problem(|| format!("{} was refused for good and stands at {id}", intent.key));
            }
            (Fate::Refused, None) => {}
            (Fate::Unknown, Some(_)) => verdict.unknown_present += 1,
            (Fate::Unknown, None) => verdict.unknown_absent += 1,
        }
    }
}
