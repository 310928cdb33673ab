//! What waits at this edge for one shard's leader, in order. Pure: no I/O, time passed in.
//!
//! The rule that keeps A6: the front of the queue is sent, and sent again after every failure, until it is answered; nothing
//! overtakes it. If an item waits too long it is given up together with everything behind it of the same session to the same
//! recipient (a lane), so that the session can have them sent again in order; and the lane stays closed for what the session
//! submitted before it learned of that, which its epoch tells.

use std::collections::{HashMap, VecDeque};

use iris_protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use iris_protocol::{EntryId, UserId};
use iris_store::{Item, NewMessage, Outcome};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::{Reply, SessionId, Submission, SubmitOutcome, Work};
use crate::cluster::item_len;

/// An item waits this long for its shard to have a leader that can commit: several elections' worth.
pub const ITEM_AGE_MAX: Duration = Duration::from_secs(10);

struct Queued {
    submission: Submission,
    since: Instant,
}

/// What must stay in order: one session's submissions to one recipient. Cursors have a lane of their own.
type Lane = (SessionId, Option<UserId>);

/// A lane of which something was given up.
struct Closed {
    /// Submissions of earlier epochs were made before the session knew.
    until_epoch: u64,
    /// Tells when the session has ended.
    replies: mpsc::Sender<Reply>,
}

/// The queue.
#[derive(Default)]
pub struct UplinkQueue {
    items: VecDeque<Queued>,
    closed: HashMap<Lane, Closed>,
}

impl UplinkQueue {
    /// Puts a submission at the end, or answers it at once if its lane is closed to it. Returns the bytes that left the queue.
    pub fn push(&mut self, submission: Submission, now: Instant) -> usize {
        let queued = Queued { submission, since: now };
        if !self.closed.is_empty() {
            let lane = lane(&queued.submission);
            match self.closed.get(&lane) {
                Some(closed) if queued.submission.epoch < closed.until_epoch => {
                    return answer(queued, SubmitOutcome::Behind);
                }
                // The session knows, and submissions come in its order: nothing older can follow.
                Some(_) => drop(self.closed.remove(&lane)),
                None => {}
            }
        }
        self.items.push_back(queued);
        0
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
        self.give_up(now, ITEM_AGE_MAX, SubmitOutcome::Unavailable)
    }

    /// Gives up everything, as the leader's disk is full and nobody takes its place. Returns the bytes that left the queue.
    pub fn refuse_for_room(&mut self, now: Instant) -> usize {
        self.give_up(now, Duration::ZERO, SubmitOutcome::DiskFull)
    }

    fn give_up(&mut self, now: Instant, age: Duration, outcome: SubmitOutcome) -> usize {
        let too_old = |queued: &Queued| now.duration_since(queued.since) >= age;
        if !self.items.front().is_some_and(too_old) {
            // Ages fall from front to back, so nothing else is too old either.
            return 0;
        }
        self.closed.retain(|_, closed| !closed.replies.is_closed());
        let mut bytes = 0;
        let mut kept = VecDeque::with_capacity(self.items.len());
        for queued in self.items.drain(..) {
            let (lane, until_epoch) = (lane(&queued.submission), queued.submission.epoch + 1);
            if let Some(closed) = self.closed.get_mut(&lane) {
                closed.until_epoch = closed.until_epoch.max(until_epoch);
                bytes += answer(queued, SubmitOutcome::Behind);
            } else if too_old(&queued) {
                self.closed.insert(lane, Closed { until_epoch, replies: queued.submission.replies.clone() });
                bytes += answer(queued, outcome);
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

fn lane(submission: &Submission) -> Lane {
    let recipient = match &submission.work {
        Work::Message { recipient, .. } => Some(recipient.clone()),
        Work::Cursor { .. } => None,
    };
    (submission.session, recipient)
}

fn to_item(work: &Work) -> Item {
    match work.clone() {
        Work::Message { sender, key, recipient, kind, body } => {
            Item::Message(NewMessage { sender, key, recipient, kind, stamp: EntryId::ZERO, body })
        }
        Work::Cursor { user, device, cursor } => Item::Cursor { user, device, cursor, seen: EntryId::ZERO },
    }
}

fn from_store(outcome: &Outcome) -> SubmitOutcome {
    match *outcome {
        Outcome::Appended(id) => SubmitOutcome::Committed { id, duplicate: false },
        Outcome::Duplicate(id) => SubmitOutcome::Committed { id, duplicate: true },
        Outcome::KeyConflict => SubmitOutcome::KeyConflict,
        Outcome::CursorMoved(cursor) => SubmitOutcome::CursorMoved { cursor },
        // The leader doesn't give these as answers; whoever gets one may try again.
        Outcome::Stale | Outcome::Done => SubmitOutcome::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use iris_protocol::MessageKey;

    fn message(session: u64, ticket: u64, to: &str, replies: &mpsc::Sender<Reply>) -> Submission {
        Submission {
            session: SessionId(session),
            ticket,
            epoch: 0,
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
    fn a_full_disk_gives_up_everything_in_order() {
        let (sender, mut replies) = mpsc::channel(10);
        let mut queue = UplinkQueue::default();
        let now = Instant::now();
        for (ticket, to) in [(0, "alice"), (1, "alice"), (2, "carol")] {
            queue.push(message(1, ticket, to, &sender), now);
        }
        queue.refuse_for_room(now);
        let outcomes = [(0, SubmitOutcome::DiskFull), (1, SubmitOutcome::Behind), (2, SubmitOutcome::DiskFull)];
        assert_eq!(drain(&mut replies), outcomes);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_was_on_its_way_when_one_was_given_up_does_not_overtake_it() {
        let (sender, mut replies) = mpsc::channel(10);
        let mut queue = UplinkQueue::default();
        let start = Instant::now();
        queue.push(message(1, 0, "alice", &sender), start);
        queue.expire(start + ITEM_AGE_MAX);
        assert_eq!(drain(&mut replies), [(0, SubmitOutcome::Unavailable)]);
        // Submitted before the session saw that; other lanes are free.
        queue.push(message(1, 1, "alice", &sender), start);
        queue.push(message(1, 2, "carol", &sender), start);
        assert_eq!(drain(&mut replies), [(1, SubmitOutcome::Behind)]);
        // Sent again once it knew.
        for ticket in 3..5 {
            queue.push(Submission { epoch: 1, ..message(1, ticket, "alice", &sender) }, start);
        }
        assert!(drain(&mut replies).is_empty());
        assert_eq!(queue.front().len(), 3);
    }

    #[test]
    fn closed_lanes_are_forgotten_with_their_session() {
        let (sender, replies) = mpsc::channel(10);
        let mut queue = UplinkQueue::default();
        let start = Instant::now();
        queue.push(message(1, 0, "alice", &sender), start);
        queue.expire(start + ITEM_AGE_MAX);
        assert_eq!(queue.closed.len(), 1);
        drop((sender, replies));
        let (other, _other_replies) = mpsc::channel(10);
        queue.push(message(2, 0, "alice", &other), start);
        queue.expire(start + ITEM_AGE_MAX);
        assert_eq!(queue.closed.keys().map(|lane| lane.0).collect::<Vec<_>>(), [SessionId(2)]);
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
