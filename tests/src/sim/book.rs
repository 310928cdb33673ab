//! What the world's clients know: what they set out to send, what they were told, what they received, and every promise that was
//! seen broken. Outside the cluster, as the oracle of the tests with real processes is; the final judgement is the same one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};

use super::trace::Trace;
use crate::oracle::{Fate, Intent, Record, Seen, hash};

/// The book. Cheap to clone; shared by all clients.
#[derive(Clone)]
pub struct Book {
    pages: Arc<Mutex<Pages>>,
    trace: Trace,
}

/// What is in it.
#[derive(Default)]
pub struct Pages {
    /// Every message.
    pub records: Vec<Record>,
    /// Their bodies, to send them again.
    pub bodies: Vec<Bytes>,
    numbers: BTreeMap<(UserId, UserId), u64>,
    /// What each reading device received, in order, once each.
    pub received: BTreeMap<(UserId, DeviceId), Vec<Seen>>,
    /// How far each said it had received.
    pub cursors: BTreeMap<(UserId, DeviceId), EntryId>,
    /// Messages that nobody has an answer for yet and somebody goes on asking about.
    pub open: usize,
    /// Reads that were said to be fresh, and were.
    pub fresh_reads: usize,
    broken: Vec<Broken>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which invariant says so.
    pub invariant: &'static str,
    /// When.
    pub at_ms: u64,
    /// What was seen.
    pub what: String,
}

/// More are not written down: the first ones tell.
const BROKEN_MAX: usize = 20;

impl Book {
    /// An empty one.
    pub fn new(trace: Trace) -> Self {
        Self { pages: Arc::default(), trace }
    }

    /// To read in it.
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a message down before it is sent; its number.
    pub fn intend(&self, sender: &UserId, recipient: &UserId, key: MessageKey, body: Bytes) -> usize {
        let mut pages = self.pages();
        let number = pages.numbers.entry((sender.clone(), recipient.clone())).or_default();
        let intent = Intent {
            key,
            sender: sender.clone(),
            lane: 0,
            recipient: recipient.clone(),
            number: std::mem::replace(number, *number + 1),
            hash: hash(&body),
        };
        pages.records.push(Record { intent, fate: Fate::Unknown });
        pages.bodies.push(body);
        pages.open += 1;
        pages.records.len() - 1
    }

    /// Writes an ack down. A second one must say the same.
    pub fn acked(&self, now_ms: u64, message: usize, id: EntryId) {
        let mut pages = self.pages();
        self.trace.note(now_ms, &format_args!("acked {message} {}", id.0));
        match std::mem::replace(&mut pages.records[message].fate, Fate::Acked(id)) {
            Fate::Unknown => pages.open -= 1,
            Fate::Acked(before) if before == id => {}
            before => {
                drop(pages);
                self.broken("one answer", now_ms, format!("message {message}: {before:?}, then acked as {id}"));
            }
        }
    }

    /// The keys that were acked for a user so far, with their ids.
    pub fn acked_for(&self, user: &UserId, after: EntryId) -> Vec<(EntryId, MessageKey)> {
        let pages = self.pages();
        let mine = pages.records.iter().filter(|record| record.intent.recipient == *user);
        mine.filter_map(|record| match record.fate {
            Fate::Acked(id) if id > after => Some((id, record.intent.key)),
            _ => None,
        })
        .collect()
    }

    /// Whether the user's device said it has everything up to there.
    pub fn is_received(&self, user: &UserId, id: EntryId) -> bool {
        self.pages().cursors.iter().any(|((reader, _), cursor)| reader == user && *cursor >= id)
    }

    /// Writes a broken promise down.
    pub fn broken(&self, invariant: &'static str, at_ms: u64, what: String) {
        self.trace.note(at_ms, &format_args!("BROKEN {invariant}: {what}"));
        let mut pages = self.pages();
        if pages.broken.len() < BROKEN_MAX {
            pages.broken.push(Broken { invariant, at_ms, what });
        }
    }

    /// Every broken promise so far.
    pub fn all_broken(&self) -> Vec<Broken> {
        self.pages().broken.clone()
    }

    /// To note what clients do.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}
