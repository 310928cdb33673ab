//! What waits at this edge for one shard's leader, in order. Pure: no I/O, time passed in.
//!
//! The rule that keeps A6: the front of the queue is sent, and sent again after every failure, until it is answered; nothing
//! overtakes it. If an item waits too long it is given up together with everything behind it of the same session to the same
//! recipient, so that the session can have them sent again in order.

use std::collections::VecDeque;

use iris_protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use iris_protocol::{EntryId, UserId};
use iris_store::{Item, NewMessage, Outcome};
use tokio::time::{Duration, Instant};

use super::{Reply, SessionId, Submission, SubmitOutcome, Work};
use crate::cluster::item_len;

/// An item waits this long for its shard to have a leader that can commit: several elections' worth.
pub const ITEM_AGE_MAX: Duration = Duration::from_secs(10);

struct Queued {
    submission: Submission,
    since: Instant,
}

/// The queue.
#[derive(Default)]
pub struct UplinkQueue {
    items: VecDeque<Queued>,
}

impl UplinkQueue {
    /// Puts a submission at the end.
    pub fn push(&mut self, submission: Submission, now: Instant) {
        self.items.push_back(Queued { submission, since: now });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The front of the queue that fits one Raft entry, as items for the leader. They stay in the queue until [`Self::complete`].
    #[must_use]
    pub fn front(&self) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.items.len().min(BATCH_MESSAGES_MAX));
        let mut bytes = 0;
        for queued in self.items.iter().take(BATCH_MESSAGES_MAX) {
            let item = to_item(&queued.submission.work);
            bytes += item_len(&item);
            if bytes > BATCH_BYTES_MAX && !items.is_empty() {
                break;
            }
            items.push(item);
        }
        items
    }

    /// Answers the front with its outcomes. Returns the bytes that left the queue.
    pub fn complete(&mut self, outcomes: &[Outcome]) -> usize {
        let done: Vec<Queued> = self.items.drain(..outcomes.len().min(self.items.len())).collect();
        done.into_iter().zip(outcomes).map(|(queued, outcome)| answer(queued, from_store(outcome))).sum()
    }

    /// Gives up what waited too long, and what is behind it. Returns the bytes that left the queue.
    pub fn expire(&mut self, now: Instant) -> usize {
        let too_old = |queued: &Queued| now.duration_since(queued.since) >= ITEM_AGE_MAX;
        if !self.items.front().is_some_and(too_old) {
            // Ages fall from front to back, so nothing else is too old either.
            return 0;
        }
        let mut given_up: Vec<(SessionId, Option<UserId>)> = Vec::new();
        let mut bytes = 0;
        let mut kept = VecDeque::with_capacity(self.items.len());
        for queued in self.items.drain(..) {
            let lane = (queued.submission.session, recipient(&queued.submission.work).cloned());
            if given_up.contains(&lane) {
                bytes += answer(queued, SubmitOutcome::Behind);
            } else if too_old(&queued) {
                given_up.push(lane);
                bytes += answer(queued, SubmitOutcome::Unavailable);
            } else {
                kept.push_back(queued);
            }
        }
        self.items = kept;
        bytes
    }
}

/// Bytes a submission counts for while it waits.
#[must_use]
pub fn work_len(work: &Work) -> usize {
    const AROUND: usize = 128;
    match work {
        Work::Message { body, .. } => body.len() + AROUND,
        Work::Cursor { .. } => AROUND,
    }
}

fn answer(queued: Queued, outcome: SubmitOutcome) -> usize {
    let Submission { ticket, work, replies, .. } = queued.submission;
    // The channel has room for all of a session's submissions; if it is closed, the session has ended.
    let _ = replies.try_send(Reply { ticket, outcome });
    work_len(&work)
}

fn recipient(work: &Work) -> Option<&UserId> {
    match work {
        Work::Message { recipient, .. } => Some(recipient),
        Work::Cursor { .. } => None,
    }
}

fn to_item(work: &Work) -> Item {
    match work.clone() {
        Work::Message { sender, key, recipient, kind, body } => {
            Item::Message(NewMessage { sender, key, recipient, kind, stamp: EntryId::ZERO, body })
        }
        Work::Cursor { user, device, cursor } => Item::Cursor { user, device, cursor },
    }
}

fn from_store(outcome: &Outcome) -> SubmitOutcome {
    match *outcome {
        Outcome::Appended(id) => SubmitOutcome::Committed { id, duplicate: false },
        Outcome::Duplicate(id) => SubmitOutcome::Committed { id, duplicate: true },
        Outcome::KeyConflict => SubmitOutcome::KeyConflict,
        Outcome::CursorMoved(cursor) => SubmitOutcome::CursorMoved { cursor },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use iris_protocol::MessageKey;
    use tokio::sync::mpsc;

    fn message(session: u64, ticket: u64, to: &str, replies: &mpsc::Sender<Reply>) -> Submission {
        Submission {
            session: SessionId(session),
            ticket,
            work: Work::Message {
                sender: UserId::new("bob").unwrap(),
                key: MessageKey([ticket as u8; 16]),
                recipient: UserId::new(to).unwrap(),
                kind: 0,
                body: Bytes::from_static(b"x"),
            },
            replies: replies.clone(),
        }
    }

    fn drain(replies: &mut mpsc::Receiver<Reply>) -> Vec<(u64, SubmitOutcome)> {
        std::iter::from_fn(|| replies.try_recv().ok()).map(|reply| (reply.ticket, reply.outcome)).collect()
    }

    #[test]
    fn the_front_stays_until_it_is_answered() {
        let (sender, mut replies) = mpsc::channel(10);
        let mut queue = UplinkQueue::default();
        let now = Instant::now();
        for ticket in 0..3 {
            queue.push(message(1, ticket, "alice", &sender), now);
        }
        assert_eq!(queue.front().len(), 3);
        assert_eq!(queue.front().len(), 3);
        let left = queue.complete(&[Outcome::Appended(EntryId(5)), Outcome::KeyConflict]);
        assert_eq!(left, 2 * 129);
        assert_eq!(
            drain(&mut replies),
            [(0, SubmitOutcome::Committed { id: EntryId(5), duplicate: false }), (1, SubmitOutcome::KeyConflict)]
        );
        assert_eq!(queue.front().len(), 1);
    }

    #[test]
    fn giving_one_up_gives_up_what_is_behind_it_and_nothing_else() {
        let (sender, mut replies) = mpsc::channel(10);
        let mut queue = UplinkQueue::default();
        let start = Instant::now();
        let later = start + ITEM_AGE_MAX;
        queue.push(message(1, 0, "alice", &sender), start);
        queue.push(message(1, 1, "alice", &sender), later);
        queue.push(message(1, 2, "carol", &sender), later);
        queue.push(message(2, 3, "alice", &sender), later);
        assert_eq!(queue.expire(start + ITEM_AGE_MAX / 2), 0);
        queue.expire(later);
        assert_eq!(drain(&mut replies), [(0, SubmitOutcome::Unavailable), (1, SubmitOutcome::Behind)]);
        assert_eq!(queue.front().len(), 2);
    }

    #[test]
    fn a_batch_keeps_to_the_entrys_limits() {
        let (sender, _replies) = mpsc::channel(1);
        let mut queue = UplinkQueue::default();
        for ticket in 0..2_500 {
            queue.push(message(1, ticket, "alice", &sender), Instant::now());
        }
        assert_eq!(queue.front().len(), BATCH_MESSAGES_MAX);
        let mut large = UplinkQueue::default();
        for ticket in 0..40 {
            let mut submission = message(1, ticket, "alice", &sender);
            if let Work::Message { body, .. } = &mut submission.work {
                *body = vec![0; 64 * 1024].into();
            }
            large.push(submission, Instant::now());
        }
        assert_eq!(large.front().len(), 15);
    }
}
