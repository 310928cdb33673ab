//! The clients of a world: they speak the frames of docs/protocol.md over its network, retry by key, go on at another node, and
//! write everything down. Simple on purpose: what they check must not depend on the product's own client.

mod prober;
mod reader;
mod sender;

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use bytes::BytesMut;
use iris_protocol::frame::{ClientFrame, ServerFrame, VERSION};
use iris_protocol::{DeviceId, NodeId, UserId};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::book::Book;
use super::net::{Net, PipeEnd};
use super::time::HostTime;
pub use prober::probe;
pub use reader::read;
pub use sender::{Sending, resend, send};

/// A node that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(6);

/// Before another node is tried.
const PAUSE_MS: std::ops::Range<u64> = 20..200;

/// What every client has.
#[derive(Clone)]
pub struct Parts {
    /// The way to the nodes.
    pub net: Net,
    /// The clock of the machine they are on.
    pub time: HostTime,
    /// What is written down.
    pub book: Book,
    /// Nodes to try.
    pub nodes: Nodes,
    /// How many times longer than usual clients pause.
    pub pace: u32,
    /// Whether entries are removed once their readers have them.
    pub trims: bool,
}

/// The nodes there are; grows with the cluster.
#[derive(Clone, Default)]
pub struct Nodes(std::sync::Arc<std::sync::Mutex<Vec<NodeId>>>);

impl Nodes {
    /// One more.
    pub fn add(&self, node: NodeId) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(node);
    }

    fn any(&self, rng: &mut StdRng) -> Option<NodeId> {
        let nodes = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (!nodes.is_empty()).then(|| nodes[rng.random_range(0..nodes.len())])
    }
}

/// A connection to a node, logged in.
struct Talk {
    end: PipeEnd,
    input: BytesMut,
}

impl Parts {
    /// A pause, as long as clients of this world pause.
    fn pause(&self, ms: &std::ops::Range<u64>, rng: &mut StdRng) -> Duration {
        Duration::from_millis(rng.random_range(ms.clone())) * self.pace
    }

    /// Connects to any node and logs in.
    async fn connect(&self, user: &UserId, device: &str, rng: &mut StdRng) -> Result<Talk> {
        crate::wait::let_pass(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
        let node = self.nodes.any(rng).ok_or(ErrorKind::NotConnected)?;
        let end = self.net.connect_client(node.into(), self.time).ok_or(ErrorKind::ConnectionRefused)?;
        let mut talk = Talk { end, input: BytesMut::new() };
        let hello = ClientFrame::Hello {
            version_min: VERSION,
            version_max: VERSION,
            token: format!("{user}/{device}"),
            device: DeviceId::new(device).ok(),
            software: "sim".to_owned(),
        };
        talk.say(&hello).await?;
        match talk.hear().await? {
            ServerFrame::Welcome { .. } => Ok(talk),
            other => Err(Error::other(format!("{other:?}"))),
        }
    }
}

impl Talk {
    async fn say(&mut self, frame: &ClientFrame) -> Result<()> {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        tokio::time::timeout(PATIENCE, self.end.write_all(&out)).await?
    }

    /// The next frame; an error after too long a silence. Nothing is lost if it is dropped half-way.
    async fn hear(&mut self) -> Result<ServerFrame> {
        tokio::time::timeout(PATIENCE, self.hear_whenever()).await?
    }

    async fn hear_whenever(&mut self) -> Result<ServerFrame> {
        loop {
            if let Some(frame) = ServerFrame::decode(&mut self.input).map_err(Error::other)? {
                return Ok(frame);
            }
            if self.end.read_buf(&mut self.input).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
