//! A relay in front of a node: counts who comes, collects dials until it is told where to forward them, and can stop
//! forwarding without closing anything, as a pulled cable does. Over TCP and over UDP (for QUIC).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use iris_p2p::PeerAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::{Node, Transport, socket};

/// Datagrams that wait for a target; QUIC sends again what was dropped.
const DATAGRAMS_MAX: usize = 64;
/// Longer than any datagram on loopback.
const DATAGRAM_LEN: usize = 64 * 1024;

/// What passed through a relay.
#[derive(Clone, Copy, Default)]
pub struct Count {
    /// Connections, over UDP senders.
    pub accepted: usize,
    /// Of these, those that ended; UDP does not tell.
    pub closed: usize,
}

pub struct Relay {
    addr: PeerAddr,
    target: watch::Sender<Option<SocketAddr>>,
    forwards: watch::Sender<bool>,
    count: Arc<watch::Sender<Count>>,
}

/// What a relay's tasks share.
#[derive(Clone)]
struct Orders {
    target: watch::Receiver<Option<SocketAddr>>,
    forwards: watch::Receiver<bool>,
    count: Arc<watch::Sender<Count>>,
}

impl Orders {
    async fn target(&mut self) -> Option<SocketAddr> {
        *self.target.wait_for(Option::is_some).await.ok()?
    }
}

impl Relay {
    pub async fn listen(transport: Transport) -> Relay {
        let (target, targets) = watch::channel(None);
        let (forwards, forwarding) = watch::channel(true);
        let count = Arc::new(watch::channel(Count::default()).0);
        let orders = Orders { target: targets, forwards: forwarding, count: Arc::clone(&count) };
        let addr = match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = PeerAddr::tcp(listener.local_addr().unwrap());
                tokio::spawn(accept(listener, orders));
                addr
            }
            Transport::Quic => {
                let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let addr = PeerAddr::quic(front.local_addr().unwrap());
                tokio::spawn(receive(Arc::new(front), orders));
                addr
            }
        };
        Relay { addr, target, forwards, count }
    }

    pub fn addr(&self) -> PeerAddr {
        self.addr.clone()
    }

    pub fn forward_to(&self, node: &Node) {
        self.forward_to_addr(&node.addr());
    }

    pub fn forward_to_addr(&self, addr: &PeerAddr) {
        self.target.send_replace(Some(socket(addr)));
    }

    pub fn forwarding(&self, on: bool) {
        self.forwards.send_replace(on);
    }

    pub fn count(&self) -> watch::Receiver<Count> {
        self.count.subscribe()
    }
}

async fn accept(listener: TcpListener, orders: Orders) {
    while let Ok((client, _)) = listener.accept().await {
        orders.count.send_modify(|count| count.accepted += 1);
        let mut orders = orders.clone();
        tokio::spawn(async move {
            let Some(target) = orders.target().await else { return };
            let Ok(server) = TcpStream::connect(target).await else { return };
            relay(client, server, orders.forwards.clone()).await;
            orders.count.send_modify(|count| count.closed += 1);
        });
    }
}

async fn relay(client: TcpStream, server: TcpStream, forwarding: watch::Receiver<bool>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, forwarding.clone());
    let down = pump(from_server, to_client, forwarding);
    tokio::select! { () = up => {}, () = down => {} }
}

async fn pump(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut forwarding: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if forwarding.wait_for(|on| *on).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = forwarding.wait_for(|on| !*on) => continue,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(len) if to.write_all(&buffer[..len]).await.is_err() => return,
            Ok(_) => {}
        }
    }
}

/// Every sender gets a socket of its own towards the target, so that answers find their way back.
async fn receive(front: Arc<UdpSocket>, orders: Orders) {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_LEN];
    while let Ok((len, client)) = front.recv_from(&mut buffer).await {
        let flow = flows.entry(client).or_insert_with(|| {
            orders.count.send_modify(|count| count.accepted += 1);
            let (datagrams, waiting) = mpsc::channel(DATAGRAMS_MAX);
            tokio::spawn(flow(Arc::clone(&front), client, waiting, orders.clone()));
            datagrams
        });
        // Full: dropped, as a network would.
        let _ = flow.try_send(buffer[..len].to_vec());
    }
}

async fn flow(front: Arc<UdpSocket>, client: SocketAddr, mut datagrams: mpsc::Receiver<Vec<u8>>, mut orders: Orders) {
    let Some(target) = orders.target().await else { return };
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    back.connect(target).await.unwrap();
    let mut buffer = vec![0; DATAGRAM_LEN];
    loop {
        // An error is the target's port that is closed: it says nothing about the next datagram.
        let outcome = tokio::select! {
            datagram = datagrams.recv() => match datagram {
                Some(datagram) if *orders.forwards.borrow() => back.send(&datagram).await,
                Some(_) => continue,
                None => return,
            },
            received = back.recv(&mut buffer) => match received {
                Ok(len) if *orders.forwards.borrow() => front.send_to(&buffer[..len], client).await,
                _ => continue,
            },
        };
        drop(outcome);
    }
}
