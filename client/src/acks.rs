//! How far the caller has read, and how far the cluster knows it. Pure. Acks are cumulative, so one is under way at a time and
//! carries everything acked meanwhile: a caller that acks each entry costs the cluster no more than one that acks the last.

use std::time::{Duration, Instant};

use iris_protocol::EntryId;

/// An ACK that is not answered holds the next one back no longer than this: a server need not answer one that lies behind
/// the stored cursor.
const UNANSWERED_MAX: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct Acks {
    wanted: EntryId,
    /// The highest sent on this connection, and when.
    sent: Option<(EntryId, Instant)>,
    durable: EntryId,
}

impl Acks {
    /// The caller has dealt with everything up to here.
    pub(crate) fn ack(&mut self, cursor: EntryId) {
        self.wanted = self.wanted.max(cursor);
    }

    /// The last cursor the caller acked.
    pub(crate) fn wanted(&self) -> EntryId {
        self.wanted
    }

    /// Whether everything up to `cursor` is durable.
    pub(crate) fn covers(&self, cursor: EntryId) -> bool {
        self.durable >= cursor
    }

    /// Whether nothing is left to say or to hear.
    pub(crate) fn settled(&self) -> bool {
        self.covers(self.wanted)
    }

    /// Whether an ACK of this connection is unanswered.
    pub(crate) fn in_flight(&self) -> bool {
        self.sent.is_some_and(|(sent, _)| sent > self.durable)
    }

    /// The ACK to send now, if any.
    pub(crate) fn next(&mut self, now: Instant) -> Option<EntryId> {
        let unsaid = self.wanted > self.sent.map_or(self.durable, |(sent, _)| sent.max(self.durable));
        let waits = self.next_wake().is_some_and(|wake| wake > now);
        if !unsaid || waits {
            return None;
        }
        self.sent = Some((self.wanted, now));
        Some(self.wanted)
    }

    /// When [`Self::next`] may have something that it does not have now.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let (sent, at) = self.sent?;
        (sent > self.durable && self.wanted > sent).then(|| at + UNANSWERED_MAX)
    }

    /// The server's word that the cursor is durable.
    pub(crate) fn acked(&mut self, cursor: EntryId) {
        self.durable = self.durable.max(cursor);
    }

    /// What was under way on the connection may be lost.
    pub(crate) fn connection_lost(&mut self) {
        self.sent = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ack_is_under_way_at_a_time_and_carries_the_rest() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        assert_eq!(acks.next(now), None);
        acks.ack(EntryId(5));
        acks.ack(EntryId(3));
        assert_eq!(acks.next(now), Some(EntryId(5)));
        acks.ack(EntryId(6));
        acks.ack(EntryId(9));
        assert_eq!(acks.next(now), None, "5 is under way");
        acks.acked(EntryId(5));
        assert_eq!(acks.next(now), Some(EntryId(9)));
        assert!(!acks.settled());
        acks.acked(EntryId(9));
        assert!(acks.settled());
        assert_eq!(acks.next(now), None);
    }

    #[test]
    fn a_lost_connection_says_it_again_and_a_silent_server_stops_nothing() {
        let (mut acks, now) = (Acks::default(), Instant::now());
        acks.ack(EntryId(5));
        assert_eq!(acks.next(now), Some(EntryId(5)));
        acks.connection_lost();
        assert_eq!(acks.next(now), Some(EntryId(5)));
        acks.ack(EntryId(6));
        assert_eq!(acks.next_wake(), Some(now + UNANSWERED_MAX));
        assert_eq!(acks.next(now + UNANSWERED_MAX), Some(EntryId(6)));
    }
}
