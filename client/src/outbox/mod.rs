//! What to send next: every message from the moment the caller hands it over to its one final answer. Pure: no socket, and the
//! clock and the random source are passed in. It keeps the client's half of docs/protocol.md, "Order":
//!
//! - Messages to one recipient form a lane, in the order they were taken; lanes do not wait for each other.
//! - A lane is sent from the front. A lost connection puts it back to the front: what is unanswered goes again, in its first
//!   order, before anything newer.
//! - A refusal that says "later" turns the lane back: nothing more of it is sent until everything of it that is on the wire is
//!   answered and the pause is over; then it goes from the front again, one message first and more as they are accepted, so that an
//!   overloaded node is not met by the whole lane each time.

mod lane;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use iris_protocol::UserId;
use iris_protocol::frame::{Code, Send};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::backoff;
use crate::message::Outgoing;
use lane::Lane;

/// A server's `retry_after_ms` is believed up to this: no wrong number may stop a lane for weeks.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A lane's front, sent alone, can't be behind anything. So many times in a row mean that this connection's server
/// remembers a refused key we do not have; another connection begins afresh.
const BEHIND_NOTHING_MAX: u32 = 3;

/// A message not finally answered yet. `T` is whatever waits for the answer.
struct Entry<T> {
    message: Outgoing,
    ticket: T,
    taken_at: Instant,
    /// Number and time of the SEND that is unanswered on this connection.
    sent: Option<(u64, Instant)>,
    /// Refused on this connection, for now: its server waits for this key.
    refused_here: bool,
    sent_before: bool,
}

/// What a refusal meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal<T> {
    /// It will be sent again.
    ForNow,
    /// That was this message's answer.
    Final(T),
}

/// The server answered a SEND that has no answer due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotSent;

pub(crate) struct Outbox<T> {
    /// By order of taking.
    entries: BTreeMap<u64, Entry<T>>,
    lanes: HashMap<UserId, Lane>,
    /// Lanes with something to send, fairest first. May name lanes that have nothing left.
    ready: VecDeque<UserId>,
    /// Turned-back lanes with nothing on the wire, by the end of their pause.
    paused: BTreeSet<(Instant, UserId)>,
    /// SEND number to order.
    in_flight: BTreeMap<u64, u64>,
    /// SENDs that may be in flight; 0 without a connection.
    window: usize,
    next_order: u64,
    /// Goes on across connections, so that no answer can be taken for another connection's.
    next_seq: u64,
    backoff: (Duration, Duration),
    rng: SmallRng,
    resends: u64,
    /// Why only a new connection helps.
    stuck: Option<&'static str>,
}

impl<T> Outbox<T> {
    pub(crate) fn new(backoff: (Duration, Duration), seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            window: 0,
            next_order: 0,
            next_seq: 1,
            backoff,
            rng: SmallRng::seed_from_u64(seed),
            resends: 0,
            stuck: None,
        }
    }

    /// Takes a message. How many it may hold is the caller's to bound.
    pub(crate) fn push(&mut self, message: Outgoing, ticket: T, now: Instant) {
        let order = self.next_order;
        self.next_order += 1;
        let user = message.recipient.clone();
        let entry = Entry { message, ticket, taken_at: now, sent: None, refused_here: false, sent_before: false };
        self.entries.insert(order, entry);
        self.lanes.entry(user.clone()).or_default().queue.push_back(order);
        self.make_ready(&user);
    }

    /// A login succeeded; the server takes `window` unanswered SENDs.
    pub(crate) fn connection_opened(&mut self, window: usize) {
        self.window = window;
    }

    /// Nothing new on this connection; answers may still come.
    pub(crate) fn connection_leaving(&mut self) {
        self.window = 0;
    }

    /// What was in flight is unanswered for ever.
    pub(crate) fn connection_lost(&mut self) {
        self.window = 0;
        self.stuck = None;
        self.in_flight.clear();
        for entry in self.entries.values_mut() {
            entry.sent = None;
            entry.refused_here = false;
        }
        self.ready.clear();
        let mut open: Vec<(u64, UserId)> = Vec::new();
        for (user, lane) in &mut self.lanes {
            lane.connection_lost();
            if let Some(until) = lane.turned_back_until() {
                self.paused.insert((until, user.clone()));
            } else if let (true, Some(&front)) = (lane.can_send(), lane.queue.front()) {
                lane.is_ready = true;
                open.push((front, user.clone()));
            }
        }
        open.sort_unstable_by_key(|(front, _)| *front);
        self.ready.extend(open.into_iter().map(|(_, user)| user));
    }

    /// The next SEND, if there is room and a message that may go.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Send> {
        if self.in_flight.len() >= self.window {
            return None;
        }
        self.end_pauses(now);
        while let Some(user) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&user) else { continue };
            lane.is_ready = false;
            let Some(order) = lane.take_next() else { continue };
            if lane.can_send() {
                lane.is_ready = true;
                self.ready.push_back(user);
            }
            let entry = self.entries.get_mut(&order).expect("a lane names only entries that are there");
            let seq = self.next_seq;
            self.next_seq += 1;
            self.resends += u64::from(entry.sent_before);
            entry.sent_before = true;
            entry.sent = Some((seq, now));
            self.in_flight.insert(seq, order);
            let Outgoing { key, recipient, kind, body, durability } = entry.message.clone();
            return Some(Send { seq, key, durability, kind, recipient, body });
        }
        None
    }

    /// ACCEPTED: the message's ticket.
    pub(crate) fn accepted(&mut self, seq: u64, now: Instant) -> Result<T, NotSent> {
        let order = self.in_flight.remove(&seq).ok_or(NotSent)?;
        let (user, ticket) = self.forget(order);
        self.settle(&user, order, Lane::accepted, now);
        Ok(ticket)
    }

    /// REFUSED: the ticket, if that was final.
    pub(crate) fn refused(
        &mut self,
        seq: u64,
        code: Code,
        retry_after: Duration,
        now: Instant,
    ) -> Result<Refusal<T>, NotSent> {
        let order = self.in_flight.remove(&seq).ok_or(NotSent)?;
        if !code.is_retryable() {
            let (user, ticket) = self.forget(order);
            self.settle(&user, order, |_| {}, now);
            return Ok(Refusal::Final(ticket));
        }
        let entry = self.entries.get_mut(&order).expect("what is in flight is there");
        entry.sent = None;
        entry.refused_here = code != Code::Behind;
        let user = entry.message.recipient.clone();
        let lane = self.lanes.get_mut(&user).expect("an entry's lane is there");
        lane.in_flight -= 1;
        let alone = lane.in_flight == 0 && lane.queue.front() == Some(&order);
        let behind_nothing = code == Code::Behind && alone && !lane.is_turned_back();
        if behind_nothing {
            lane.behind_nothing += 1;
            if lane.behind_nothing >= BEHIND_NOTHING_MAX {
                self.stuck = Some("the node waits for a message that was given up");
            }
        }
        let until = if code == Code::Behind && !behind_nothing {
            now
        } else if retry_after > Duration::ZERO {
            now + backoff::asked_for(retry_after.min(RETRY_AFTER_MAX), &mut self.rng)
        } else {
            now + backoff::pause(lane.attempts + 1, self.backoff, &mut self.rng)
        };
        lane.turn_back(until, code != Code::Behind || behind_nothing);
        self.after_answer(&user, now);
        Ok(Refusal::ForNow)
    }

    /// Gives up what was taken longer than `age_max` ago.
    pub(crate) fn expire(&mut self, now: Instant, age_max: Duration) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((&order, entry)) = self.entries.first_key_value() {
            if now.saturating_duration_since(entry.taken_at) < age_max {
                break;
            }
            let sent = entry.sent;
            if sent.is_some() || entry.refused_here {
                // This server refuses the rest of the lane until it sees the key again, which it will not.
                self.stuck = Some("a message was given up that the node may be waiting for");
            }
            let (user, ticket) = self.forget(order);
            expired.push(ticket);
            if let Some((seq, _)) = sent {
                self.in_flight.remove(&seq);
                self.settle(&user, order, |_| {}, now);
            } else {
                self.lanes.get_mut(&user).expect("an entry's lane is there").remove(order);
                self.after_answer(&user, now);
            }
        }
        expired
    }

    /// Gives up everything: every ticket, in order.
    pub(crate) fn give_up(&mut self) -> Vec<T> {
        self.lanes.clear();
        self.ready.clear();
        self.paused.clear();
        self.in_flight.clear();
        std::mem::take(&mut self.entries).into_values().map(|entry| entry.ticket).collect()
    }

    /// Messages not finally answered.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// SENDs unanswered on this connection.
    pub(crate) fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// When the oldest unanswered SEND of this connection was sent.
    pub(crate) fn oldest_sent_at(&self) -> Option<Instant> {
        let order = self.in_flight.first_key_value()?.1;
        self.entries.get(order)?.sent.map(|(_, at)| at)
    }

    /// When [`Self::next`] may have something that it does not have now, by time alone.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.paused.first().filter(|_| self.in_flight.len() < self.window).map(|(until, _)| *until)
    }

    /// Why only a new connection helps, if so.
    pub(crate) fn stuck(&self) -> Option<&'static str> {
        self.stuck
    }

    /// SENDs that repeated a key.
    pub(crate) fn resends(&self) -> u64 {
        self.resends
    }

    fn forget(&mut self, order: u64) -> (UserId, T) {
        let entry = self.entries.remove(&order).expect("only what is there is answered");
        (entry.message.recipient, entry.ticket)
    }

    /// Takes an answered message out of its lane.
    fn settle(&mut self, user: &UserId, order: u64, then: impl FnOnce(&mut Lane), now: Instant) {
        let lane = self.lanes.get_mut(user).expect("an entry's lane is there");
        lane.in_flight -= 1;
        lane.remove(order);
        then(lane);
        self.after_answer(user, now);
    }

    /// An answer can empty a lane, end the wait of a turned-back one, or open its window.
    fn after_answer(&mut self, user: &UserId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(user) else { return };
        if lane.queue.is_empty() {
            if let Some(until) = lane.turned_back_until() {
                self.paused.remove(&(until, user.clone()));
            }
            self.lanes.remove(user);
            return;
        }
        if let Some(until) = lane.turned_back_until().filter(|_| lane.in_flight == 0) {
            if until > now {
                self.paused.insert((until, user.clone()));
                return;
            }
            lane.reopen();
        }
        self.make_ready(user);
    }

    fn end_pauses(&mut self, now: Instant) {
        while let Some((until, _)) = self.paused.first() {
            if *until > now {
                return;
            }
            let Some((_, user)) = self.paused.pop_first() else { return };
            if let Some(lane) = self.lanes.get_mut(&user) {
                lane.reopen();
                self.make_ready(&user);
            }
        }
    }

    fn make_ready(&mut self, user: &UserId) {
        if let Some(lane) = self.lanes.get_mut(user)
            && lane.can_send()
            && !lane.is_ready
        {
            lane.is_ready = true;
            self.ready.push_back(user.clone());
        }
    }
}

#[cfg(test)]
mod tests;
