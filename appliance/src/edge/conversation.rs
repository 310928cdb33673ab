//! What is said on one logged-in connection: takes the client's frames and the router's outcomes, puts answers into the
//! output. Owns everything a session must remember and its bounds; does no I/O and never waits.

use std::collections::BTreeMap;

use bytes::BytesMut;
use iris_protocol::UserId;
use iris_protocol::frame::{ClientFrame, Code, Durability, Send, ServerFrame, Status};
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::limits::{BODY_LEN_MAX, FRAME_LEN_MAX, SENDS_IN_FLIGHT_MAX};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::acks::Acks;
use super::inbox::Inbox;
use super::login::Who;
use super::order::{self, Order, TooManyRefused, Verdict};
use super::session::End;
use super::transfer::Output;
use super::{EdgeRouter, Shared};
use crate::routing::{Reply, SessionId, Submission, SubmitOutcome, Work};

/// Bytes of answers at which no more is taken from a client that does not read them: more than those to all SENDs it may have
/// in flight.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A SEND not answered by the router within this is answered `unavailable` here: clients were promised 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(19);

/// When a client refused for want of room should come back: a few batches later.
const OVERLOADED_RETRY_MS: u32 = 100;

/// Somebody has to make room, or retention has to: that takes a while.
const DISK_FULL_RETRY_MS: u32 = 5_000;

const DISK_FULL: &str = "the disks that hold the recipient's inbox are full";

const OVERLOADED: &str = "the recipient's shard has too much to do";

/// Before a cursor that could not be stored is tried again, and up to as much more.
const ACK_PAUSE_MS: u64 = 200;

/// Before clients told to leave connect elsewhere, at most, so that not all come at once.
const GOAWAY_DELAY_MS_MAX: u64 = 2_000;

/// Outcomes that may wait to be taken: every SEND in flight and the cursor, and as many again that were given up here and are
/// answered late. One that finds no room is as good as one that never comes: its deadline here answers it.
const OUTCOMES_MAX: usize = 2 * (SENDS_IN_FLIGHT_MAX + 1);

struct InFlight {
    seq: u64,
    recipient: UserId,
    since: Instant,
}

/// One session's memory.
pub(super) struct Conversation<'a, R> {
    edge: &'a Shared<R>,
    session: SessionId,
    pub(super) who: Who,
    replies: mpsc::Sender<Reply>,
    pub(super) out: Output,
    pub(super) inbox: Option<Inbox>,
    seq_last: Option<u64>,
    in_flight: BTreeMap<u64, InFlight>,
    ticket_last: u64,
    order: Order,
    acks: Acks,
    /// When the last whole frame came.
    pub(super) heard_at: Instant,
    /// The client said BYE.
    pub(super) leaving: bool,
    /// We said GOAWAY.
    pub(super) draining: bool,
}

impl<'a, R: EdgeRouter> Conversation<'a, R> {
    /// A conversation that has just begun, and where its outcomes arrive.
    pub(super) fn new(edge: &'a Shared<R>, who: Who, out: Output, now: Instant) -> (Self, mpsc::Receiver<Reply>) {
        let (replies, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let conversation = Self {
            edge,
            session: edge.router.new_session(),
            who,
            replies,
            out,
            inbox: None,
            seq_last: None,
            in_flight: BTreeMap::new(),
            ticket_last: 0,
            order: Order::default(),
            acks: Acks::default(),
            heard_at: now,
            leaving: false,
            draining: false,
        };
        (conversation, outcomes)
    }

    /// Whether more may be read from the client.
    pub(super) fn wants_input(&self) -> bool {
        !self.leaving && self.out.answers_len() < ANSWER_BYTES_MAX
    }

    /// Whether everything the client is owed is answered.
    pub(super) fn is_answered(&self) -> bool {
        self.in_flight.is_empty() && self.acks.is_answered()
    }

    /// Takes all whole frames off the input, as long as there is room for their answers.
    pub(super) fn take_input(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), End> {
        while self.wants_input() {
            let frame = ClientFrame::decode(input, FRAME_LEN_MAX).map_err(|error| {
                self.edge.counters.bad_frames.one();
                End::error(Code::Malformed, error.to_string())
            })?;
            let Some(frame) = frame else { break };
            self.heard_at = now;
            self.on_frame(frame, now)?;
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: ClientFrame, now: Instant) -> Result<(), End> {
        match frame {
            ClientFrame::Send(send) => self.on_send(send, now)?,
            ClientFrame::Ack { cursor } => {
                self.acks.ask(cursor.min(ENTRY_ID_MAX));
                self.submit_ack(now);
            }
            // After GOAWAY nothing more is begun here.
            ClientFrame::Subscribe { .. } if self.draining => {}
            ClientFrame::Subscribe { from, credit } => self.inbox = Some(Inbox::new(from, credit)),
            ClientFrame::Credit { entries } => {
                if let Some(inbox) = &mut self.inbox {
                    inbox.add_credit(entries);
                }
            }
            ClientFrame::Ping { nonce } => self.out.put(&ServerFrame::Pong { nonce }),
            ClientFrame::Bye => {
                self.leaving = true;
                self.inbox = None;
            }
            ClientFrame::Hello { .. } => {
                self.edge.counters.bad_frames.one();
                return Err(End::error(Code::Malformed, "a second HELLO"));
            }
        }
        Ok(())
    }

    fn on_send(&mut self, send: Send, now: Instant) -> Result<(), End> {
        if self.in_flight.len() >= SENDS_IN_FLIGHT_MAX {
            return Err(End::error(Code::TooManyInFlight, "more unanswered SENDs than WELCOME allows"));
        }
        if self.seq_last.is_some_and(|last| send.seq <= last) {
            self.edge.counters.bad_frames.one();
            return Err(End::error(Code::Malformed, "a SEND's seq must be greater than the one before"));
        }
        self.seq_last = Some(send.seq);
        if send.durability != Durability::Quorum {
            self.refuse_for_good(&send, Code::Unsupported, "this version has only durability 0, quorum");
            return Ok(());
        }
        if send.body.len() > BODY_LEN_MAX {
            self.refuse_for_good(&send, Code::BodyTooLong, "a body has at most 65,536 bytes");
            return Ok(());
        }
        if self.draining {
            self.refuse(send.seq, Code::Unavailable, 0, "this node is going down; send it to another");
            return Ok(());
        }
        let Verdict::Taken { epoch } = self.order.offer(&send.recipient, send.seq, send.key)? else {
            self.refuse(send.seq, Code::Behind, 0, "send the message refused before it again first");
            return Ok(());
        };
        if let Err(retry_after_ms) = self.edge.rates.take(&self.who.user, now) {
            self.order.ended(&send.recipient, send.seq, order::End::NotSubmitted);
            self.refuse(send.seq, Code::RateLimited, retry_after_ms, "too many messages");
            return Ok(());
        }
        self.forward(send, epoch, now);
        Ok(())
    }

    fn forward(&mut self, send: Send, epoch: u64, now: Instant) {
        let Send { seq, key, kind, recipient, body, .. } = send;
        let work = Work::Message { sender: self.who.user.clone(), key, recipient: recipient.clone(), kind, body };
        match self.submit(work, epoch) {
            Some(ticket) => {
                self.edge.counters.msg_in.one();
                self.in_flight.insert(ticket, InFlight { seq, recipient, since: now });
            }
            None => {
                self.order.ended(&recipient, seq, order::End::NotSubmitted);
                self.refuse(seq, Code::Overloaded, OVERLOADED_RETRY_MS, OVERLOADED);
            }
        }
    }

    /// The ticket of what was submitted; none if there was no room for it.
    fn submit(&mut self, work: Work, epoch: u64) -> Option<u64> {
        self.ticket_last += 1;
        let (session, ticket) = (self.session, self.ticket_last);
        let submission = Submission { session, ticket, epoch, work, replies: self.replies.clone() };
        self.edge.router.submit(submission).is_ok().then_some(ticket)
    }

    /// Takes an outcome. One of a SEND that was answered already, because it took too long, changes nothing.
    pub(super) fn on_reply(&mut self, reply: Reply, now: Instant) -> Result<(), End> {
        if self.acks.is_moving(reply.ticket) {
            self.on_ack_outcome(reply.outcome, now);
            return Ok(());
        }
        let Some(InFlight { seq, recipient, .. }) = self.in_flight.remove(&reply.ticket) else { return Ok(()) };
        let end = match reply.outcome {
            SubmitOutcome::Committed { id, duplicate } => {
                self.edge.counters.ack_sent.one();
                self.edge.counters.dedup_hit.add(u64::from(duplicate));
                self.out.put(&ServerFrame::Accepted { seq, status: Status::Committed, duplicate, id });
                order::End::Final
            }
            SubmitOutcome::KeyConflict => {
                self.refuse(seq, Code::KeyConflict, 0, "the key was used for another recipient, kind or body");
                order::End::Final
            }
            SubmitOutcome::Unavailable => {
                self.refuse(seq, Code::Unavailable, 0, "the recipient's shard could not commit it in time");
                order::End::Retryable
            }
            SubmitOutcome::Overloaded => {
                self.refuse(seq, Code::Overloaded, OVERLOADED_RETRY_MS, OVERLOADED);
                order::End::Retryable
            }
            SubmitOutcome::DiskFull => {
                self.refuse(seq, Code::DiskFull, DISK_FULL_RETRY_MS, DISK_FULL);
                order::End::Retryable
            }
            SubmitOutcome::Behind => {
                self.refuse(seq, Code::Behind, 0, "an earlier message to this recipient was refused");
                order::End::Behind
            }
            SubmitOutcome::CursorMoved { .. } => {
                tracing::error!(user = %self.who.user, "a message was answered with a cursor");
                return Err(End::error(Code::Internal, "a message was answered with something else"));
            }
        };
        self.order.ended(&recipient, seq, end);
        Ok(())
    }

    fn on_ack_outcome(&mut self, outcome: SubmitOutcome, now: Instant) {
        if let SubmitOutcome::CursorMoved { cursor } = outcome {
            self.acks.moved(cursor);
            self.out.put(&ServerFrame::Acked { cursor });
            self.submit_ack(now);
        } else {
            self.retry_ack_later(now);
        }
    }

    fn submit_ack(&mut self, now: Instant) {
        let Some(cursor) = self.acks.next(now) else { return };
        let work = Work::Cursor { user: self.who.user.clone(), device: self.who.device.clone(), cursor };
        match self.submit(work, self.acks.epoch()) {
            Some(ticket) => self.acks.began(ticket, cursor, now),
            None => self.retry_ack_later(now),
        }
    }

    /// An ACK can't be refused, so it is tried until it is carried out or the session ends.
    fn retry_ack_later(&mut self, now: Instant) {
        let jitter = self.edge.surroundings.random.below(ACK_PAUSE_MS);
        self.acks.failed(now + Duration::from_millis(ACK_PAUSE_MS + jitter));
    }

    /// Tells the client to go elsewhere (B7). No more pages are read: the end must not wait for a long inbox.
    pub(super) fn go_away(&mut self) {
        self.draining = true;
        self.inbox = None;
        let delay_ms = self.edge.surroundings.random.below(GOAWAY_DELAY_MS_MAX) as u32;
        let addresses = self.edge.gate.other_addresses();
        self.out.put(&ServerFrame::GoAway { delay_ms, reason: "the node is going down".to_owned(), addresses });
    }

    /// When [`Self::on_time`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.in_flight.first_key_value().map(|(_, oldest)| oldest.since + ANSWER_WITHIN);
        [oldest, self.acks.deadline()].into_iter().flatten().min()
    }

    /// Answers what waited too long and tries again what is due.
    pub(super) fn on_time(&mut self, now: Instant) -> Result<(), End> {
        if self.acks.is_late(now) {
            self.retry_ack_later(now);
        }
        self.submit_ack(now);
        while let Some((&ticket, oldest)) = self.in_flight.first_key_value()
            && oldest.since + ANSWER_WITHIN <= now
        {
            self.on_reply(Reply { ticket, outcome: SubmitOutcome::Unavailable }, now)?;
        }
        Ok(())
    }

    fn refuse_for_good(&mut self, send: &Send, code: Code, reason: &str) {
        self.order.give_up(&send.recipient, send.key);
        self.refuse(send.seq, code, 0, reason);
    }

    fn refuse(&mut self, seq: u64, code: Code, retry_after_ms: u32, reason: &str) {
        self.edge.counters.refused.one();
        self.out.put(&ServerFrame::Refused { seq, code, retry_after_ms, reason: reason.to_owned() });
    }
}

impl From<TooManyRefused> for End {
    fn from(error: TooManyRefused) -> Self {
        Self::error(Code::TooManyInFlight, error.to_string())
    }
}
