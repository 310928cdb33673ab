//! A sender: one device that sends to several inboxes, holds what is not acked, and sends it again in order, at whatever node
//! it is connected to, until it is.

use std::collections::{BTreeMap, VecDeque};
use std::io::Result;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::frame::{ClientFrame, Durability, Send, ServerFrame, Status};
use iris_protocol::{MessageKey, UserId};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use tokio::time::Instant;

use super::super::time::unix_ms;
use super::{PATIENCE, Parts, Talk};
use crate::oracle::Fate;

/// Sent again at once.
const AGAIN_AT_ONCE: usize = 16;

/// After a refusal, before what was refused goes again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What a sender sends.
#[derive(Debug, Clone)]
pub struct Sending {
    /// As whom.
    pub sender: UserId,
    /// To whom.
    pub recipients: Vec<UserId>,
    /// Between two messages, in milliseconds.
    pub every_ms: std::ops::Range<u64>,
    /// Unanswered at once to one inbox.
    pub window: usize,
    /// Longest body.
    pub body_len_max: usize,
    /// Nothing new after that.
    pub until_ms: u64,
}

/// What waits for one recipient, in order.
#[derive(Default)]
struct Lane {
    unacked: VecDeque<usize>,
    /// Sent on this connection: a prefix of `unacked`, answered or not.
    sent: usize,
    in_flight: usize,
    /// Something was refused: nothing more goes until everything under way is answered.
    refused: bool,
    again_at: Option<Instant>,
}

struct Sender {
    parts: Parts,
    what: Sending,
    rng: StdRng,
    lanes: BTreeMap<UserId, Lane>,
    next_at: Instant,
    /// When a node last answered, or was asked while nothing was under way.
    heard_at: Instant,
    /// Of this connection: what each number was.
    numbers: BTreeMap<u64, (UserId, usize)>,
    next_number: u64,
}

/// Sends until time is up, and then until everything is acked.
pub async fn send(parts: Parts, what: Sending, mut rng: StdRng) {
    let next_at = Instant::now() + parts.pause(&what.every_ms, &mut rng);
    let lanes = what.recipients.iter().map(|user| (user.clone(), Lane::default())).collect();
    let (heard_at, numbers) = (Instant::now(), BTreeMap::new());
    let mut sender = Sender { parts, what, rng, lanes, next_at, heard_at, numbers, next_number: 1 };
    while !sender.is_done() {
        // A connection that broke, or was refused: the next one.
        let _ = sender.one_connection().await;
    }
}

impl Sender {
    fn is_done(&self) -> bool {
        self.parts.time.now_ms() >= self.what.until_ms && self.lanes.values().all(|lane| lane.unacked.is_empty())
    }

    async fn one_connection(&mut self) -> Result<()> {
        self.numbers.clear();
        for lane in self.lanes.values_mut() {
            (lane.sent, lane.in_flight, lane.refused, lane.again_at) = (0, 0, false, None);
        }
        let sender = self.what.sender.clone();
        let mut talk = self.parts.connect(&sender, "lane", &mut self.rng).await?;
        self.heard_at = Instant::now();
        while !self.is_done() {
            self.make_new();
            self.pump(&mut talk).await?;
            let again = self.lanes.values().filter_map(|lane| lane.again_at).min();
            let wake = again.map_or(self.next_at, |again| again.min(self.next_at));
            tokio::select! {
                biased;
                frame = talk.hear_whenever() => {
                    self.heard_at = Instant::now();
                    self.on_frame(frame?)?;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            if self.numbers.is_empty() {
                self.heard_at = Instant::now();
            }
            if self.heard_at.elapsed() > PATIENCE {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        talk.say(&ClientFrame::Bye).await
    }

    /// The next message, if it is time for one.
    fn make_new(&mut self) {
        let now = Instant::now();
        if now < self.next_at {
            return;
        }
        self.next_at = now + self.parts.pause(&self.what.every_ms, &mut self.rng);
        let now_ms = self.parts.time.now_ms();
        if now_ms >= self.what.until_ms {
            // Only what is under way is of interest now.
            self.next_at = now + Duration::from_secs(1);
            return;
        }
        let recipient = self.what.recipients[self.rng.random_range(0..self.what.recipients.len())].clone();
        let mut body = vec![0; self.rng.random_range(8..=self.what.body_len_max)];
        self.rng.fill_bytes(&mut body);
        let key = key(unix_ms(now_ms), &mut self.rng);
        let message = self.parts.book.intend(&self.what.sender, &recipient, key, Bytes::from(body));
        if let Some(lane) = self.lanes.get_mut(&recipient) {
            lane.unacked.push_back(message);
        }
    }

    async fn pump(&mut self, talk: &mut Talk) -> Result<()> {
        let mut frames = Vec::new();
        for (recipient, lane) in &mut self.lanes {
            if lane.refused && lane.in_flight == 0 {
                let again_at = *lane.again_at.get_or_insert_with(|| Instant::now() + AGAIN_AFTER);
                if Instant::now() < again_at {
                    continue;
                }
                (lane.sent, lane.refused, lane.again_at) = (0, false, None);
            }
            while !lane.refused && lane.in_flight < self.what.window && lane.sent < lane.unacked.len() {
                let message = lane.unacked[lane.sent];
                self.numbers.insert(self.next_number, (recipient.clone(), message));
                frames.push(self.parts.frame(self.next_number, message));
                self.next_number += 1;
                lane.sent += 1;
                lane.in_flight += 1;
            }
        }
        for frame in frames {
            talk.say(&frame).await?;
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: ServerFrame) -> Result<()> {
        let now_ms = self.parts.time.now_ms();
        match frame {
            ServerFrame::Accepted { seq, status: Status::Committed, id, .. } => {
                let Some((recipient, message)) = self.numbers.remove(&seq) else { return Ok(()) };
                self.parts.book.acked(now_ms, message, id);
                if let Some(lane) = self.lanes.get_mut(&recipient) {
                    lane.in_flight -= 1;
                    if let Some(at) = lane.unacked.iter().position(|waiting| *waiting == message) {
                        lane.unacked.remove(at);
                        lane.sent = lane.sent.saturating_sub(1);
                    }
                }
            }
            ServerFrame::Refused { seq, code, reason, .. } => {
                let Some((recipient, message)) = self.numbers.remove(&seq) else { return Ok(()) };
                if !code.is_retryable() {
                    self.parts.book.broken(
                        "one answer",
                        now_ms,
                        format!("message {message} refused: {code}, {reason}"),
                    );
                }
                if let Some(lane) = self.lanes.get_mut(&recipient) {
                    lane.in_flight -= 1;
                    lane.refused = true;
                }
            }
            ServerFrame::Error { .. } | ServerFrame::GoAway { .. } => {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        Ok(())
    }
}

impl Parts {
    fn frame(&self, seq: u64, message: usize) -> ClientFrame {
        let pages = self.book.pages();
        let intent = &pages.records[message].intent;
        ClientFrame::Send(Send {
            seq,
            key: intent.key,
            durability: Durability::Quorum,
            kind: 0,
            recipient: intent.recipient.clone(),
            body: pages.bodies[message].clone(),
        })
    }
}

/// A UUIDv7, as a client with a right clock makes it.
fn key(unix_ms: u64, rng: &mut StdRng) -> MessageKey {
    let mut random = [0; 10];
    rng.fill_bytes(&mut random);
    MessageKey(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().into_bytes())
}

/// Sends everything that was acked once more, at any node: each must be answered with the entry it has (A3). True once all
/// were.
pub async fn resend(parts: Parts, window: usize, mut rng: StdRng) -> bool {
    let (records, now_ms) = (parts.book.pages().records.clone(), parts.time.now_ms());
    parts.book.trace().note(now_ms, &format_args!("everything again"));
    let mut left: BTreeMap<UserId, Vec<usize>> = BTreeMap::new();
    for (message, record) in records.iter().enumerate() {
        if matches!(record.fate, Fate::Acked(_)) {
            left.entry(record.intent.sender.clone()).or_default().push(message);
        }
    }
    let give_up = Instant::now() + Duration::from_secs(60) * parts.pace;
    for (sender, messages) in left {
        let mut messages = VecDeque::from(messages);
        while !messages.is_empty() {
            if Instant::now() > give_up {
                return false;
            }
            let _ = resend_from(&parts, &sender, window, &mut messages, &mut rng).await;
        }
    }
    true
}

async fn resend_from(
    parts: &Parts,
    sender: &UserId,
    window: usize,
    messages: &mut VecDeque<usize>,
    rng: &mut StdRng,
) -> Result<()> {
    let mut talk = parts.connect(sender, "again", rng).await?;
    let mut next_seq = 1;
    while !messages.is_empty() {
        let first = next_seq;
        let batch: Vec<usize> = messages.iter().copied().take(AGAIN_AT_ONCE.min(window)).collect();
        for message in &batch {
            talk.say(&parts.frame(next_seq, *message)).await?;
            next_seq += 1;
        }
        for _ in &batch {
            match talk.hear().await? {
                ServerFrame::Accepted { seq, id, .. } => {
                    let message = batch[usize::try_from(seq.saturating_sub(first)).unwrap_or(0) % batch.len()];
                    parts.book.acked(parts.time.now_ms(), message, id);
                    messages.retain(|waiting| *waiting != message);
                }
                ServerFrame::Refused { code, .. } if code.is_retryable() => {
                    return Err(std::io::ErrorKind::WouldBlock.into());
                }
                other => {
                    parts.book.broken("one answer", parts.time.now_ms(), format!("a known key is answered {other:?}"));
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }
    talk.say(&ClientFrame::Bye).await
}
