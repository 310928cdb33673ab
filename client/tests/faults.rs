//! The whole client against a small cluster that keeps docs/protocol.md but fails all the time: nodes hang up, refuse for now,
//! answer late and repeat entries. Whatever they do, each message is in the log once, in its recipient's order, and a reader sees
//! the log once, in order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_client::{
    Client, Closing, Code, Delivery, EntryId, Event, MessageKey, Outgoing, Pending, Status, SubscribeFrom, UserId,
};
use iris_protocol::frame::{ClientFrame, Send, ServerFrame};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use support::*;
use tokio::sync::Notify;

/// What all nodes of the cluster share.
#[derive(Default)]
struct Cluster {
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Default)]
struct State {
    inboxes: HashMap<UserId, Vec<Delivery>>,
    keys: HashMap<MessageKey, EntryId>,
    cursor: EntryId,
}

impl Cluster {
    fn append(&self, send: &Send) -> (EntryId, bool) {
        let state = &mut *self.state.lock().unwrap();
        if let Some(&id) = state.keys.get(&send.key) {
            return (id, true);
        }
        let inbox = state.inboxes.entry(send.recipient.clone()).or_default();
        let id = EntryId(inbox.len() as u64 + 1);
        let body = send.body.clone();
        inbox.push(Delivery { id, kind: send.kind, key: send.key, sender: user("me"), body });
        state.keys.insert(send.key, id);
        self.appended.notify_waiters();
        (id, false)
    }

    fn after(&self, cursor: EntryId, count: u32) -> Vec<ServerFrame> {
        let state = self.state.lock().unwrap();
        let Some(inbox) = state.inboxes.get(&user("me")) else { return Vec::new() };
        inbox.iter().skip(cursor.0 as usize).take(count as usize).cloned().map(ServerFrame::Entry).collect()
    }

    fn bodies(&self, of: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let text = |entry: &Delivery| String::from_utf8(entry.body.to_vec()).unwrap();
        state.inboxes.get(&user(of)).map(|inbox| inbox.iter().map(text).collect()).unwrap_or_default()
    }
}

/// One connection's state at a node.
struct Session<'a> {
    cluster: &'a Cluster,
    rng: SmallRng,
    faulty: bool,
    blocked: HashMap<UserId, MessageKey>,
    subscription: Option<(EntryId, u32)>,
}

impl Session<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.faulty && self.rng.random_range(0..100) < percent
    }

    fn take_send(&mut self, send: Send) -> ServerFrame {
        if self.blocked.get(&send.recipient).is_some_and(|key| *key != send.key) {
            return refused(send.seq, Code::Behind, 0);
        }
        self.blocked.remove(&send.recipient);
        if self.chance(2) {
            self.blocked.insert(send.recipient.clone(), send.key);
            return match self.rng.random_range(0..3) {
                0 => refused(send.seq, Code::RateLimited, 3),
                1 => refused(send.seq, Code::Overloaded, 0),
                _ => {
                    self.cluster.append(&send);
                    refused(send.seq, Code::Unavailable, 1)
                }
            };
        }
        let (id, duplicate) = self.cluster.append(&send);
        ServerFrame::Accepted { seq: send.seq, status: Status::Committed, duplicate, id }
    }

    /// The answer to a frame, if it has one; an error is the end of the connection.
    fn take(&mut self, frame: ClientFrame) -> Result<Option<ServerFrame>, ()> {
        match frame {
            ClientFrame::Send(send) => {
                if self.chance(1) {
                    // Appended or not, nobody will say.
                    if self.rng.random() && !self.blocked.contains_key(&send.recipient) {
                        self.cluster.append(&send);
                    }
                    return Err(());
                }
                Ok(Some(self.take_send(send)))
            }
            ClientFrame::Ack { cursor } => {
                let mut state = self.cluster.state.lock().unwrap();
                state.cursor = state.cursor.max(cursor);
                Ok(Some(ServerFrame::Acked { cursor: state.cursor }))
            }
            ClientFrame::Subscribe { from, credit } => {
                let from = match from {
                    SubscribeFrom::Stored => self.cluster.state.lock().unwrap().cursor,
                    SubscribeFrom::After(id) => id,
                };
                // At least once: it may begin earlier than asked.
                let earlier = if self.chance(50) { 1 } else { 0 };
                self.subscription = Some((EntryId(from.0.saturating_sub(earlier)), credit));
                Ok(None)
            }
            ClientFrame::Credit { entries } => {
                self.subscription.as_mut().unwrap().1 += entries;
                Ok(None)
            }
            ClientFrame::Bye => Err(()),
            ClientFrame::Ping { .. } | ClientFrame::Hello { .. } => panic!("the connection deals with these"),
        }
    }

    fn push(&mut self) -> Vec<ServerFrame> {
        let Some((cursor, credit)) = &mut self.subscription else { return Vec::new() };
        let entries = self.cluster.after(*cursor, *credit);
        *credit -= entries.len() as u32;
        cursor.0 += entries.len() as u64;
        entries
    }

    async fn serve(mut self, mut conn: Conn) {
        let cluster = self.cluster;
        loop {
            let appended = cluster.appended.notified();
            let mut answers = self.push();
            if !answers.is_empty() {
                conn.say(&answers).await;
                if self.chance(2) {
                    return;
                }
            }
            answers.clear();
            tokio::select! {
                frame = conn.try_frame() => {
                    let Some(frame) = frame else { return };
                    let mut next = Some(frame);
                    while let Some(frame) = next {
                        match self.take(frame) {
                            Ok(answer) => answers.extend(answer),
                            Err(()) => return,
                        }
                        next = conn.buffered();
                    }
                    conn.say(&answers).await;
                }
                () = appended => {}
            }
        }
    }
}

async fn serve_for_ever(node: Node, cluster: Arc<Cluster>, seed: u64, faulty: bool) {
    let mut rng = SmallRng::seed_from_u64(seed);
    loop {
        let Some(conn) = node.try_login().await else { continue };
        let session = Session {
            cluster: &cluster,
            rng: SmallRng::seed_from_u64(rng.random()),
            faulty,
            blocked: HashMap::new(),
            subscription: None,
        };
        session.serve(conn).await;
    }
}

async fn start_cluster(seed: u64, faulty: bool) -> (Client, Arc<Cluster>) {
    let ca = Ca::new();
    let cluster = Arc::new(Cluster::default());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut node = Node::start(&ca, id).await;
        node.window = 100;
        nodes.push(node);
    }
    let mut config = config(ca.fingerprint(), &nodes.iter().collect::<Vec<_>>());
    config.deadlines.backoff = (Duration::from_millis(1), Duration::from_millis(20));
    for node in nodes {
        let seed = seed + node.id;
        tokio::spawn(serve_for_ever(node, Arc::clone(&cluster), seed, faulty));
    }
    (Client::start(config).unwrap(), cluster)
}

/// Sends `count` messages, `deep` at a time, to these recipients in turn.
async fn pump(client: &Client, recipients: &[&str], count: usize, deep: usize) {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    for n in 0..count {
        if pending.len() == deep {
            within("a receipt", pending.pop_front().unwrap()).await.unwrap();
        }
        let recipient = recipients[n % recipients.len()];
        pending.push_back(within("room", client.send(Outgoing::new(user(recipient), n.to_string()))).await.unwrap());
    }
    for pending in pending {
        within("a receipt", pending).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_once_and_in_order() {
    const COUNT: usize = 3_000;
    let seed = rand::random::<u32>();
    println!("seed {seed}");
    let (client, cluster) = start_cluster(seed.into(), true).await;
    let recipients = ["me", "bob", "carol"];
    let reader = client.clone();
    let reading = tokio::spawn(async move {
        let mut inbox = reader.subscribe(SubscribeFrom::Stored, 16).unwrap();
        let mut seen = Vec::new();
        while seen.len() < COUNT / 3 {
            if let Event::Entry(entry) = within("an entry", inbox.next()).await.unwrap() {
                reader.ack(entry.id);
                seen.push(String::from_utf8(entry.body.to_vec()).unwrap());
            }
        }
        seen
    });
    pump(&client, &recipients, COUNT, 64).await;
    let seen = within("the reader", reading).await.unwrap();
    client.flush_acks(Duration::from_secs(20)).await.unwrap();
    assert_eq!(cluster.state.lock().unwrap().cursor, EntryId(COUNT as u64 / 3));
    let stats = client.stats();
    println!("{stats:?}");
    assert!(stats.reconnects() > 10 && stats.refused_for_now > 10, "the cluster failed too little: {stats:?}");
    for (at, recipient) in recipients.iter().enumerate() {
        let expected: Vec<String> = (at..COUNT).step_by(3).map(|n| n.to_string()).collect();
        assert_eq!(cluster.bodies(recipient), expected, "{recipient}'s inbox");
    }
    assert_eq!(seen, cluster.bodies("me"));
    assert_eq!(client.close(Duration::from_secs(20)).await, Closing::Clean);
}
