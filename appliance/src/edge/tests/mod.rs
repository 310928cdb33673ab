//! Whole sessions over a pipe, against a scripted router. Time is paused: a deadline that nothing can meet passes at once.

mod leaving;
mod listener;
mod login;
mod receiving;
mod sending;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iris_protocol::frame::{ClientFrame, Code, Durability, Send, ServerFrame, SubscribeFrom};
use iris_protocol::{DeviceId, EntryId, MessageKey, NodeId, UserId};
use iris_store::Entry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::login::{Gate, NotAdmitted};
use super::{EdgeCounters, EdgeOptions, EdgeRouter, Shared, session};
use crate::auth::token::Login;
use crate::routing::{InboxPage, PageRequest, Reply, SessionId, Submission, SubmitOutcome, Unreachable};
use crate::surroundings::Surroundings;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(5);

const DRAIN: Duration = Duration::from_secs(30);

/// What the scripted router has and does.
#[derive(Default)]
struct Script {
    submissions: VecDeque<Submission>,
    full: bool,
    unreachable: bool,
    entries: Vec<Entry>,
    cursor: EntryId,
    /// Every page asked for: after, entries_max, confirm.
    reads: Vec<(EntryId, usize, bool)>,
    /// The device named in each read.
    told: Vec<Option<DeviceId>>,
}

#[derive(Clone, Default)]
struct FakeRouter {
    script: Arc<Mutex<Script>>,
    news: Arc<Notify>,
    sessions: Arc<AtomicU64>,
}

impl FakeRouter {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn append(&self, id: u64, body: &[u8]) {
        let (sender, key) = (UserId::new("alice").unwrap(), MessageKey([id as u8; 16]));
        let entry = Entry { id: EntryId(id), sender, kind: 0, key, body: Bytes::copy_from_slice(body) };
        self.script().entries.push(entry);
        self.news.notify_waiters();
    }

    /// The next submission.
    async fn taken(&self) -> Submission {
        wait_for("a submission", || self.script().submissions.pop_front()).await
    }

    /// The next submission, answered.
    async fn answer(&self, outcome: SubmitOutcome) {
        let submission = self.taken().await;
        submission.replies.try_send(Reply { ticket: submission.ticket, outcome }).unwrap();
    }
}

impl EdgeRouter for FakeRouter {
    fn new_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let mut script = self.script();
        if script.full {
            return Err(submission);
        }
        script.submissions.push_back(submission);
        Ok(())
    }

    async fn read_page(&self, _: &UserId, request: PageRequest) -> Result<InboxPage, Unreachable> {
        self.script().reads.push((request.after, request.entries_max, request.confirm));
        self.script().told.push(request.device.clone());
        let give_up = Instant::now() + request.wait;
        loop {
            let news = self.news.notified();
            {
                let script = self.script();
                if script.unreachable {
                    return Err(Unreachable);
                }
                let beyond = script.entries.iter().filter(|entry| entry.id > request.after);
                let entries: Vec<Entry> = beyond.clone().take(request.entries_max).cloned().collect();
                let live = request.confirm && beyond.count() == entries.len();
                if live || !entries.is_empty() || Instant::now() >= give_up {
                    let scanned_to = entries.last().map_or(request.after, |last| last.id);
                    return Ok(InboxPage { entries, scanned_to, live });
                }
            }
            let _ = tokio::time::timeout_at(give_up, news).await;
        }
    }

    async fn stored_cursor(&self, _: &UserId, _: &DeviceId) -> Result<EntryId, Unreachable> {
        let script = self.script();
        if script.unreachable { Err(Unreachable) } else { Ok(script.cursor) }
    }
}

/// Admits the token "user" or "user/device".
struct FakeGate;

impl Gate for FakeGate {
    fn admit(&self, token: &str) -> Result<Login, NotAdmitted> {
        if token == "bad" {
            return Err(NotAdmitted::Refused("a secret reason".into()));
        }
        if token == "early" {
            return Err(NotAdmitted::TooEarly);
        }
        let (user, device) = token.split_once('/').map_or((token, None), |(user, device)| (user, Some(device)));
        let device = device.map(|device| DeviceId::new(device).unwrap());
        Ok(Login { user: UserId::new(user).unwrap(), device })
    }

    fn other_addresses(&self) -> Vec<String> {
        vec!["10.0.0.2:8443".into()]
    }
}

fn options() -> EdgeOptions {
    EdgeOptions {
        messages_per_s: 0,
        messages_burst: 0,
        connections_max: 10,
        handshake: Duration::from_secs(10),
        login: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        write: Duration::from_secs(30),
        drain: DRAIN,
    }
}

/// A node with one client connected to it.
struct Node {
    router: FakeRouter,
    shared: Arc<Shared<FakeRouter>>,
    client: Client,
    session: JoinHandle<()>,
}

impl Node {
    /// A connection without login, over a pipe that holds `pipe` bytes.
    fn connected(pipe: usize, change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let mut options = options();
        change(&mut options);
        let router = FakeRouter::default();
        let counters = Arc::new(EdgeCounters::default());
        let surroundings = Surroundings::system();
        let shared =
            Arc::new(Shared::new(NodeId(1), Box::new(FakeGate), router.clone(), options, surroundings, counters));
        let (stream, theirs) = tokio::io::duplex(pipe);
        let serving = shared.clone();
        let session = tokio::spawn(async move {
            session::serve(&serving, theirs, SocketAddr::from(([127, 0, 0, 1], 1))).await;
        });
        Self { router, shared, client: Client { stream, input: BytesMut::new() }, session }
    }

    /// Logged in as bob.
    async fn logged_in(change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let mut node = Self::connected(64 * 1024, change);
        node.client.say(&hello("bob")).await;
        assert!(matches!(node.client.hears().await, ServerFrame::Welcome { .. }));
        node
    }

    async fn ends(&mut self) {
        assert_eq!(self.client.next().await, None, "the connection ends");
        timeout(PATIENCE, &mut self.session).await.expect("the session ends").unwrap();
    }
}

struct Client {
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    async fn say(&mut self, frame: &ClientFrame) {
        self.say_all(std::slice::from_ref(frame)).await;
    }

    async fn say_all(&mut self, frames: &[ClientFrame]) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        self.say_bytes(&out).await;
    }

    async fn say_bytes(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server reads").unwrap();
    }

    /// Like [`Self::say_all`], without its patience.
    async fn say_all_or_stop(&mut self, frames: &[ClientFrame]) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        self.stream.write_all(&out).await.unwrap();
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some(frame) = ServerFrame::decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            if read.expect("the server says something").unwrap() == 0 {
                return None;
            }
        }
    }

    async fn hears(&mut self) -> ServerFrame {
        self.next().await.expect("the connection has not ended")
    }

    async fn hears_nothing(&mut self) {
        assert!(self.input.is_empty());
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
        assert!(read.is_err(), "heard {:?}", ServerFrame::decode(&mut self.input));
    }

    async fn hears_error(&mut self, expected: Code) {
        let frame = self.hears().await;
        assert!(matches!(&frame, ServerFrame::Error { code, .. } if *code == expected), "{expected}: {frame:?}");
    }

    async fn hears_refusal(&mut self, expected_seq: u64, expected: Code) -> u32 {
        match self.hears().await {
            ServerFrame::Refused { seq, code, retry_after_ms, .. } if (seq, code) == (expected_seq, expected) => {
                retry_after_ms
            }
            other => panic!("expected {expected} for {expected_seq}, heard {other:?}"),
        }
    }

    async fn hears_accepted(&mut self, expected_seq: u64) {
        let frame = self.hears().await;
        assert!(matches!(frame, ServerFrame::Accepted { seq, .. } if seq == expected_seq), "{expected_seq}: {frame:?}");
    }

    async fn hears_entry(&mut self, expected: u64) {
        let frame = self.hears().await;
        assert!(matches!(&frame, ServerFrame::Entry(entry) if entry.id.0 == expected), "{expected}: {frame:?}");
    }
}

async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn hello(token: &str) -> ClientFrame {
    let software = "test/1".to_owned();
    ClientFrame::Hello { version_min: 2, version_max: 2, token: token.into(), device: None, software }
}

fn message(seq: u64, key: u8, recipient: &str) -> ClientFrame {
    ClientFrame::Send(Send {
        seq,
        key: MessageKey([key; 16]),
        durability: Durability::Quorum,
        kind: 0,
        recipient: UserId::new(recipient).unwrap(),
        body: Bytes::from_static(b"hi"),
    })
}

fn subscribe(from: u64, credit: u32) -> ClientFrame {
    ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId(from)), credit }
}

fn ack(cursor: u64) -> ClientFrame {
    ClientFrame::Ack { cursor: EntryId(cursor) }
}

fn committed(id: u64) -> SubmitOutcome {
    SubmitOutcome::Committed { id: EntryId(id), duplicate: false }
}
