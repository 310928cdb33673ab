//! The handle to the links: what the rest of a node calls. Owns no state machine; it reads what `task` publishes and talks
//! to the connections directly, so a stream is opened without a detour through the links' loop.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::behaviour::{Line, MemberMap};
use crate::config::ADDRS_PER_MEMBER_MAX;
use crate::handler::{OpenFailure, OpenRequest};
use crate::hello::{Purpose, Verdict};
use crate::{
    AddressBook, Identity, Inbound, LinkConfig, LinksTask, PeerAddr, PeerKey, PeerStates, PeerStream, StreamKind,
    inbound, task,
};

/// A node that is let in, and where to find it. Without an address it is waited for, not dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub key: PeerKey,
    /// Where it may listen; the first eight are used.
    pub addrs: Vec<PeerAddr>,
}

/// Why the links could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("the link settings are not usable: {0}")]
    Config(&'static str),
    /// A listener could not be opened.
    #[error("cannot listen on {addr}: {source}; is another node running there, and is the address this machine's own?")]
    Listen {
        /// The address asked for.
        addr: PeerAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system did not confirm the listeners.
    #[error("the listeners were not confirmed within {0:?}; start again, and look at the system's load")]
    ListenTimeout(Duration),
    /// The key pair is not usable for the handshake.
    #[error("the identity can't be used for encryption: {0}")]
    Encryption(String),
}

/// Why no stream was opened. After any of these the other side holds nothing that counts as accepted, or will find it reset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no live link: not a member, or down. Wait on [`Links::watch`].
    #[error("no live link to {0}")]
    NotConnected(PeerKey),
    /// The other side has no room for another stream; try again later.
    #[error("{0} has too many streams waiting or open; try again later")]
    Busy(PeerKey),
    /// This side has the most streams open to that peer that it may have.
    #[error("too many streams are open to {0}; close some")]
    TooManyStreams(PeerKey),
    /// The other side takes no streams, e.g. because it is shutting down.
    #[error("{0} takes no streams now")]
    NotAccepting(PeerKey),
    /// The other side speaks another version of the stream hello.
    #[error("{peer} speaks link version {theirs}, this node another; upgrade the older of the two")]
    Version {
        /// The peer.
        peer: PeerKey,
        /// Its version.
        theirs: u8,
    },
    /// No answer in time.
    #[error("{peer} did not take the stream within {after:?}")]
    TimedOut {
        /// The peer.
        peer: PeerKey,
        /// The deadline.
        after: Duration,
    },
    /// The link broke meanwhile.
    #[error("the link to {peer} broke while a stream was opened: {reason}")]
    Broken {
        /// The peer.
        peer: PeerKey,
        /// What is known.
        reason: String,
    },
}

/// What the links' task tells the handles, readable without a lock.
#[derive(Debug)]
pub(crate) struct Published {
    /// The live links.
    pub(crate) live: ArcSwap<HashMap<PeerKey, Line>>,
    pub(crate) listen: ArcSwap<Vec<PeerAddr>>,
    /// Connections that stand, admitted and not yet closed.
    pub(crate) connections: ArcSwap<HashMap<PeerKey, usize>>,
}

/// The handle to all links of this node. Cheap to clone; the links end when the last handle is dropped, or with their
/// [`LinksTask`].
#[derive(Debug, Clone)]
pub struct Links(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    local: PeerKey,
    open_timeout: Duration,
    published: Arc<Published>,
    members: watch::Sender<MemberMap>,
    states: watch::Receiver<PeerStates>,
    book: watch::Receiver<Arc<AddressBook>>,
}

impl Links {
    /// Binds the listeners and returns once they stand. Nothing is dialled or accepted until [`LinksTask::run`] is polled,
    /// which the caller spawns and supervises.
    pub async fn start(
        identity: Identity,
        config: LinkConfig,
        members: Vec<Member>,
    ) -> Result<(Links, Inbound, LinksTask), StartError> {
        config.check().map_err(StartError::Config)?;
        let local = identity.peer_id();
        let (queue, inbound) = inbound::queue(config.inbound_queue);
        let (members, members_seen) = watch::channel(member_map(local, members));
        let (states, states_seen) = watch::channel(PeerStates::default());
        let (book, book_seen) = watch::channel(Arc::default());
        let published =
            Published { live: ArcSwap::default(), listen: ArcSwap::default(), connections: ArcSwap::default() };
        let published = Arc::new(published);
        let open_timeout = config.open_timeout;
        let outlet = task::Outlet { published: Arc::clone(&published), states, book };
        let task = task::start(&identity, config, members_seen, queue, outlet).await?;
        let shared = Shared { local, open_timeout, published, members, states: states_seen, book: book_seen };
        Ok((Links(Arc::new(shared)), inbound, task))
    }

    /// This node's own key.
    pub fn local(&self) -> PeerKey {
        self.0.local
    }

    /// Where this node listens, with the ports that the system chose, on every interface if it was told to. It changes when
    /// the machine's addresses do. Link-local IPv6 addresses are left out: nobody could dial them as they are written.
    pub fn listen_addrs(&self) -> Vec<PeerAddr> {
        self.0.published.listen.load().as_ref().clone()
    }

    /// Replaces the admitted set. Connections of those not in it are closed, newcomers are dialled; this node's own
    /// key may be among them and is left out. Takes effect on new connections at once, on standing ones a moment later.
    pub fn set_members(&self, members: Vec<Member>) {
        self.0.members.send_replace(member_map(self.0.local, members));
    }

    /// Opens a stream that `peer` has accepted into its [`Inbound`] queue. Fails at once when there is no live link, and
    /// otherwise within [`LinkConfig::open_timeout`].
    pub async fn open(&self, peer: PeerKey, kind: StreamKind) -> Result<PeerStream, OpenError> {
        let line = self.0.published.live.load().get(&peer).cloned().ok_or(OpenError::NotConnected(peer))?;
        let Ok(place) = line.places.try_acquire_owned() else {
            return Err(OpenError::TooManyStreams(peer));
        };
        let (reply, answer) = oneshot::channel();
        let request = OpenRequest { purpose: Purpose::Caller(kind), reply };
        let asking = async {
            // Both fail only when the connection has ended, its queue with it.
            line.requests.send(request).await.map_err(|_| OpenError::NotConnected(peer))?;
            answer.await.map_err(|_| OpenError::NotConnected(peer))
        };
        let after = self.0.open_timeout;
        match timeout(after, asking).await.map_err(|_| OpenError::TimedOut { peer, after })?? {
            Ok(stream) => Ok(PeerStream::new(stream, peer, kind, place)),
            Err(failure) => Err(open_error(peer, failure, after)),
        }
    }

    /// Whether streams to `peer` can be opened now. One lock-free load and a look-up.
    pub fn is_up(&self, peer: PeerKey) -> bool {
        self.0.published.live.load().contains_key(&peer)
    }

    /// How many connections to `peer` stand. One is the link; another is there only while a duplicate or a lost one goes.
    pub fn connection_count(&self, peer: PeerKey) -> usize {
        self.0.published.connections.load().get(&peer).copied().unwrap_or(0)
    }

    /// Where members may be found, and a way to wait for its changes. Keep it and give it to the next start in
    /// [`LinkConfig::book`]: then a member is found even if neither its description nor the network says where it is.
    ///
    /// Changes are rare on an honest network, but anybody on it can make them as frequent as they like: whoever writes the
    /// book to a disk leaves some seconds between two writes.
    pub fn book(&self) -> watch::Receiver<Arc<AddressBook>> {
        self.0.book.clone()
    }

    /// Every member's state, and a way to wait for its changes.
    pub fn watch(&self) -> watch::Receiver<PeerStates> {
        self.0.states.clone()
    }
}

fn open_error(peer: PeerKey, failure: OpenFailure, after: Duration) -> OpenError {
    match failure {
        OpenFailure::Refused(Verdict::Busy) => OpenError::Busy(peer),
        OpenFailure::Refused(Verdict::Version(theirs)) => OpenError::Version { peer, theirs },
        OpenFailure::Refused(Verdict::NotAccepting | Verdict::Accepted) => OpenError::NotAccepting(peer),
        OpenFailure::TimedOut => OpenError::TimedOut { peer, after },
        OpenFailure::Broken(reason) => OpenError::Broken { peer, reason },
    }
}

fn member_map(local: PeerKey, members: Vec<Member>) -> MemberMap {
    let mut map: BTreeMap<PeerKey, Vec<PeerAddr>> = BTreeMap::new();
    for member in members.into_iter().filter(|member| member.key != local) {
        let addrs = map.entry(member.key).or_default();
        for addr in member.addrs {
            if !addrs.contains(&addr) && addrs.len() < ADDRS_PER_MEMBER_MAX {
                addrs.push(addr);
            }
        }
    }
    Arc::new(map)
}
