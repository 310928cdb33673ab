//! One subscription's state: where it stands, what the server may still send, what the caller has not taken yet. Pure. It
//! promises the caller ids that only increase, whatever connections come and go, and a buffer no longer than the credit.

use std::collections::VecDeque;

use bytes::Bytes;
use iris_protocol::EntryId;
use iris_protocol::frame::{ClientFrame, Delivery, SubscribeFrom};

use crate::subscription::Event;

/// Bodies up to this long are copied out of the read buffer, so that a caller who keeps one small entry does not keep the
/// buffer of hundreds alive.
const COPIED_LEN_MAX: usize = 4096;

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Shown,
    Hidden,
    /// The server sent more than it was given credit for.
    Breach,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    /// Tells this subscription from those before it.
    pub(crate) generation: u64,
    /// Where a new connection begins.
    from: SubscribeFrom,
    credit: u32,
    buffer: VecDeque<Event>,
    /// Entries in the buffer; the rest of it are lives, never two in a row.
    buffered: u32,
    /// Entries the server may send on this connection; none if it knows of no subscription.
    granted: Option<u32>,
}

impl Inbox {
    /// `credit` is at least 1.
    pub(crate) fn new(generation: u64, from: SubscribeFrom, credit: u32) -> Self {
        Self { generation, from, credit, buffer: VecDeque::new(), buffered: 0, granted: None }
    }

    /// The frame that tells the server where to begin, or how much more it may send.
    pub(crate) fn next_frame(&mut self) -> Option<ClientFrame> {
        let Some(granted) = self.granted else {
            let credit = self.credit - self.buffered;
            self.granted = Some(credit);
            return Some(ClientFrame::Subscribe { from: self.from, credit });
        };
        if !self.wants_credit() {
            return None;
        }
        let entries = self.credit - self.buffered - granted;
        self.granted = Some(granted + entries);
        Some(ClientFrame::Credit { entries })
    }

    /// Whether enough was taken to be worth a CREDIT: half of it, so that the server never waits for one on a short road.
    pub(crate) fn wants_credit(&self) -> bool {
        self.granted.is_some_and(|granted| self.credit - self.buffered - granted >= (self.credit / 2).max(1))
    }

    /// Whether the server has been told of it on this connection.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.granted.is_some()
    }

    pub(crate) fn connection_lost(&mut self) {
        self.granted = None;
    }

    pub(crate) fn entry(&mut self, mut entry: Delivery) -> Taken {
        let Some(granted) = self.granted.and_then(|granted| granted.checked_sub(1)) else { return Taken::Breach };
        self.granted = Some(granted);
        if matches!(self.from, SubscribeFrom::After(shown) if entry.id <= shown) {
            return Taken::Hidden;
        }
        self.from = SubscribeFrom::After(entry.id);
        if entry.body.len() <= COPIED_LEN_MAX {
            entry.body = Bytes::copy_from_slice(&entry.body);
        }
        self.buffered += 1;
        self.buffer.push_back(Event::Entry(entry));
        Taken::Shown
    }

    pub(crate) fn live(&mut self, cursor: EntryId) {
        let cursor = match self.from {
            SubscribeFrom::After(shown) => shown.max(cursor),
            SubscribeFrom::Stored => cursor,
        };
        self.from = SubscribeFrom::After(cursor);
        if let Some(Event::Live(last)) = self.buffer.back_mut() {
            *last = cursor;
        } else {
            self.buffer.push_back(Event::Live(cursor));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.buffer.pop_front()?;
        if matches!(event, Event::Entry(_)) {
            self.buffered -= 1;
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_protocol::{MessageKey, UserId};
    use proptest::prelude::*;

    fn entry(id: u64) -> Delivery {
        let sender = UserId::new("bob").unwrap();
        Delivery { id: EntryId(id), kind: 0, key: MessageKey([0; 16]), sender, body: Bytes::from_static(b"hi") }
    }

    #[test]
    fn a_new_connection_goes_on_where_the_last_one_ended() {
        let mut inbox = Inbox::new(0, SubscribeFrom::Stored, 4);
        assert_eq!(inbox.next_frame(), Some(ClientFrame::Subscribe { from: SubscribeFrom::Stored, credit: 4 }));
        assert_eq!(inbox.entry(entry(7)), Taken::Shown);
        inbox.connection_lost();
        let again = ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId(7)), credit: 3 };
        assert_eq!(inbox.next_frame(), Some(again), "one is still in the buffer");
        assert_eq!(inbox.entry(entry(7)), Taken::Hidden);
        inbox.live(EntryId(7));
        assert_eq!(inbox.pop(), Some(Event::Entry(entry(7))));
        assert_eq!(inbox.pop(), Some(Event::Live(EntryId(7))));
        assert_eq!(inbox.pop(), None);
    }

    #[test]
    fn more_than_the_credit_is_a_breach() {
        let mut inbox = Inbox::new(0, SubscribeFrom::Stored, 1);
        assert_eq!(inbox.entry(entry(1)), Taken::Breach, "before SUBSCRIBE");
        inbox.next_frame();
        assert_eq!(inbox.entry(entry(1)), Taken::Shown);
        assert_eq!(inbox.entry(entry(2)), Taken::Breach);
    }

    proptest! {
        /// Against a server that uses all its credit and repeats itself after reconnects: ids increase, none is missing, the
        /// buffer keeps its bound, and a reader that goes on reading is never starved.
        #[test]
        fn every_entry_is_shown_once(credit in 1u32..10, steps in proptest::collection::vec(0u8..10, 1..300)) {
            let mut inbox = Inbox::new(0, SubscribeFrom::After(EntryId::ZERO), credit);
            let (mut server_at, mut server_credit, mut shown) = (0u64, 0u32, 0u64);
            for step in steps {
                match inbox.next_frame() {
                    Some(ClientFrame::Subscribe { from: SubscribeFrom::After(from), credit }) => {
                        // A server may begin earlier than asked: delivery is at least once.
                        server_at = from.0.saturating_sub(u64::from(step % 3));
                        server_credit = credit;
                    }
                    Some(ClientFrame::Credit { entries }) => server_credit += entries,
                    None => {}
                    other => prop_assert!(false, "{other:?}"),
                }
                match step {
                    0 => inbox.connection_lost(),
                    1..=4 => if let Some(Event::Entry(entry)) = inbox.pop() {
                        shown += 1;
                        prop_assert_eq!(entry.id.0, shown);
                    },
                    _ if server_credit > 0 => {
                        server_credit -= 1;
                        server_at += 1;
                        prop_assert!(inbox.entry(entry(server_at)) != Taken::Breach);
                    }
                    _ => prop_assert!(inbox.buffered > 0, "no credit and nothing to read"),
                }
                prop_assert!(inbox.buffer.len() <= credit as usize);
            }
        }
    }
}
