//! A member's side of joining: takes the request of a new node on the client port, has the cluster decide, and answers only
//! once that is committed. Few at a time, fewer of one address, each with deadlines, and an address that fails too often has to
//! wait. Who is turned away is told so, and asks again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use iris_protocol::versioned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
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

/// Of these, from one address: one that does nothing but connect must not close the door for the others.
const OF_ONE_ADDRESS_MAX: usize = 2;

/// Failed attempts of one address: so many at once, then one per [`ATTEMPT_EVERY`] (B4). The secret can't be guessed anyhow; this
/// keeps the log readable and the meta log short.
const ATTEMPTS_BURST: u32 = 10;
const ATTEMPT_EVERY: Duration = Duration::from_secs(30);

/// For the request to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// For the cluster to decide: an election and some.
const DECIDE_DEADLINE: Duration = Duration::from_secs(15);

/// For the answer to be taken.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// For one that is turned away to be told so and to stop talking.
const TURN_AWAY_DEADLINE: Duration = Duration::from_secs(1);

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
    places: Places,
}

impl Door {
    /// A door to the cluster that `view` shows.
    #[must_use]
    pub fn new(desk: Arc<dyn JoinDesk>, view: MetaView) -> Self {
        let attempts = RateLimits::every(ATTEMPT_EVERY, ATTEMPTS_BURST);
        Self { desk, view, attempts, places: Places::default() }
    }

    async fn talk(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let origin = origin(peer.ip());
        let Some(_place) = self.places.take(origin) else {
            tracing::info!(%peer, "too many nodes want to join at once; one was told to try again");
            let full = Refusal::NotNow("other machines are being let in; this one has to wait a moment".to_owned());
            return turn_away(&mut stream, full).await;
        };
        // Before a word is said: who connects and keeps silent has had an attempt too.
        if let Err(ms) = self.attempts.take(&origin, Instant::now()) {
            tracing::warn!(%peer, "refused an attempt to join: too many from this address");
            return turn_away(&mut stream, Refusal::TooOften { retry_after_s: ms.div_ceil(1_000) }).await;
        }
        let received = tokio::time::timeout(REQUEST_DEADLINE, wire::read(&mut stream, REQUEST_LEN_MAX)).await;
        let answer = match received {
            Ok(Ok(bytes)) => self.answer(&bytes, peer).await,
            Ok(Err(error)) => return tracing::info!(%peer, %error, "an attempt to join broke off"),
            Err(_) => return tracing::info!(%peer, "an attempt to join sent no request in time"),
        };
        // If it is not heard, the new node asks again and is told the same.
        if !matches!(tokio::time::timeout(ANSWER_DEADLINE, say(&mut stream, &answer)).await, Ok(Ok(()))) {
            tracing::info!(%peer, "a new node did not take its answer");
        }
    }

    async fn answer(&self, bytes: &[u8], peer: SocketAddr) -> JoinAnswer {
        match self.admit(bytes).await {
            Ok((admitted, name, software)) => {
                self.attempts.forgive(&origin(peer.ip()));
                tracing::info!(%peer, node = %admitted.node, name, software, "a new node joined");
                JoinAnswer::Admitted(admitted)
            }
            Err(refusal) => {
                // Nothing was tried: the cluster could not decide, and the machine does right to ask again.
                if matches!(refusal, Refusal::NotNow(_)) {
                    self.attempts.forgive(&origin(peer.ip()));
                }
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

async fn say(stream: &mut (impl AsyncWrite + Unpin), answer: &JoinAnswer) -> std::io::Result<()> {
    wire::write(stream, answer).await?;
    stream.shutdown().await
}

/// Answers without having read the question. What is on its way has to be taken, or the system cuts the connection off together
/// with the answer.
async fn turn_away(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), refusal: Refusal) {
    let told = async {
        say(stream, &JoinAnswer::Refused(refusal)).await?;
        tokio::io::copy(&mut stream.take(REQUEST_LEN_MAX as u64), &mut tokio::io::sink()).await
    };
    // It is owed no more than this.
    let _ = tokio::time::timeout(TURN_AWAY_DEADLINE, told).await;
}

/// The places at the door, by address.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

impl Places {
    /// A place for as long as it is kept, if there is one.
    fn take(&self, origin: IpAddr) -> Option<Place<'_>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= AT_ONCE_MAX {
            return None;
        }
        let own = taken.entry(origin).or_default();
        if *own >= OF_ONE_ADDRESS_MAX {
            return None;
        }
        *own += 1;
        Some(Place { places: self, origin })
    }
}

struct Place<'a> {
    places: &'a Places,
    origin: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.origin) {
            *own = own.saturating_sub(1);
        }
        taken.retain(|_, own| *own > 0);
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
