//! The product's transport traits over a world's network.

use futures::future::BoxFuture;
use iris_appliance::cluster::transport::{PeerAcceptor, PeerStream};
use iris_appliance::cluster::{Channel, PeerTransport};
use iris_protocol::NodeId;
use tokio::sync::mpsc;

use super::super::time::HostTime;
use super::{Arrival, HostId, Net};

/// The other nodes, as seen from one.
pub struct NodeTransport {
    net: Net,
    me: HostId,
    time: HostTime,
}

impl NodeTransport {
    /// Of a node.
    pub fn new(net: Net, me: HostId, time: HostTime) -> Self {
        Self { net, me, time }
    }
}

impl PeerTransport for NodeTransport {
    fn open(&self, node: NodeId, channel: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>> {
        let end = self.net.connect(self.me, node.into(), Some(channel), self.time);
        Box::pin(async move { Ok(Box::new(end.ok_or_else(|| anyhow::anyhow!("no link"))?) as PeerStream) })
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.net.is_up(self.me, node.into())
    }
}

/// Streams that other nodes open.
pub struct NodeAcceptor {
    arrivals: mpsc::Receiver<Arrival>,
    time: HostTime,
}

impl NodeAcceptor {
    /// Of a node.
    pub fn new(arrivals: mpsc::Receiver<Arrival>, time: HostTime) -> Self {
        Self { arrivals, time }
    }
}

impl PeerAcceptor for NodeAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Option<(NodeId, Channel, PeerStream)>> {
        Box::pin(async move {
            loop {
                let Arrival { from, channel, at_ms, end } = self.arrivals.recv().await?;
                tokio::time::sleep_until(self.time.instant(at_ms)).await;
                if let Some(channel) = channel {
                    return Some((NodeId(from.0), channel, Box::new(end.on(self.time)) as PeerStream));
                }
            }
        })
    }
}
