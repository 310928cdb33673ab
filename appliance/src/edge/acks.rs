//! The device's cursor on its way to the leader (A8): one move at a time; what the client asks for meanwhile is merged into
//! the next. Pure: time and tickets are passed in, submitting is the conversation's.

use iris_protocol::EntryId;
use tokio::time::{Duration, Instant};

/// A move not answered by then is made again: longer than the router itself tries.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);

/// What the session has to move.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Asked for and not on its way.
    wanted: Option<EntryId>,
    moving: Option<Move>,
    /// See [`crate::routing::Submission::epoch`].
    epoch: u64,
    /// The next move waits until then.
    pause_until: Option<Instant>,
}

#[derive(Debug)]
struct Move {
    ticket: u64,
    cursor: EntryId,
    deadline: Instant,
}

impl Acks {
    /// The client is done with everything up to `cursor`.
    pub(super) fn ask(&mut self, cursor: EntryId) {
        self.wanted = self.wanted.max(Some(cursor));
    }

    /// Whether a ticket is that of the move on its way.
    pub(super) fn is_moving(&self, ticket: u64) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.ticket == ticket)
    }

    /// Whether every ACK was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.wanted.is_none() && self.moving.is_none()
    }

    /// What to submit now, if anything.
    pub(super) fn next(&self, now: Instant) -> Option<EntryId> {
        let free = self.moving.is_none() && self.pause_until.is_none_or(|until| until <= now);
        self.wanted.filter(|_| free)
    }

    /// The next move's epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What [`Self::next`] said is on its way.
    pub(super) fn began(&mut self, ticket: u64, cursor: EntryId, now: Instant) {
        (self.wanted, self.pause_until) = (None, None);
        self.moving = Some(Move { ticket, cursor, deadline: now + MOVE_DEADLINE });
    }

    /// The move on its way was carried out; the cursor stands at `cursor`.
    pub(super) fn moved(&mut self, cursor: EntryId) {
        self.moving = None;
        // What was asked for meanwhile may be answered by this, too.
        self.wanted = self.wanted.filter(|wanted| *wanted > cursor);
    }

    /// The move on its way, or the attempt to begin one, failed: it is made again, not before `pause_until`.
    pub(super) fn failed(&mut self, pause_until: Instant) {
        if let Some(moving) = self.moving.take() {
            self.ask(moving.cursor);
            self.epoch += 1;
        }
        self.pause_until = Some(pause_until);
    }

    /// Whether the move on its way took too long. A late answer to it is ignored: cursors never go back.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.deadline <= now)
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.moving {
            Some(moving) => Some(moving.deadline),
            None => self.wanted.and(self.pause_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_are_merged_while_one_is_on_its_way() {
        let now = Instant::now();
        let mut acks = Acks::default();
        acks.ask(EntryId(5));
        assert_eq!(acks.next(now), Some(EntryId(5)));
        acks.began(1, EntryId(5), now);
        acks.ask(EntryId(9));
        acks.ask(EntryId(7));
        assert_eq!(acks.next(now), None);
        acks.moved(EntryId(5));
        assert_eq!(acks.next(now), Some(EntryId(9)));
        acks.began(2, EntryId(9), now);
        acks.ask(EntryId(3));
        acks.moved(EntryId(9));
        assert!(acks.is_answered(), "3 is behind 9 and is answered with it");
    }

    #[test]
    fn a_failed_move_is_made_again_with_what_came_meanwhile() {
        let now = Instant::now();
        let mut acks = Acks::default();
        acks.ask(EntryId(5));
        acks.began(1, EntryId(5), now);
        acks.ask(EntryId(3));
        assert!(!acks.is_late(now) && acks.is_late(now + MOVE_DEADLINE));
        let later = now + Duration::from_millis(200);
        acks.failed(later);
        assert!(!acks.is_moving(1));
        assert_eq!((acks.next(now), acks.next(later)), (None, Some(EntryId(5))));
        assert_eq!(acks.deadline(), Some(later));
    }
}
