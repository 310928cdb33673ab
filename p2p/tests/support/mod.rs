//! What the tests of links share: a node on loopback, and waiting for a condition with a deadline. No test sleeps to get
//! in step.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

pub mod relay;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use iris_p2p::{Identity, Inbound, LinkConfig, Links, Member, PeerAddr, PeerKey, PeerState, PeerStream, StreamKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Generous, for a busy machine: only a failing test waits this long.
pub const SOON: Duration = Duration::from_secs(10);
pub const ECHO: StreamKind = StreamKind(7);

pub struct Node {
    pub links: Links,
    pub inbound: Option<Inbound>,
    pub task: JoinHandle<()>,
    pub identity: Identity,
}

#[derive(Clone, Copy, Debug)]
pub enum Transport {
    Tcp,
    Quic,
}

impl Transport {
    pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Quic];

    pub fn any_port(self) -> PeerAddr {
        match self {
            Transport::Tcp => "127.0.0.1:0".parse().unwrap(),
            Transport::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        }
    }
}

pub fn config(listen: PeerAddr) -> LinkConfig {
    LinkConfig { listen: vec![listen], ..LinkConfig::default() }
}

/// Two identities, the lower key first.
pub fn identities() -> (Identity, Identity) {
    let (a, b) = (Identity::ephemeral(), Identity::ephemeral());
    if a.peer_id() < b.peer_id() { (a, b) } else { (b, a) }
}

impl Node {
    pub async fn start(identity: Identity, config: LinkConfig, members: Vec<Member>) -> Node {
        let (links, inbound, task) = Links::start(identity.clone(), config, members).await.unwrap();
        let task = tokio::spawn(async move { task.run().await.unwrap() });
        Node { links, inbound: Some(inbound), task, identity }
    }

    pub fn key(&self) -> PeerKey {
        self.identity.peer_id()
    }

    pub fn addr(&self) -> PeerAddr {
        self.links.listen_addrs()[0].clone()
    }

    /// This node as others list it.
    pub fn as_member(&self) -> Member {
        Member { key: self.key(), addrs: self.links.listen_addrs() }
    }

    /// Listed without an address: admitted, but not dialled.
    pub fn as_caller(&self) -> Member {
        Member { key: self.key(), addrs: vec![] }
    }

    /// Answers every stream with what it sends.
    pub fn echo(&mut self) {
        let mut inbound = self.inbound.take().unwrap();
        tokio::spawn(async move {
            while let Some((_, kind, stream)) = inbound.accept().await {
                assert_eq!(kind, ECHO);
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.shutdown().await;
                });
            }
        });
    }

    pub async fn up(&self, peer: PeerKey) {
        self.until("up", peer, |state| state.is_some_and(|state| state.is_up())).await;
        assert!(self.links.is_up(peer));
    }

    pub async fn down(&self, peer: PeerKey) {
        self.until("down", peer, |state| !state.is_some_and(|state| state.is_up())).await;
    }

    pub async fn until(&self, what: &str, peer: PeerKey, want: impl Fn(Option<PeerState>) -> bool) {
        let mut states = self.links.watch();
        let waiting = states.wait_for(|states| want(states.get(peer)));
        match timeout(SOON, waiting).await {
            Ok(result) => drop(result.unwrap()),
            Err(_) => panic!("{peer} not {what} in time: {:?}", self.links.watch().borrow().get(peer)),
        }
    }

    /// As a kill would: no goodbye from any of its tasks.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Two nodes that list each other; the lower key is the first.
pub async fn pair(transport: Transport) -> (Node, Node) {
    pair_with(config(transport.any_port())).await
}

/// Two nodes that wait for silence far longer than a test lasts: whatever ends, something ended it on purpose.
pub async fn patient_pair(transport: Transport) -> (Node, Node) {
    pair_with(LinkConfig { silent_after: 6 * SOON, ..config(transport.any_port()) }).await
}

pub async fn pair_with(config: LinkConfig) -> (Node, Node) {
    let (low, high) = identities();
    let low = Node::start(low, config.clone(), vec![]).await;
    let high = Node::start(high, config, vec![low.as_member()]).await;
    low.links.set_members(vec![high.as_member()]);
    within("both up", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
    (low, high)
}

/// The socket behind an IPv4 address, whichever transport it is.
pub fn socket(addr: &PeerAddr) -> SocketAddr {
    let text = addr.to_string();
    let parts: Vec<&str> = text.split('/').collect();
    format!("{}:{}", parts[2], parts[4]).parse().unwrap()
}

/// Looks until it holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    within(what, async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Reads from now on, and succeeds when the stream ends or breaks.
pub fn ending(mut stream: PeerStream) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut byte = [0];
        within("the end of a stream", async { while stream.read(&mut byte).await.is_ok_and(|len| len > 0) {} }).await;
    })
}

/// Sends a line and reads it back.
pub async fn say(stream: &mut PeerStream, text: &str) {
    within("echo", async {
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text.as_bytes());
    })
    .await;
}
