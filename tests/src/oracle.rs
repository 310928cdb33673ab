//! The recorder outside the cluster: every send intended, every answer given, and the judgement over what the inboxes hold
//! in the end. Knows no network; reading inboxes is `verify`'s.
//!
//! What must hold (A3, A4, A6, faults.md): an acked key is in its recipient's log, once, with its hash and the id it was
//! acked with; no key twice in any log; the messages of one lane to one recipient stand in the order they were sent; ids
//! increase. A send without an answer may be there or not: it is unknown, never absent.

mod gap;
mod judge;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_client::{Delivery, EntryId, MessageKey, Outgoing, Receipt, SendError, UserId};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::wait::within;
use gap::GapMeter;
pub use judge::{Logs, Verdict, judge};

/// A body's SHA-256.
pub type BodyHash = [u8; 32];

/// Hashes a body.
#[must_use]
pub fn hash(body: &[u8]) -> BodyHash {
    Sha256::digest(body).into()
}

/// One message somebody set out to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its idempotency key.
    pub key: MessageKey,
    /// Who sends.
    pub sender: UserId,
    /// Which of the sender's devices: order holds within a lane.
    pub lane: u16,
    /// To whom.
    pub recipient: UserId,
    /// Its place among the messages of this lane to this recipient, from 0.
    pub number: u64,
    /// Of its body.
    pub hash: BodyHash,
}

/// What is known of a message's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer: it may be there or not.
    Unknown,
    /// The cluster promised that it is there.
    Acked(EntryId),
    /// The cluster said that it is not and will not be.
    Refused,
}

/// A message and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was sent.
    pub intent: Intent,
    /// What came of it.
    pub fate: Fate,
}

/// An entry as a reader saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: EntryId,
    /// Its key.
    pub key: MessageKey,
    /// Its sender.
    pub sender: UserId,
    /// Of its body.
    pub hash: BodyHash,
}

impl From<&Delivery> for Seen {
    fn from(entry: &Delivery) -> Self {
        Self { id: entry.id, key: entry.key, sender: entry.sender.clone(), hash: hash(&entry.body) }
    }
}

/// The recorder. Shared by everything that sends.
#[derive(Debug)]
pub struct Oracle {
    book: Mutex<Book>,
    acked: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Book {
    records: Vec<Record>,
    by_key: HashMap<(UserId, MessageKey), usize>,
    numbers: HashMap<(UserId, u16, UserId), u64>,
    gap: GapMeter,
    duplicates_answered: usize,
    contradictions: Vec<String>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { book: Mutex::default(), acked: watch::Sender::new(0) }
    }
}

impl Oracle {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A recorder that knows these records only: to judge by what was acked at one moment.
    #[must_use]
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let oracle = Self::default();
        oracle.book().records.extend(records);
        oracle
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down a message before it is sent, and gives it its key.
    pub fn intend(&self, sender: &UserId, lane: u16, recipient: &UserId, body: Bytes) -> Outgoing {
        let message = Outgoing::new(recipient.clone(), body);
        let mut book = self.book();
        let number = book.numbers.entry((sender.clone(), lane, recipient.clone())).or_default();
        let intent = Intent {
            key: message.key,
            sender: sender.clone(),
            lane,
            recipient: recipient.clone(),
            number: std::mem::replace(number, *number + 1),
            hash: hash(&message.body),
        };
        let at = book.records.len();
        book.by_key.insert((sender.clone(), message.key), at);
        book.records.push(Record { intent, fate: Fate::Unknown });
        book.gap.sent(at, Instant::now());
        message
    }

    /// Writes down how a send ended.
    pub fn settle(&self, sender: &UserId, key: MessageKey, outcome: &Result<Receipt, SendError>) {
        let mut book = self.book();
        let Some(&at) = book.by_key.get(&(sender.clone(), key)) else {
            book.contradictions.push(format!("an answer for the key {key}, which was never sent"));
            return;
        };
        let fate = match outcome {
            Ok(receipt) => Fate::Acked(receipt.id),
            Err(error) if error.outcome_is_unknown() => Fate::Unknown,
            Err(_) => Fate::Refused,
        };
        let before = std::mem::replace(&mut book.records[at].fate, fate);
        match (before, fate) {
            (Fate::Unknown, _) => book.gap.answered(at, Instant::now(), outcome.is_ok()),
            (was, is) if was != is => {
                book.contradictions.push(format!("the key {key} was answered {was:?}, then {is:?}"))
            }
            _ => {}
        }
        book.duplicates_answered += usize::from(outcome.as_ref().is_ok_and(|receipt| receipt.duplicate));
        let acked = matches!((before, fate), (Fate::Unknown, Fate::Acked(_)));
        drop(book);
        if acked {
            self.acked.send_modify(|acked| *acked += 1);
        }
    }

    /// Messages acked so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        *self.acked.borrow()
    }

    /// Messages somebody set out to send so far.
    #[must_use]
    pub fn intended(&self) -> usize {
        self.book().records.len()
    }

    /// Acks that said "duplicate": retries that met their first entry.
    #[must_use]
    pub fn duplicates_answered(&self) -> usize {
        self.book().duplicates_answered
    }

    /// Waits until so many messages are acked.
    ///
    /// # Errors
    /// The deadline passed.
    pub async fn wait_acked(&self, count: usize, deadline: Duration) -> anyhow::Result<()> {
        let mut acked = self.acked.subscribe();
        let what = format!("{count} acks");
        let waited = within(&what, deadline, acked.wait_for(|acked| *acked >= count)).await;
        match waited {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(format!("{} of {} were acked", self.acked(), self.intended()))),
        }
    }

    /// A copy of everything written down so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.book().records.clone()
    }

    /// Answers that can't both be true.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        self.book().contradictions.clone()
    }

    /// The longest any message waited for its ack.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.book().gap.longest()
    }

    /// Judges what readers saw by what was written down.
    #[must_use]
    pub fn judge(&self, logs: &Logs) -> Verdict {
        let book = self.book();
        let mut verdict = judge(&book.records, logs);
        verdict.contradicted += book.contradictions.len();
        verdict.problems.extend(book.contradictions.iter().take(judge::PROBLEMS_SHOWN).cloned());
        verdict
    }
}

#[cfg(test)]
mod tests;
