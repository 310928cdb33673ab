//! The new node's side of joining: asks at the token's addresses, a moment apart, until one answers for the cluster. Believes only
//! who proves to be of the cluster whose CA the token names.
//!
//! Several members may be asked at once, because a dead address must not hold up the others. That is safe: a join goes through
//! the one log of the meta group, and the second one of the same key finds the place that the first one made. The first
//! decision counts; where a refusal overtakes an admission, the next start is told of the place.
//!
//! A crash at any point is harmless. Before the request is sent nothing happened. After it the cluster may have used the token up
//! and given this node's key a place, but nothing of it is here: the next start, with the same token and the same key (which
//! was durable before), is told the same place. Once the answer is written down as the folder's membership, before anything
//! else is made here, every start takes up that place and asks no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iris_client::{Trust, server_name, tls_config};
use iris_p2p::{PeerAddr, PeerKey};
use iris_protocol::versioned;
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::JOIN_ALPN;
use super::membership::{Membership, Origin};
use super::token::JoinToken;
use super::wire::{self, ANSWER_LEN_MAX, Admitted, JoinAnswer, JoinRequest, Refusal};
use crate::calendar::utc;
use crate::cluster::meta::admission::{JoinRefusal, MEMBERS_MAX};
use crate::surroundings::RandomSource;

/// Longest to go on asking: a member that restarts is back by then.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// For name lookup, TCP and the handshake: what is slower than this has something between that swallows packets.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// For the answer: a member gives the cluster 15 s to decide.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// An address that did not answer within this gets company by the next one.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Between rounds over the addresses, plus as much again at random: machines that start together don't knock together.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// A machine that wants to be a member.
pub struct Newcomer {
    /// What lets it in.
    pub token: JoinToken,
    /// Its key.
    pub key: PeerKey,
    /// Its name.
    pub name: String,
    /// Where members reach it.
    pub p2p: Vec<PeerAddr>,
    /// Where clients reach it.
    pub client: String,
    /// Where its client port is bound: what answers there is this machine itself.
    pub bound: SocketAddr,
}

/// Why a machine is no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The cluster refused; trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// Nobody of the cluster could be asked, or none could decide.
    #[error("{0}")]
    Unreachable(String),
}

/// Why one address did not let it in.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The cluster said no.
    Final(JoinError),
    /// Somebody else answers there.
    Foreign(String),
    /// This machine itself does: two machines may well have the same address on a bridge of their own.
    Own,
    /// Not there, or not now.
    Later(String),
}

/// Asks until it is let in, refused, or a minute has passed. `say` tells the person who waits what goes on.
///
/// # Errors
/// Which refusal it was and what to do about it.
pub async fn join(
    newcomer: &Newcomer,
    random: &dyn RandomSource,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<Membership, JoinError> {
    let give_up = Instant::now() + JOIN_DEADLINE;
    let tls = tls_config(&Trust::CaSha256(newcomer.token.ca_sha256), JOIN_ALPN);
    let tls = TlsConnector::from(tls.map_err(|error| JoinError::Refused(error.to_string()))?);
    let addresses = &newcomer.token.addresses;
    let mut last = String::new();
    loop {
        let mut round = Round { newcomer, tls: &tls, say, foreign: Vec::new(), own: 0, last: &mut last };
        match tokio::time::timeout_at(give_up, round.run()).await {
            Ok(Some(Ok(admitted))) => return Ok(place(admitted, newcomer.key)),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) | Err(_) => {}
        }
        let Round { mut foreign, own, .. } = round;
        // A machine that is off may come; one of another cluster will not change sides, and this one can't let itself in.
        if foreign.len() + own == addresses.len() {
            return Err(JoinError::Refused(if foreign.is_empty() {
                only_own(newcomer)
            } else {
                foreign.swap_remove(0)
            }));
        }
        let jitter = Duration::from_millis(random.below(ROUND_PAUSE.as_millis() as u64));
        if Instant::now() + ROUND_PAUSE + jitter >= give_up {
            return Err(JoinError::Unreachable(format!(
                "no machine of the cluster let this one in within {} s; the last one asked was {last}. Is one of {} running, and can this machine \
                 reach it (the same network, no firewall between)? The token is still good until {} UTC: start again with it",
                JOIN_DEADLINE.as_secs(),
                addresses.join(", "),
                utc(newcomer.token.expires_ms)
            )));
        }
        tokio::time::sleep(ROUND_PAUSE + jitter).await;
    }
}

/// One round over the token's addresses.
struct Round<'a> {
    newcomer: &'a Newcomer,
    tls: &'a TlsConnector,
    say: &'a (dyn Fn(&str) + Send + Sync),
    /// Why addresses are another cluster's.
    foreign: Vec<String>,
    /// Addresses that are this machine's.
    own: usize,
    /// What the last one said that could not decide.
    last: &'a mut String,
}

impl Round<'_> {
    /// Asks each address once, the next one when the one before has failed or takes its time; `None` if none decides.
    async fn run(&mut self) -> Option<Result<Admitted, JoinError>> {
        let (newcomer, tls) = (self.newcomer, self.tls);
        let mut waiting = newcomer.token.addresses.iter();
        let mut asking = FuturesUnordered::new();
        loop {
            let next = waiting.next();
            if let Some(address) = next {
                (self.say)(&format!("asking {address} to let this machine in as {}", newcomer.name));
                asking.push(async move { (address, ask(newcomer, address, tls).await) });
            }
            let answered = match next {
                Some(_) if waiting.len() > 0 => tokio::time::timeout(NEXT_AFTER, asking.next()).await,
                _ => Ok(asking.next().await),
            };
            match answered {
                Ok(Some((address, answer))) => {
                    if let Some(decided) = self.heard(address, answer) {
                        return Some(decided);
                    }
                }
                Ok(None) if waiting.len() == 0 => return None,
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn heard(&mut self, address: &str, answer: Result<Admitted, Attempt>) -> Option<Result<Admitted, JoinError>> {
        match answer {
            Ok(admitted) => return Some(Ok(admitted)),
            Err(Attempt::Final(error)) => return Some(Err(error)),
            Err(Attempt::Foreign(why)) => self.foreign.push(why),
            Err(Attempt::Own) => self.own += 1,
            Err(Attempt::Later(why)) => {
                *self.last = format!("{address}: {why}");
                (self.say)(self.last);
            }
        }
        None
    }
}

fn only_own(newcomer: &Newcomer) -> String {
    format!(
        "the token's addresses ({}) are all this machine's own: the machine that made it does not say where others reach it. Set node.advertise \
         there to an address of the network both are in, and make another with `iris join-token`",
        newcomer.token.addresses.join(", ")
    )
}

fn place(admitted: Admitted, key: PeerKey) -> Membership {
    let Admitted { node, cluster, members, ca_pem } = admitted;
    Membership { node, key, cluster, origin: Origin::Joined, settled: false, seeds: members, ca_pem }
}

async fn ask(newcomer: &Newcomer, address: &str, tls: &TlsConnector) -> Result<Admitted, Attempt> {
    let late = |what: &str| Attempt::Later(format!("{what} in time"));
    let connect = connect(newcomer.bound, address, tls);
    let mut stream = tokio::time::timeout(CONNECT_DEADLINE, connect).await.map_err(|_| late("no connection"))??;
    let exchange = async {
        wire::write(&mut stream, &request(newcomer)).await?;
        wire::read(&mut stream, ANSWER_LEN_MAX).await
    };
    let answered = tokio::time::timeout(ANSWER_DEADLINE, exchange).await.map_err(|_| late("no answer"))?;
    let bytes = answered.map_err(|error| Attempt::Later(format!("the connection broke: {error}")))?;
    match versioned::decode(&bytes).map_err(|error| Attempt::Final(JoinError::Refused(other_version(&error))))? {
        JoinAnswer::Admitted(admitted) => Ok(admitted),
        JoinAnswer::Refused(refusal) => Err(judge(refusal, newcomer)),
    }
}

pub(super) async fn connect(
    bound: SocketAddr,
    address: &str,
    tls: &TlsConnector,
) -> Result<TlsStream<TcpStream>, Attempt> {
    let failed = |error: std::io::Error| Attempt::Later(error.to_string());
    let socket = TcpStream::connect(address).await.map_err(failed)?;
    let (from, to) = (socket.local_addr().map_err(failed)?, socket.peer_addr().map_err(failed)?);
    if is_own(bound, from, to) {
        return Err(Attempt::Own);
    }
    tls.connect(server_name(), socket).await.map_err(|error| handshake_failed(address, &error, tls))
}

/// Whether a connection leads back to this machine's own client port. A machine speaks to each of its addresses from that very
/// address, and no two programs have one port of it.
fn is_own(bound: SocketAddr, from: SocketAddr, to: SocketAddr) -> bool {
    to.ip() == from.ip() && to.port() == bound.port() && (bound.ip().is_unspecified() || to.ip() == bound.ip())
}

fn request(newcomer: &Newcomer) -> JoinRequest {
    JoinRequest {
        cluster: newcomer.token.cluster.clone(),
        token: newcomer.token.id,
        secret: newcomer.token.secret.clone(),
        key: newcomer.key,
        name: newcomer.name.clone(),
        p2p: newcomer.p2p.iter().take(wire::PEER_ADDRESSES_MAX).cloned().collect(),
        client: newcomer.client.clone(),
        software: concat!("iris/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// Whether it is the dates that are wrong.
fn is_about_time(why: &CertificateError) -> bool {
    matches!(
        why,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

fn handshake_failed(address: &str, error: &std::io::Error, tls: &TlsConnector) -> Attempt {
    // The clock that the certificate was judged by.
    let now_ms = tls.config().time_provider.current_time().map_or(0, |now| now.as_secs().saturating_mul(1_000));
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) if is_about_time(why) => Attempt::Later(format!(
            "by this machine's clock, which stands at {} UTC, the cluster's certificate is not good: set the clock right if that is not the time",
            utc(now_ms)
        )),
        Some(rustls::Error::InvalidCertificate(why)) => Attempt::Foreign(format!(
            "the machine at {address} belongs to another cluster than the token, or only pretends to belong to it ({why}): this machine told it \
             nothing. Make a token with `iris join-token` on a machine of the cluster you mean to join"
        )),
        _ => Attempt::Later(format!("no handshake: {error}; is that an Iris that lets others join?")),
    }
}

fn other_version(error: &dyn std::fmt::Display) -> String {
    format!("the answer can't be read ({error}): run the same version of Iris on both machines")
}

/// What a refusal means for this machine, and what to do.
fn judge(refusal: Refusal, newcomer: &Newcomer) -> Attempt {
    let name = &newcomer.name;
    let another = "make another with `iris join-token` on a machine of the cluster";
    let sentence = match refusal {
        Refusal::NotNow(why) => return Attempt::Later(why),
        Refusal::TooOften { retry_after_s } => {
            return Attempt::Later(format!("too many attempts from this address; it hears again in {retry_after_s} s"));
        }
        Refusal::Foreign { cluster } => {
            return Attempt::Foreign(format!(
                "the token is for cluster {}, but the machines at its addresses belong to cluster {cluster}: {another} you mean to join",
                newcomer.token.cluster
            ));
        }
        Refusal::Malformed(why) => {
            format!("the request was refused ({why}): run the same version of Iris on both machines")
        }
        Refusal::Version { known } => {
            format!(
                "the cluster reads join requests of version {known} only: run the same version of Iris on both machines"
            )
        }
        Refusal::Decided(JoinRefusal::Unknown) => format!(
            "the cluster does not know this join token (any more); it was good until {} UTC: {another}",
            utc(newcomer.token.expires_ms)
        ),
        Refusal::Decided(JoinRefusal::WrongSecret) => {
            format!(
                "the join token's secret is wrong: it was not made by this cluster. Copy the token again, or {another}"
            )
        }
        Refusal::Decided(JoinRefusal::Used { node, name, at_ms }) => format!(
            "the join token was used already, by {name} (node {node}) at {} UTC; each works once: {another}",
            utc(at_ms)
        ),
        Refusal::Decided(JoinRefusal::Expired { at_ms }) => {
            format!("the join token expired at {} UTC: {another}", utc(at_ms))
        }
        Refusal::Decided(JoinRefusal::KeyIsMember { node, name }) => format!(
            "this data folder's key is already that of {name} (node {node}), which has been running: if this is a copy of its folder, use an empty \
             one (--data DIR); if its data was lost, remove identity.key here, so that this machine joins as a new node"
        ),
        Refusal::Decided(JoinRefusal::NameTaken { node, .. }) => format!(
            "the cluster has a member called {name} already (node {node}). If that is another machine, or this one before it was set up anew, join \
             under a name of its own: iris up --join TOKEN --name {name}-2. The token is still good"
        ),
        Refusal::Decided(JoinRefusal::ClockWentBack { now_ms, latest_ms }) => format!(
            "the clock of the cluster's leader stands at {} UTC and was at {} UTC before: set the clocks of its machines right, then {another}",
            utc(now_ms),
            utc(latest_ms)
        ),
        Refusal::Decided(JoinRefusal::Full) => {
            format!("the cluster has {MEMBERS_MAX} members, and takes no more")
        }
    };
    Attempt::Final(JoinError::Refused(sentence))
}

/// A way to say what goes on, for people at a terminal and logs alike: stderr, one line each.
#[must_use]
pub fn say_on_stderr() -> Arc<dyn Fn(&str) + Send + Sync> {
    // Not with `eprintln`, which panics when nobody listens.
    Arc::new(|text| drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("iris: {text}\n"))))
}
