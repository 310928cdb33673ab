//! One connection's streams: opens those asked for, takes in those offered. Owns the negotiation of streams and nothing
//! that flows on them. The heartbeat's stream is handed to the links' task, all others to the inbound queue.
//!
//! The hello runs inside the stream upgrade, so each stream negotiates by itself, under libp2p's own deadline, and
//! none waits for another.

use std::convert::Infallible;
use std::iter;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::hello::{self, HelloError, Purpose, Verdict};
use crate::inbound::InboundQueue;
use crate::{PeerKey, PeerStream};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/iris/link/1");

/// Asks a connection for a stream.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) purpose: Purpose,
    pub(crate) reply: oneshot::Sender<Result<Stream, OpenFailure>>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    Refused(Verdict),
    TimedOut,
    Broken(String),
}

/// What a connection needs to know to welcome streams.
#[derive(Debug, Clone)]
pub(crate) struct Reception {
    pub(crate) peer: PeerKey,
    pub(crate) queue: InboundQueue,
    /// Places for streams that the peer opened.
    pub(crate) places: Arc<Semaphore>,
    /// The lower key of the two opens the heartbeat; the other one takes it.
    pub(crate) takes_heartbeat: bool,
}

pub(crate) struct Handler {
    reception: Reception,
    requests: mpsc::Receiver<OpenRequest>,
    open_timeout: Duration,
    /// The newest heartbeat stream that the links' task has not fetched yet. A second one replaces it: the peer opens
    /// another only after giving up the first.
    heartbeat: Option<Stream>,
}

impl Handler {
    pub(crate) fn new(reception: Reception, requests: mpsc::Receiver<OpenRequest>, open_timeout: Duration) -> Handler {
        Handler { reception, requests, open_timeout, heartbeat: None }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Stream;
    type InboundProtocol = Welcome;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, OpenFailure>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Welcome> {
        SubstreamProtocol::new(Welcome(self.reception.clone()), ()).with_timeout(self.open_timeout)
    }

    /// Links are kept for as long as both are members; silence ends them, not idleness.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(stream) = self.heartbeat.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        while let Poll::Ready(Some(request)) = self.requests.poll_recv(cx) {
            if request.reply.is_closed() {
                continue;
            }
            let protocol =
                SubstreamProtocol::new(Offer(request.purpose), request.reply).with_timeout(self.open_timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Welcome, Offer, (), Self::OutboundOpenInfo>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: Some(heartbeat), .. }) => {
                self.heartbeat = Some(heartbeat);
            }
            // A reply that nobody waits for any more drops its stream, which the other side sees as a reset.
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let _ = reply.send(Err(failure(error)));
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { error, .. }) => {
                tracing::debug!(peer = %self.reception.peer, %error, "inbound stream not taken");
            }
            _ => {}
        }
    }
}

fn failure(error: StreamUpgradeError<HelloError>) -> OpenFailure {
    match error {
        StreamUpgradeError::Timeout => OpenFailure::TimedOut,
        StreamUpgradeError::Apply(HelloError::Refused(verdict)) => OpenFailure::Refused(verdict),
        StreamUpgradeError::Apply(error) => OpenFailure::Broken(error.to_string()),
        StreamUpgradeError::NegotiationFailed => OpenFailure::Broken("the peer does not speak /iris/link/1".to_owned()),
        StreamUpgradeError::Io(error) => OpenFailure::Broken(error.to_string()),
    }
}

/// Opens a stream: the hello, then the other side's answer.
pub(crate) struct Offer(Purpose);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = Stream;
    type Error = HelloError;
    type Future = BoxFuture<'static, Result<Stream, HelloError>>;

    fn upgrade_outbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        async move {
            hello::offer(&mut stream, self.0).await?;
            Ok(stream)
        }
        .boxed()
    }
}

/// Takes a stream in: a heartbeat is handed on, all others go to the queue.
pub(crate) struct Welcome(Reception);

impl UpgradeInfo for Welcome {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl InboundUpgrade<Stream> for Welcome {
    type Output = Option<Stream>;
    type Error = HelloError;
    type Future = BoxFuture<'static, Result<Option<Stream>, HelloError>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        welcome(self.0, stream).boxed()
    }
}

async fn welcome(reception: Reception, mut stream: Stream) -> Result<Option<Stream>, HelloError> {
    let kind = match hello::read(&mut stream).await? {
        Purpose::Heartbeat if reception.takes_heartbeat => {
            hello::answer(&mut stream, Verdict::Accepted).await?;
            return Ok(Some(stream));
        }
        Purpose::Heartbeat => return refuse(&mut stream, Verdict::NotAccepting).await,
        Purpose::Caller(kind) => kind,
    };
    let Ok(place) = reception.places.try_acquire_owned() else {
        return refuse(&mut stream, Verdict::Busy).await;
    };
    // The place in the queue is taken before the answer goes out: an accepted stream always finds room.
    let slot = match reception.queue.reserve() {
        Ok(slot) => slot,
        Err(verdict) => return refuse(&mut stream, verdict).await,
    };
    hello::answer(&mut stream, Verdict::Accepted).await?;
    slot.send(PeerStream::new(stream, reception.peer, kind, place));
    Ok(None)
}

async fn refuse(stream: &mut Stream, verdict: Verdict) -> Result<Option<Stream>, HelloError> {
    hello::answer(stream, verdict).await?;
    // Ends our half in order, so that the answer is not overtaken by the reset of the dropped stream.
    futures::AsyncWriteExt::close(stream).await?;
    Err(HelloError::Refused(verdict))
}
