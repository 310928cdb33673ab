//! Accepting connections on the client port: the TLS handshake with its deadline, the number of connections, and one task for
//! each. What is said on them is the session's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use iris_protocol::NodeId;
use iris_protocol::frame::ALPN;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::login::ClusterGate;
use super::{EdgeCounters, EdgeOptions, EdgeRouter, Shared, session};
use crate::cluster::MetaView;
use crate::routing::Router;
use crate::surroundings::Surroundings;

/// After the system refused to hand over a connection, most likely for want of file handles: others may close meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Past the drain deadline, a session may still say its last word and wait for the client to notice.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What an edge is made of.
pub struct EdgeParts<R = Router> {
    /// The way to shard leaders.
    pub router: R,
    /// Keys to judge tokens by, and the other nodes' addresses.
    pub meta: MetaView,
    /// The cluster's certificate and the protocols spoken under it.
    pub tls: Arc<ServerConfig>,
    /// Limits and deadlines.
    pub options: EdgeOptions,
    /// Where to count.
    pub counters: Arc<EdgeCounters>,
    /// The time of day, for tokens; jitter.
    pub surroundings: Surroundings,
    /// This node.
    pub node: NodeId,
    /// Who speaks the other protocol of the client port.
    pub side_door: Option<Arc<dyn SideDoor>>,
}

/// Another protocol on the client port than the sessions', told apart by its ALPN. It bounds itself; the edge only ends it when
/// the node stops.
pub trait SideDoor: Send + Sync + 'static {
    /// The protocol's name.
    fn alpn(&self) -> &'static [u8];

    /// Speaks it until the connection is done with.
    fn serve(&self, stream: TlsStream<TcpStream>, peer: SocketAddr) -> BoxFuture<'_, ()>;
}

/// The client port of a node.
pub struct Edge<R = Router> {
    shared: Arc<Shared<R>>,
    acceptor: TlsAcceptor,
    side_door: Option<Arc<dyn SideDoor>>,
    room: Arc<Semaphore>,
    sessions: TaskTracker,
    /// Ends sessions that did not end by themselves.
    kill: CancellationToken,
}

impl<R: EdgeRouter> Edge<R> {
    /// An edge without sessions.
    #[must_use]
    pub fn new(parts: EdgeParts<R>) -> Arc<Self> {
        let EdgeParts { router, meta, tls, options, counters, surroundings, node, side_door } = parts;
        let gate = ClusterGate { node, meta, surroundings: surroundings.clone() };
        Arc::new(Self {
            shared: Arc::new(Shared::new(node, Box::new(gate), router, options, surroundings, counters)),
            acceptor: TlsAcceptor::from(tls),
            side_door,
            room: Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS))),
            sessions: TaskTracker::new(),
            kill: CancellationToken::new(),
        })
    }

    /// Accepts connections until `stop_accepting`; sessions go on by themselves, see [`Self::drained`]. May be run again after
    /// it failed.
    ///
    /// # Errors
    /// None so far: what the system says about single connections is waited out.
    pub async fn run(
        self: Arc<Self>,
        listener: &TcpListener,
        stop_accepting: &CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let accepted = tokio::select! {
                () = stop_accepting.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the system hands over no connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Unanswered: to say why would take the handshake there is no room for.
            let Ok(permit) = self.room.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "no room for another connection; closed it");
                continue;
            };
            let edge = self.clone();
            // A task of its own: a panic in it ends this connection and no other.
            self.sessions.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = edge.kill.cancelled() => {}
                    () = edge.connection(socket, peer) => {}
                }
            });
        }
    }

    /// Tells every session to go elsewhere (B7) and waits until all have ended. Those that have not a moment after `deadline`
    /// are cut off. Call it once connections are not accepted any more.
    pub async fn drained(&self, deadline: Duration) {
        self.shared.draining.cancel();
        self.sessions.close();
        if tokio::time::timeout(deadline + LAST_WORD, self.sessions.wait()).await.is_err() {
            tracing::warn!(sessions = self.sessions.len(), "cut off client sessions that did not end in time");
            self.kill.cancel();
            self.sessions.wait().await;
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    async fn connection(&self, socket: TcpStream, peer: SocketAddr) {
        // Small frames must not wait for one another's acknowledgements.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection was gone at once");
            return;
        }
        let handshake = tokio::select! {
            handshake = tokio::time::timeout(self.shared.options.handshake, self.acceptor.accept(socket)) => handshake,
            () = self.shared.draining.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.talk(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    /// Hands a connection to whoever speaks its protocol.
    async fn talk(&self, stream: TlsStream<TcpStream>, peer: SocketAddr) {
        let alpn = stream.get_ref().1.alpn_protocol();
        let side_door = self.side_door.as_ref().filter(|door| alpn == Some(door.alpn()));
        match side_door {
            Some(door) => door.serve(stream, peer).await,
            // Boxed: the handshake's state is not carried along by the session's.
            None if alpn == Some(ALPN) => Box::pin(session::serve(&self.shared, stream, peer)).await,
            // rustls lets a client pass that offers no ALPN at all.
            None => tracing::debug!(%peer, "a client asks for no protocol that is spoken here"),
        }
    }
}
