//! The order rule case by case, and against a model: whatever is refused, when and how often, a client sees its messages
//! appended in the order it first sent them.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

fn to(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn key(number: u8) -> MessageKey {
    MessageKey([number; 16])
}

fn send(order: &mut Order, name: &str, message: u8, seq: u64) -> bool {
    order.offer(&to(name), seq, key(message)).unwrap() != Verdict::Behind
}

#[test]
fn nothing_refused_nothing_held() {
    let mut order = Order::default();
    assert!((1..=3).all(|seq| send(&mut order, "bob", seq as u8, seq)));
    (1..=3).for_each(|seq| order.ended(&to("bob"), seq, End::Final));
    assert!(order.lanes.is_empty());
}

#[test]
fn after_a_refusal_only_the_first_refused_may_go_and_other_recipients_are_free() {
    let mut order = Order::default();
    (1..=3).for_each(|seq| assert!(send(&mut order, "bob", seq as u8, seq)));
    order.ended(&to("bob"), 1, End::Final);
    order.ended(&to("bob"), 2, End::Retryable);
    order.ended(&to("bob"), 3, End::Behind);
    assert!(!send(&mut order, "bob", 4, 4));
    assert!(send(&mut order, "eve", 5, 5));
    assert!(!send(&mut order, "bob", 3, 6), "2 goes first");
    assert!((7..=10).zip([2, 3, 4, 6]).all(|(seq, message)| send(&mut order, "bob", message, seq)));
    assert_eq!(order.refused, 0);
}

#[test]
fn a_second_refusal_does_not_let_the_next_one_pass() {
    let mut order = Order::default();
    (1..=2).for_each(|seq| assert!(send(&mut order, "bob", seq as u8, seq)));
    (1..=2).for_each(|seq| order.ended(&to("bob"), seq, End::Retryable));
    assert!(send(&mut order, "bob", 1, 3));
    order.ended(&to("bob"), 3, End::NotSubmitted);
    assert!(!send(&mut order, "bob", 2, 4), "1 keeps its place before 2");
    assert!(send(&mut order, "bob", 1, 5) && send(&mut order, "bob", 2, 6));
}

#[test]
fn what_is_on_its_way_behind_a_refused_one_does_not_count_as_taken() {
    let mut order = Order::default();
    (1..=2).for_each(|seq| assert!(send(&mut order, "bob", seq as u8, seq)));
    order.ended(&to("bob"), 1, End::Retryable);
    assert!(send(&mut order, "bob", 1, 3));
    assert!(!send(&mut order, "bob", 9, 4), "2 is not answered yet, but will be `behind`");
    assert!(send(&mut order, "bob", 2, 5), "sent again before its answer came");
    order.ended(&to("bob"), 2, End::Behind);
    assert!(send(&mut order, "bob", 9, 6), "the late answer to 2 is no new refusal");
}

#[test]
fn a_behind_that_comes_before_its_cause_waits_for_it() {
    let mut order = Order::default();
    (1..=2).for_each(|seq| assert!(send(&mut order, "bob", seq as u8, seq)));
    order.ended(&to("bob"), 2, End::Behind);
    assert!(!send(&mut order, "bob", 2, 3), "1 is still on its way and will be refused");
    order.ended(&to("bob"), 1, End::Retryable);
    assert!(!send(&mut order, "bob", 2, 4));
    assert!(send(&mut order, "bob", 1, 5) && send(&mut order, "bob", 2, 6), "resends may be pipelined");
}

#[test]
fn a_final_refusal_blocks_nothing() {
    let mut order = Order::default();
    assert!(send(&mut order, "bob", 1, 1));
    order.ended(&to("bob"), 1, End::Retryable);
    assert!(!send(&mut order, "bob", 2, 2));
    order.give_up(&to("bob"), key(1));
    assert!(send(&mut order, "bob", 2, 3));
    order.ended(&to("bob"), 3, End::Final);
    order.give_up(&to("bob"), key(9));
    assert!(order.lanes.is_empty());
    assert_eq!(order.refused, 0);
}

#[test]
fn epochs_tell_what_was_sent_knowing_of_a_refusal() {
    let mut order = Order::default();
    let epoch = |order: &mut Order, message, seq| match order.offer(&to("bob"), seq, key(message)).unwrap() {
        Verdict::Taken { epoch } => epoch,
        Verdict::Behind => panic!("refused"),
    };
    assert_eq!((epoch(&mut order, 1, 1), epoch(&mut order, 2, 2), epoch(&mut order, 3, 3)), (0, 0, 0));
    order.ended(&to("bob"), 3, End::NotSubmitted);
    assert_eq!(epoch(&mut order, 3, 4), 0, "a refusal made here says nothing about what is on its way");
    order.ended(&to("bob"), 1, End::Retryable);
    assert_eq!(epoch(&mut order, 1, 5), 1);
    order.ended(&to("bob"), 2, End::Behind);
    assert_eq!(epoch(&mut order, 2, 6), 1);
    order.ended(&to("bob"), 5, End::Retryable);
    assert_eq!(epoch(&mut order, 1, 7), 2);
    assert_eq!(order.offer(&to("eve"), 8, key(8)), Ok(Verdict::Taken { epoch: 0 }));
}

#[test]
fn who_keeps_sending_to_a_blocked_recipient_is_stopped() {
    let mut order = Order::default();
    assert!(send(&mut order, "bob", 0, 1));
    order.ended(&to("bob"), 1, End::Retryable);
    let mut stopped = (2u64..).filter(|seq| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seq.to_be_bytes());
        order.offer(&to("bob"), *seq, MessageKey(bytes)).is_err()
    });
    assert_eq!(stopped.next(), Some(REFUSED_MAX as u64 + 1));
}

/// One recipient, a client, and a router that commits, gives up, and closes the lane as the real one does.
#[derive(Default)]
struct Model {
    order: Order,
    seq: u64,
    next: u8,
    /// On the way: message, seq, epoch.
    forwarded: VecDeque<(u8, u64, u64)>,
    /// Ended in the router, and not yet seen by the session.
    answers: VecDeque<(u8, u64, End)>,
    closed_until: u64,
    /// What the client knows to be refused, in first order.
    refused: BTreeSet<u8>,
    appended: Vec<u8>,
}

impl Model {
    fn client_sends(&mut self, message: u8, refuse_here: bool) {
        self.seq += 1;
        self.refused.remove(&message);
        let seq = self.seq;
        match self.order.offer(&to("bob"), seq, key(message)).unwrap() {
            Verdict::Behind => drop(self.refused.insert(message)),
            Verdict::Taken { .. } if refuse_here => {
                self.order.ended(&to("bob"), seq, End::NotSubmitted);
                self.refused.insert(message);
            }
            Verdict::Taken { epoch } if epoch < self.closed_until => {
                self.answers.push_back((message, seq, End::Behind))
            }
            Verdict::Taken { epoch } => self.forwarded.push_back((message, seq, epoch)),
        }
    }

    fn client_sends_next(&mut self, refuse_here: bool) {
        if self.next < 200 {
            self.next += 1;
            self.client_sends(self.next - 1, refuse_here);
        }
    }

    fn client_obeys(&mut self, refuse_here: bool) {
        match self.refused.first().copied() {
            Some(first) => self.client_sends(first, refuse_here),
            None => self.client_sends_next(refuse_here),
        }
    }

    fn commit(&mut self) {
        if let Some((message, seq, _)) = self.forwarded.pop_front() {
            // A key that is known appends nothing.
            if !self.appended.contains(&message) {
                self.appended.push(message);
            }
            self.answers.push_back((message, seq, End::Final));
        }
    }

    /// The oldest, `committed` in truth or not, and all behind it.
    fn give_up(&mut self) {
        let mut end = End::Retryable;
        for (message, seq, epoch) in self.forwarded.drain(..) {
            self.closed_until = self.closed_until.max(epoch + 1);
            self.answers.push_back((message, seq, end));
            end = End::Behind;
        }
    }

    fn answer(&mut self) {
        if let Some((message, seq, end)) = self.answers.pop_front() {
            self.order.ended(&to("bob"), seq, end);
            if end != End::Final && !self.forwarded.iter().chain(&[]).any(|(other, ..)| *other == message) {
                self.refused.insert(message);
            }
        }
    }
}

proptest! {
    #[test]
    fn first_appends_are_in_first_order(steps in prop::collection::vec(0..8u8, 1..400)) {
        let mut model = Model::default();
        for step in steps {
            match step {
                0 | 1 => model.client_obeys(false),
                2 => model.client_obeys(true),
                // A careless client, or one that does not know of a refusal yet: it must not get through.
                3 => model.client_sends_next(false),
                4 => model.commit(),
                5 => model.give_up(),
                _ => model.answer(),
            }
        }
        prop_assert!(model.appended.is_sorted(), "{:?}", model.appended);
        // Everything goes through in the end.
        for _ in 0..2_000 {
            while !(model.answers.is_empty() && model.forwarded.is_empty()) {
                model.commit();
                model.answer();
            }
            let Some(first) = model.refused.first().copied() else { break };
            model.client_sends(first, false);
        }
        prop_assert!(model.appended.is_sorted());
        prop_assert_eq!(model.appended.len(), usize::from(model.next));
        prop_assert!(model.order.lanes.is_empty());
        prop_assert_eq!(model.order.refused, 0);
    }
}
