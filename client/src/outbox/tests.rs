//! The outbox against hand-made answers, and against a model server that refuses, loses and disconnects at random.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use iris_protocol::MessageKey;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
const NOW: Duration = Duration::ZERO;

struct Bench {
    outbox: Outbox<u64>,
    epoch: Instant,
    now: Duration,
    pushed: u64,
}

impl Bench {
    fn new(window: usize) -> Self {
        let mut outbox = Outbox::new(BACKOFF, 7);
        outbox.connection_opened(window);
        Self { outbox, epoch: Instant::now(), now: NOW, pushed: 0 }
    }

    fn now(&self) -> Instant {
        self.epoch + self.now
    }

    /// Pushes messages numbered from 0 on, one to each of these recipients.
    fn push(&mut self, recipients: &str) {
        for recipient in recipients.chars() {
            let mut message = Outgoing::new(UserId::new(recipient.to_string()).unwrap(), "hi");
            message.key = key(self.pushed);
            self.outbox.push(message, self.pushed, self.now());
            self.pushed += 1;
        }
    }

    /// Everything that may go now, as (seq, message number).
    fn sent(&mut self) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| self.outbox.next(self.epoch + self.now).map(|send| (send.seq, number(send.key))))
            .collect()
    }

    fn refuse(&mut self, seq: u64, code: Code, retry_ms: u64) -> Refusal<u64> {
        self.outbox.refused(seq, code, Duration::from_millis(retry_ms), self.now()).unwrap()
    }
}

fn key(number: u64) -> MessageKey {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    MessageKey(key)
}

fn number(key: MessageKey) -> u64 {
    u64::from_be_bytes(key.0[8..].try_into().unwrap())
}

#[test]
fn a_refused_lane_waits_and_goes_again_in_order_while_others_go_on() {
    let mut bench = Bench::new(10);
    bench.push("aaab");
    assert_eq!(bench.sent(), [(1, 0), (2, 3), (3, 1), (4, 2)]);
    assert_eq!(bench.refuse(1, Code::RateLimited, 100), Refusal::ForNow);
    bench.push("ab");
    assert_eq!(bench.sent(), [(5, 5)], "a waits, b goes on");
    bench.refuse(3, Code::Behind, 0);
    bench.refuse(4, Code::Behind, 0);
    bench.now += Duration::from_millis(99);
    assert_eq!(bench.sent(), []);
    bench.now += Duration::from_millis(20);
    assert_eq!(bench.sent(), [(6, 0)], "the front goes first, alone");
    assert_eq!(bench.outbox.accepted(6, bench.now()), Ok(0));
    assert_eq!(bench.sent(), [(7, 1), (8, 2)]);
    assert_eq!(bench.outbox.accepted(7, bench.now()), Ok(1));
    assert_eq!(bench.sent(), [(9, 4)]);
}

#[test]
fn a_lane_is_not_sent_again_before_all_of_it_is_answered() {
    let mut bench = Bench::new(10);
    bench.push("aa");
    bench.sent();
    bench.refuse(1, Code::Unavailable, 10);
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.sent(), [], "2 may still be accepted");
    bench.refuse(2, Code::Behind, 0);
    assert_eq!(bench.sent(), [(3, 0)]);
}

#[test]
fn a_lost_connection_sends_all_again_in_first_order() {
    let mut bench = Bench::new(3);
    bench.push("abab");
    assert_eq!(bench.sent(), [(1, 0), (2, 1), (3, 2)], "the window is kept");
    bench.outbox.accepted(1, bench.now()).unwrap();
    bench.outbox.connection_lost();
    assert_eq!(bench.sent(), []);
    bench.push("a");
    bench.outbox.connection_opened(10);
    assert_eq!(bench.sent(), [(4, 1), (5, 2), (6, 3), (7, 4)]);
    assert_eq!(bench.outbox.accepted(2, bench.now()), Err(NotSent), "an answer of the old connection");
    assert_eq!(bench.outbox.resends(), 2);
}

#[test]
fn a_final_refusal_blocks_nothing() {
    let mut bench = Bench::new(10);
    bench.push("aa");
    bench.sent();
    assert_eq!(bench.refuse(1, Code::KeyConflict, 0), Refusal::Final(0));
    bench.push("a");
    assert_eq!(bench.sent(), [(3, 2)]);
}

#[test]
fn giving_up_what_the_node_waits_for_asks_for_a_new_connection() {
    let mut bench = Bench::new(10);
    bench.push("a");
    bench.sent();
    bench.refuse(1, Code::Overloaded, 60_000);
    bench.now += Duration::from_secs(5);
    bench.push("a");
    assert_eq!(bench.outbox.expire(bench.now(), Duration::from_secs(5)), [0]);
    assert!(bench.outbox.stuck().is_some());
    bench.outbox.connection_lost();
    assert!(bench.outbox.stuck().is_none());
}

#[test]
fn being_called_behind_nothing_asks_for_a_new_connection() {
    let mut bench = Bench::new(10);
    bench.push("a");
    for _ in 0..BEHIND_NOTHING_MAX {
        assert!(bench.outbox.stuck().is_none());
        let [(seq, 0)] = bench.sent()[..] else { panic!("one is sent") };
        bench.refuse(seq, Code::Behind, 0);
        bench.now += Duration::from_secs(2);
    }
    assert!(bench.outbox.stuck().is_some());
}

#[test]
fn time_alone_wakes_a_paused_lane_but_not_without_room() {
    let mut bench = Bench::new(1);
    bench.push("ab");
    bench.sent();
    bench.refuse(1, Code::RateLimited, 100);
    assert!(bench.outbox.next_wake().is_some());
    assert_eq!(bench.sent(), [(2, 1)]);
    assert_eq!(bench.outbox.next_wake(), None);
}

/// A server that keeps docs/protocol.md: it takes the frames of a connection in order, blocks a recipient at the first refusal
/// until that key comes again, deduplicates across connections, and answers in any order.
#[derive(Default)]
struct Server {
    log: HashMap<UserId, Vec<u64>>,
    appended: HashSet<u64>,
    blocked: HashMap<UserId, u64>,
    answers: Vec<(u64, Answer)>,
    last_seq: u64,
    unanswered: usize,
}

#[derive(Clone, Copy)]
enum Answer {
    Accept,
    Refuse(Code, u64),
}

impl Server {
    fn take(&mut self, send: Send, mood: u8) {
        assert!(send.seq > self.last_seq, "seq must increase");
        self.last_seq = send.seq;
        self.unanswered += 1;
        let number = number(send.key);
        let answer = if self.blocked.get(&send.recipient).is_some_and(|blocked| *blocked != number) {
            Answer::Refuse(Code::Behind, 0)
        } else {
            self.blocked.remove(&send.recipient);
            match mood {
                0 => Answer::Refuse(Code::RateLimited, 50),
                1 => Answer::Refuse(Code::Overloaded, 0),
                2 if number % 7 != 3 => {
                    self.append(&send.recipient, number);
                    Answer::Refuse(Code::Unavailable, 0)
                }
                // Final is final: the same message meets the same answer on every connection.
                _ if number % 7 == 3 => Answer::Refuse(Code::KeyConflict, 0),
                _ => {
                    self.append(&send.recipient, number);
                    Answer::Accept
                }
            }
        };
        if let Answer::Refuse(code, _) = answer
            && code.is_retryable()
        {
            self.blocked.entry(send.recipient).or_insert(number);
        }
        self.answers.push((send.seq, answer));
    }

    fn append(&mut self, user: &UserId, number: u64) {
        if self.appended.insert(number) {
            self.log.entry(user.clone()).or_default().push(number);
        }
    }

    fn disconnect(&mut self) {
        self.blocked.clear();
        self.answers.clear();
        self.unanswered = 0;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    /// Send up to so many; the server takes them in these moods.
    Send(Vec<u8>),
    Answer(prop::sample::Index),
    Disconnect {
        /// Frames on the wire that still reach the server.
        reach: usize,
        /// Frames behind them that do not.
        lost: usize,
    },
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3).prop_map(Step::Push),
        4 => prop::collection::vec(0u8..16, 1..8).prop_map(Step::Send),
        8 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (0usize..4, 0usize..4).prop_map(|(reach, lost)| Step::Disconnect { reach, lost }),
        2 => (0u16..200).prop_map(Step::Pass),
    ]
}

struct World {
    bench: Bench,
    server: Server,
    results: HashMap<u64, bool>,
    pushed: HashMap<UserId, Vec<u64>>,
}

const WINDOW: usize = 6;

impl World {
    fn answer(&mut self, at: usize) {
        let (seq, answer) = self.server.answers.swap_remove(at);
        self.server.unanswered -= 1;
        let ticket = match answer {
            Answer::Accept => Some((self.bench.outbox.accepted(seq, self.bench.now()).unwrap(), true)),
            Answer::Refuse(code, ms) => match self.bench.refuse(seq, code, ms) {
                Refusal::Final(ticket) => Some((ticket, false)),
                Refusal::ForNow => None,
            },
        };
        if let Some((ticket, accepted)) = ticket {
            assert_eq!(self.results.insert(ticket, accepted), None, "two results for {ticket}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(lane) => {
                let name = char::from(b'a' + lane).to_string();
                self.pushed.entry(UserId::new(&name).unwrap()).or_default().push(self.bench.pushed);
                self.bench.push(&name);
            }
            Step::Send(moods) => {
                for mood in moods {
                    let Some(send) = self.bench.outbox.next(self.bench.now()) else { break };
                    self.server.take(send, mood);
                    assert!(self.server.unanswered <= WINDOW, "more in flight than allowed");
                }
            }
            Step::Answer(index) => {
                if !self.server.answers.is_empty() {
                    self.answer(index.index(self.server.answers.len()));
                }
            }
            Step::Disconnect { reach, lost } => {
                for _ in 0..reach {
                    let Some(send) = self.bench.outbox.next(self.bench.now()) else { break };
                    self.server.take(send, 15);
                }
                for _ in 0..lost {
                    let _ = self.bench.outbox.next(self.bench.now());
                }
                self.server.disconnect();
                self.bench.outbox.connection_lost();
                self.bench.outbox.connection_opened(WINDOW);
            }
            Step::Pass(ms) => self.bench.now += Duration::from_millis(ms.into()),
        }
    }

    /// A healthy server and time: everything must come to its end.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.bench.outbox.len() == 0 {
                return;
            }
            if let Some(send) = self.bench.outbox.next(self.bench.now()) {
                self.server.take(send, 15);
            } else if !self.server.answers.is_empty() {
                self.answer(0);
            } else {
                let wake = self.bench.outbox.next_wake().expect("stalled: nothing to send, to hear or to wait for");
                self.bench.now = wake.saturating_duration_since(self.bench.epoch).max(self.bench.now);
            }
        }
        panic!("{} messages never ended", self.bench.outbox.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn order_is_kept_and_every_message_has_one_result(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World {
            bench: Bench::new(WINDOW),
            server: Server::default(),
            results: HashMap::new(),
            pushed: HashMap::new(),
        };
        for step in steps {
            world.step(step);
        }
        world.finish();
        prop_assert!(world.bench.outbox.stuck().is_none(), "a server that keeps the protocol is never given up");
        prop_assert_eq!(world.results.len() as u64, world.bench.pushed);
        for (user, pushed) in &world.pushed {
            let expected: Vec<u64> = pushed.iter().copied().filter(|it| world.server.appended.contains(it)).collect();
            prop_assert_eq!(world.server.log.get(user).cloned().unwrap_or_default(), expected);
            for number in pushed {
                prop_assert_eq!(world.results[number], world.server.appended.contains(number));
            }
        }
    }
}
