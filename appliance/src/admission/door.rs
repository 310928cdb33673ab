//! A member's side of joining: takes the request of a new node on the client port, has the cluster decide, and answers only
//! once that is committed. Few at a time, each with deadlines, and an address that fails too often has to wait.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use iris_protocol::versioned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::JOIN_ALPN;
use super::wire::{self, Admitted, JoinAnswer, JoinRequest, REQUEST_LEN_MAX, Refusal};
use crate::cluster::meta::admission::SecretHash;
use crate::cluster::meta::{MetaOutcome, NodeRecord};
use crate::cluster::{MetaCall, MetaView, Proposals, Undecided};
use crate::edge::SideDoor;
use crate::edge::rate::RateLimits;

/// New nodes served at once: a household sets up one machine at a time.
const AT_ONCE_MAX: usize = 8;

/// Failed attempts of one address: so many at once, then one per [`ATTEMPT_EVERY`] (B4). The secret can't be guessed anyhow; this
/// keeps the log readable and the meta log short.
const ATTEMPTS_BURST: u32 = 10;
const ATTEMPT_EVERY: Duration = Duration::from_secs(30);

/// For the request to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// For the cluster to decide: an election and some.
const DECIDE_DEADLINE: Duration = Duration::from_secs(15);

/// For the answer to be taken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Who has a join decided. [`Proposals`] is the real one.
pub trait JoinDesk: Send + Sync + 'static {
    /// What the cluster decided; it is committed then.
    fn decide(&self, join: MetaCall) -> BoxFuture<'_, Result<MetaOutcome, Undecided>>;
}

impl JoinDesk for Proposals {
    fn decide(&self, join: MetaCall) -> BoxFuture<'_, Result<MetaOutcome, Undecided>> {
        Box::pin(self.ask(join, DECIDE_DEADLINE))
    }
}

/// The door new nodes knock at.
pub struct Door {
    desk: Arc<dyn JoinDesk>,
    view: MetaView,
    attempts: RateLimits<IpAddr>,
    room: Semaphore,
}

impl Door {
    /// A door to the cluster that `view` shows.
    #[must_use]
    pub fn new(desk: Arc<dyn JoinDesk>, view: MetaView) -> Self {
        let attempts = RateLimits::every(ATTEMPT_EVERY, ATTEMPTS_BURST);
        Self { desk, view, attempts, room: Semaphore::new(AT_ONCE_MAX) }
    }

    async fn talk(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let Ok(_room) = self.room.try_acquire() else {
            tracing::warn!(%peer, "too many nodes want to join at once; one was turned away");
            return;
        };
        let received = tokio::time::timeout(REQUEST_DEADLINE, wire::read(&mut stream, REQUEST_LEN_MAX)).await;
        let answer = match received {
            Ok(Ok(bytes)) => self.answer(&bytes, peer).await,
            Ok(Err(error)) => return tracing::info!(%peer, %error, "an attempt to join broke off"),
            Err(_) => return tracing::info!(%peer, "an attempt to join sent no request in time"),
        };
        let said = async {
            wire::write(&mut stream, &answer).await?;
            stream.shutdown().await
        };
        // If it is not heard, the new node asks again and is told the same.
        if !matches!(tokio::time::timeout(ANSWER_DEADLINE, said).await, Ok(Ok(()))) {
            tracing::info!(%peer, "a new node did not take its answer");
        }
    }

    async fn answer(&self, bytes: &[u8], peer: SocketAddr) -> JoinAnswer {
        let origin = origin(peer.ip());
        if let Err(ms) = self.attempts.take(&origin, Instant::now()) {
            tracing::warn!(%peer, "refused an attempt to join: too many from this address");
            return JoinAnswer::Refused(Refusal::TooOften { retry_after_s: ms.div_ceil(1_000) });
        }
        match self.admit(bytes).await {
            Ok((admitted, name, software)) => {
                self.attempts.forgive(&origin);
                tracing::info!(%peer, node = %admitted.node, name, software, "a new node joined");
                JoinAnswer::Admitted(admitted)
            }
            Err(refusal) => {
                tracing::warn!(%peer, ?refusal, "refused an attempt to join");
                JoinAnswer::Refused(refusal)
            }
        }
    }

    async fn admit(&self, bytes: &[u8]) -> Result<(Admitted, String, String), Refusal> {
        let request: JoinRequest = versioned::decode(bytes)?;
        if let Some(problem) = request.problem() {
            return Err(Refusal::Malformed(problem.to_owned()));
        }
        let state = self.view.borrow().clone();
        let state = state.ok_or_else(|| Refusal::NotNow("this node is not a member of a cluster yet".to_owned()))?;
        if state.cluster != request.cluster {
            return Err(Refusal::Foreign { cluster: state.cluster.clone() });
        }
        let record = NodeRecord { name: request.name, key: request.key, p2p: request.p2p, client: request.client };
        let name = record.name.clone();
        // From here on only the hash exists.
        let secret = SecretHash::of(request.secret.expose());
        let outcome = self.desk.decide(MetaCall::Join { token: request.token, secret, record }).await;
        match outcome.map_err(|undecided| Refusal::NotNow(undecided.to_string()))? {
            MetaOutcome::Joined(node) => {
                let others = state.nodes.iter().filter(|(id, _)| **id != node);
                let members = others.map(|(id, record)| (*id, record.clone())).collect();
                let (cluster, ca_pem) = (state.cluster.clone(), state.pki.ca_cert_pem.clone());
                Ok((Admitted { node, cluster, members, ca_pem }, name, request.software))
            }
            MetaOutcome::JoinRefused(refusal) => Err(Refusal::Decided(refusal)),
            other => Err(Refusal::NotNow(format!("the cluster answered {other:?}"))),
        }
    }
}

/// Whose attempts count together: an IPv6 host has a whole /64 to itself.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

impl SideDoor for Door {
    fn alpn(&self) -> &'static [u8] {
        JOIN_ALPN
    }

    fn serve(&self, stream: TlsStream<TcpStream>, peer: SocketAddr) -> BoxFuture<'_, ()> {
        Box::pin(self.talk(stream, peer))
    }
}

#[cfg(test)]
mod tests;
