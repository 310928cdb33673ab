//! Distance: a proxy in this program between nodes, that holds every byte back for a while, and the detours that lead the nodes'
//! connections through it. Owns its tasks; they end with it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::bed::Bed;
use super::ground::Ground;
use crate::place::P2P_PORT;

/// Chunks on their way in one direction of a connection: what a long line holds. More waits at the sender.
const CHUNKS_MAX: usize = 1_024;

/// One read.
const CHUNK: usize = 16 * 1024;

/// How far apart far nodes are, one way.
#[derive(Debug)]
pub struct Distance {
    ms_min: AtomicU64,
    ms_max: AtomicU64,
}

impl Distance {
    /// Sets it; each byte's delay is drawn between the two.
    pub fn set(&self, ms_min: u64, ms_max: u64) {
        self.ms_min.store(ms_min, Ordering::Relaxed);
        self.ms_max.store(ms_max.max(ms_min), Ordering::Relaxed);
    }

    fn draw(&self, rng: &mut StdRng) -> Duration {
        let (min, max) = (self.ms_min.load(Ordering::Relaxed), self.ms_max.load(Ordering::Relaxed));
        Duration::from_millis(rng.random_range(min..=max.max(min)))
    }
}

/// Nodes that are far from the others.
#[derive(Debug)]
pub struct Far {
    /// How far.
    pub distance: Arc<Distance>,
    _proxies: JoinSet<()>,
}

impl Far {
    /// Moves these nodes away from all others and from each other: everything between them goes through the proxy, and
    /// nothing any other way.
    ///
    /// # Errors
    /// They are on loopback, or nft's.
    pub async fn away(bed: &Bed, nodes: &[usize], rng: &StdRng) -> anyhow::Result<Self> {
        let distance = Arc::new(Distance { ms_min: AtomicU64::new(0), ms_max: AtomicU64::new(0) });
        let Ground::Network(_, subnet) = &bed.ground else { anyhow::bail!("nobody is far on loopback") };
        let mut proxies = JoinSet::new();
        for index in 0..bed.cluster.len() {
            bed.cluster.node(index).place().on_network()?.0.install_detours()?;
        }
        for target in 0..bed.cluster.len() {
            let (_, address) = bed.cluster.node(target).place().on_network()?;
            let door = proxy(subnet.host(), address, &distance, rng.clone(), &mut proxies).await?;
            for from in (0..bed.cluster.len()).filter(|from| *from != target) {
                if nodes.contains(&target) || nodes.contains(&from) {
                    let (machine, _) = bed.cluster.node(from).place().on_network()?;
                    machine.lead(SocketAddrV4::new(address, P2P_PORT), door)?;
                    // The straight way is closed, to connections that stand and to UDP too.
                    bed.cut(from, target)?;
                }
            }
        }
        Ok(Self { distance, _proxies: proxies })
    }
}

/// A door whose visitors get to the target's port for peers. Returns where it is.
async fn proxy(
    host: Ipv4Addr,
    target: Ipv4Addr,
    distance: &Arc<Distance>,
    mut rng: StdRng,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<SocketAddrV4> {
    let listener = TcpListener::bind((host, 0)).await.with_context(|| format!("listening on {host}"))?;
    let SocketAddr::V4(door) = listener.local_addr()? else { anyhow::bail!("{host} is no IPv4 address") };
    let distance = Arc::clone(distance);
    tasks.spawn(async move {
        // Connections end with their listener.
        let mut connections = JoinSet::new();
        while let Ok((visitor, _)) = listener.accept().await {
            let (distance, seed) = (Arc::clone(&distance), rng.random());
            connections.spawn(async move {
                if let Ok(server) = TcpStream::connect((target, P2P_PORT)).await {
                    carry_both(visitor, server, &distance, seed).await;
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(door)
}

async fn carry_both(visitor: TcpStream, server: TcpStream, distance: &Distance, seed: u64) {
    let (from_visitor, to_visitor) = visitor.into_split();
    let (from_server, to_server) = server.into_split();
    // A direction that ends takes the other along, as a dead host does.
    tokio::select! {
        () = carry(from_visitor, to_server, distance, crate::seed::rng(seed, "there")) => {}
        () = carry(from_server, to_visitor, distance, crate::seed::rng(seed, "back")) => {}
    }
}

/// Hands on what is read, in order, each chunk its delay later.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, distance: &Distance, mut rng: StdRng) {
    let (sender, mut line) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let due = Instant::now() + distance.draw(&mut rng);
            if sender.send((due, buffer.split().freeze())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        let mut last = Instant::now();
        while let Some((due, bytes)) = line.recv().await {
            last = last.max(due);
            sleep_until(last).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
