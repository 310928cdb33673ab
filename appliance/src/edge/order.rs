//! The order rule of one session (A6; docs/protocol.md, "Order", rule 2), per recipient. Pure: told what is sent and how each
//! SEND ends, it says which SEND may be taken.
//!
//! A message keeps its place by the seq it was **first** refused under, however often it is refused again: of two messages
//! refused together the first stays first, even if it alone was sent again and refused again meanwhile.

use std::collections::{BTreeMap, HashMap};

use iris_protocol::{MessageKey, UserId};

/// Refused SENDs kept for one session, over all recipients: several windows of SENDs in flight. A client that lets more pile
/// up does not keep the rule and is cut off.
pub const REFUSED_MAX: usize = 4_096;

/// What becomes of a SEND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on its way; its end must be told to [`Order::ended`].
    Taken {
        /// See [`crate::routing::Submission::epoch`]. Counted per recipient: what a session saw of one lane says nothing about
        /// another.
        epoch: u64,
    },
    /// It is refused and has joined the list.
    Behind,
}

/// How a taken SEND ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Accepted, or refused for good: nobody waits for it.
    Final,
    /// Refused here, to be sent again; it never was on its way.
    NotSubmitted,
    /// Refused on its way, to be sent again.
    Retryable,
    /// Refused on its way because of an earlier one, whose own end may not be known yet.
    Behind,
}

/// More than [`REFUSED_MAX`] refused SENDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {REFUSED_MAX} refused messages were not sent again")]
pub struct TooManyRefused;

/// The rule's state for one session.
#[derive(Debug, Default)]
pub struct Order {
    lanes: HashMap<UserId, Lane>,
    refused: usize,
}

/// One recipient's part.
#[derive(Debug, Default)]
struct Lane {
    /// That of the next SEND.
    epoch: u64,
    /// Taken and not ended, by seq.
    in_flight: BTreeMap<u64, Flight>,
    /// Refused and not sent again since, by place.
    refused: BTreeMap<u64, Refused>,
}

#[derive(Debug)]
struct Refused {
    key: MessageKey,
    /// It must wait for the ends of everything taken before this seq: one of those is why it was refused.
    cause_before: u64,
}

#[derive(Debug)]
struct Flight {
    key: MessageKey,
    place: u64,
    epoch: u64,
    /// An earlier one was refused while this was on its way: it will end as `behind`, and is on the list already unless it
    /// was sent again since.
    doomed: bool,
}

impl Order {
    /// Judges a SEND; `seq` is greater than every one before.
    ///
    /// # Errors
    /// The list is full.
    pub fn offer(&mut self, recipient: &UserId, seq: u64, key: MessageKey) -> Result<Verdict, TooManyRefused> {
        let lane = match self.lanes.get_mut(recipient) {
            Some(lane) => lane,
            None => self.lanes.entry(recipient.clone()).or_default(),
        };
        let caused = |refused: &Refused| lane.in_flight.range(..refused.cause_before).next().is_none();
        let place = match lane.refused.first_key_value() {
            None => seq,
            Some((&place, first)) if first.key == key && caused(first) => {
                lane.refused.remove(&place);
                self.refused -= 1;
                place
            }
            Some(_) => {
                if !lane.refused.values().any(|known| known.key == key) {
                    if self.refused >= REFUSED_MAX {
                        return Err(TooManyRefused);
                    }
                    lane.refused.insert(seq, Refused { key, cause_before: 0 });
                    self.refused += 1;
                }
                return Ok(Verdict::Behind);
            }
        };
        lane.in_flight.insert(seq, Flight { key, place, epoch: lane.epoch, doomed: false });
        Ok(Verdict::Taken { epoch: lane.epoch })
    }

    /// Tells how a taken SEND ended. After a retryable end, what is on its way behind it counts as refused, too.
    pub fn ended(&mut self, recipient: &UserId, seq: u64, end: End) {
        let Some(lane) = self.lanes.get_mut(recipient) else { return };
        let Some(flight) = lane.in_flight.remove(&seq) else { return };
        let before = lane.refused.len();
        if matches!(end, End::Retryable | End::Behind) {
            lane.epoch = lane.epoch.max(flight.epoch + 1);
        }
        match end {
            End::Final => lane.refused.retain(|_, refused| refused.key != flight.key),
            // On the list already, or sent again since.
            _ if flight.doomed => {}
            End::NotSubmitted | End::Retryable | End::Behind => {
                let cause_before = if end == End::Behind { seq } else { 0 };
                lane.refused.insert(flight.place, Refused { key: flight.key, cause_before });
                for later in lane.in_flight.range_mut(seq..).map(|(_, later)| later).filter(|later| !later.doomed) {
                    later.doomed = true;
                    lane.refused.insert(later.place, Refused { key: later.key, cause_before });
                }
            }
        }
        self.refused = self.refused + lane.refused.len() - before;
        self.forget_if_empty(recipient);
    }

    /// Takes a message off the list that is refused for good before it was offered.
    pub fn give_up(&mut self, recipient: &UserId, key: MessageKey) {
        let Some(lane) = self.lanes.get_mut(recipient) else { return };
        let before = lane.refused.len();
        lane.refused.retain(|_, known| known.key != key);
        self.refused -= before - lane.refused.len();
        self.forget_if_empty(recipient);
    }

    fn forget_if_empty(&mut self, recipient: &UserId) {
        if self.lanes.get(recipient).is_some_and(|lane| lane.in_flight.is_empty() && lane.refused.is_empty()) {
            self.lanes.remove(recipient);
        }
    }
}

#[cfg(test)]
#[path = "tests/order.rs"]
mod tests;
