//! The door and the joiner on both ends of a real TLS connection, the cluster's decision by the real meta state.

use std::sync::Mutex;

use iris_p2p::Identity;
use iris_protocol::NodeId;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::admission::joiner::{Attempt, JoinError, Newcomer, connect, join};
use crate::admission::membership::{Membership, Origin};
use crate::admission::token::{JoinSecret, JoinToken};
use crate::auth::pki;
use crate::cluster::MetaState;
use crate::cluster::meta::admission::{NewToken, TOKEN_TTL_MS_MAX, TokenId};
use crate::cluster::meta::{DedupSettings, Meta, MetaCommand};
use crate::surroundings::Surroundings;

const NOW_MS: u64 = 1_795_000_000_000;

/// The meta state alone, without a group around it.
struct Desk {
    meta: Mutex<Meta>,
    now_ms: Mutex<u64>,
    publish: watch::Sender<Option<Arc<MetaState>>>,
}

impl Desk {
    fn apply(&self, command: MetaCommand) -> MetaOutcome {
        let mut meta = self.meta.lock().unwrap();
        let outcome = meta.apply(command);
        self.publish.send_replace(meta.state.clone().map(Arc::new));
        outcome
    }
}

impl JoinDesk for Desk {
    fn decide(&self, join: MetaCall) -> BoxFuture<'_, Result<MetaOutcome, Undecided>> {
        let now_ms = *self.now_ms.lock().unwrap();
        Box::pin(async move { Ok(self.apply(join.command(NodeId(1), now_ms))) })
    }
}

/// A cluster of one with an open door.
struct House {
    desk: Arc<Desk>,
    door: Arc<Door>,
    state: MetaState,
    address: String,
    serving: tokio::task::JoinHandle<()>,
}

impl House {
    async fn new(cluster: &str) -> Self {
        // TLS looks at the real clock; the tokens at the desk's.
        let pki = pki::found(cluster, &[], Surroundings::system().clock.unix_ms()).unwrap();
        let own = NodeRecord {
            name: "attic".to_owned(),
            key: Identity::ephemeral().peer_id(),
            p2p: Vec::new(),
            client: "192.0.2.1:8443".to_owned(),
        };
        let state = MetaState {
            cluster: cluster.to_owned(),
            pki,
            token_keys: Vec::new(),
            nodes: [(NodeId(1), own)].into(),
            shards: Vec::new(),
            vnodes: Vec::new(),
            dedup: DedupSettings { window_ms: 1, keys_max: 1 },
            admissions: Default::default(),
        };
        let (publish, view) = watch::channel(None);
        let desk = Arc::new(Desk { meta: Mutex::default(), now_ms: Mutex::new(NOW_MS), publish });
        desk.apply(MetaCommand::Found(Box::new(state.clone())));
        let door = Arc::new(Door::new(desk.clone(), view));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = serve(listener, pki::ServerTls::new(&state.pki).unwrap().config(), door.clone());
        Self { desk, door, state, address, serving }
    }

    fn token(&self, id: u8) -> JoinToken {
        let secret = JoinSecret::new([id; 32]);
        let hash = SecretHash::of(secret.expose());
        let new = NewToken { id: TokenId([id; 8]), secret: hash, now_ms: NOW_MS, ttl_ms: TOKEN_TTL_MS_MAX };
        assert_eq!(self.desk.apply(MetaCommand::IssueToken(new)), MetaOutcome::Changed);
        JoinToken {
            cluster: self.state.cluster.clone(),
            ca_sha256: pki::ca_sha256_bytes(&self.state.pki).unwrap(),
            addresses: vec![self.address.clone()],
            id: TokenId([id; 8]),
            secret,
            expires_ms: NOW_MS + TOKEN_TTL_MS_MAX,
        }
    }
}

fn serve(listener: TcpListener, tls: Arc<ServerConfig>, door: Arc<Door>) -> tokio::task::JoinHandle<()> {
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(socket).await {
                door.serve(stream, peer).await;
            }
        }
    })
}

fn newcomer(name: &str, token: JoinToken) -> Newcomer {
    Newcomer {
        token,
        key: Identity::ephemeral().peer_id(),
        name: name.to_owned(),
        p2p: Vec::new(),
        client: "192.0.2.2:8443".to_owned(),
        bound: "192.0.2.2:8443".parse().unwrap(),
    }
}

async fn try_join(newcomer: &Newcomer) -> Result<Membership, JoinError> {
    join(newcomer, &*Surroundings::system().random, &|text| eprintln!("{text}")).await
}

#[track_caller]
fn assert_refused(result: Result<Membership, JoinError>, part: &str) {
    match result {
        Err(JoinError::Refused(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[tokio::test]
async fn a_node_is_let_in_once_and_told_its_place_again() {
    let house = House::new("ours").await;
    let nas = newcomer("nas", house.token(7));
    let place = try_join(&nas).await.unwrap();
    assert_eq!((place.node, place.origin, place.settled), (NodeId(2), Origin::Joined, false));
    assert_eq!(
        (place.key, &place.ca_pem, &place.cluster),
        (nas.key, &house.state.pki.ca_cert_pem, &house.state.cluster)
    );
    assert_eq!(place.seeds, [(NodeId(1), house.state.nodes[&NodeId(1)].clone())]);
    // The answer was lost with a crash: the same question, the same answer.
    assert_eq!(try_join(&nas).await.unwrap(), place);
    assert_refused(
        try_join(&newcomer("pi", nas.token.clone())).await,
        "used already, by nas (node 2) at 2026-11-18 11:06:40",
    );
}

#[tokio::test]
async fn every_refusal_says_which_and_what_to_do() {
    let house = House::new("ours").await;
    let token = house.token(7);
    let unknown = JoinToken { id: TokenId([9; 8]), ..token.clone() };
    assert_refused(try_join(&newcomer("nas", unknown)).await, "does not know this join token");
    let wrong = JoinToken { secret: JoinSecret::new([9; 32]), ..token.clone() };
    assert_refused(try_join(&newcomer("nas", wrong)).await, "secret is wrong");
    assert_refused(try_join(&newcomer("attic", token.clone())).await, "iris up --join TOKEN --name attic-2");
    *house.desk.now_ms.lock().unwrap() += TOKEN_TTL_MS_MAX;
    assert_refused(try_join(&newcomer("nas", token.clone())).await, "expired at 2026-11-19");
    // The same CA, as after a restored backup, but another cluster.
    let elsewhere = JoinToken { cluster: "theirs".to_owned(), ..token.clone() };
    assert_refused(
        try_join(&newcomer("nas", elsewhere)).await,
        "is for cluster theirs, but the machines at its addresses",
    );
    // Another CA: the secret is not even told.
    let theirs = House::new("theirs").await;
    let misled = JoinToken { addresses: vec![theirs.address.clone()], ..token };
    assert_refused(try_join(&newcomer("nas", misled)).await, "belongs to another cluster than the token");
    assert_eq!(theirs.desk.meta.lock().unwrap().state.as_ref().unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn an_address_that_is_gone_is_passed_over() {
    let house = House::new("ours").await;
    let mut token = house.token(7);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    token.addresses.insert(0, gone);
    assert_eq!(try_join(&newcomer("nas", token)).await.unwrap().node, NodeId(2));
}

#[tokio::test]
async fn a_silent_address_holds_up_nobody_and_several_may_be_asked_at_once() {
    let house = House::new("ours").await;
    // Takes connections and says nothing: something between that swallows packets, or the joiner's own bridge.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut token = house.token(7);
    token.addresses = vec![silent.local_addr().unwrap().to_string(), house.address.clone(), house.address.clone()];
    let began = Instant::now();
    assert_eq!(try_join(&newcomer("nas", token.clone())).await.unwrap().node, NodeId(2));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // Two members decide for the same machine.
    let pi = newcomer("pi", house.token(8));
    let both = tokio::join!(try_join(&pi), try_join(&pi));
    assert_eq!((both.0.unwrap().node, both.1.unwrap().node), (NodeId(3), NodeId(3)));
}

/// A clock that stands still, in seconds since 1970.
#[derive(Debug)]
struct Stands(u64);

impl rustls::time_provider::TimeProvider for Stands {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

#[tokio::test]
async fn a_wrong_clock_makes_no_impostor_of_the_cluster() {
    let house = House::new("ours").await;
    let token = house.token(7);
    let connect = async |clock_s: u64, ca_sha256: [u8; 32]| {
        let tls = iris_client::tls_config(&iris_client::Trust::CaSha256(ca_sha256), JOIN_ALPN).unwrap();
        let mut tls = (*tls).clone();
        tls.time_provider = Arc::new(Stands(clock_s));
        let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
        connect("192.0.2.2:8443".parse().unwrap(), &house.address, &tls).await.map(drop)
    };
    connect(0, token.ca_sha256).await.expect("a machine without a battery");
    const IN_2100: u64 = 4_102_444_800;
    match connect(IN_2100, token.ca_sha256).await {
        Err(Attempt::Later(why)) => assert!(why.contains("clock, which stands at 2100-01-01 00:00:00 UTC"), "{why}"),
        other => panic!("{other:?}"),
    }
    let other = connect(0, [0; 32]).await;
    assert!(matches!(other, Err(Attempt::Foreign(_))), "{other:?}");
}

#[tokio::test]
async fn a_machine_does_not_ask_itself() {
    let house = House::new("ours").await;
    let own = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let bound = own.local_addr().unwrap();
    let mut token = house.token(7);
    token.addresses = vec![format!("127.0.0.1:{}", bound.port())];
    let alone = Newcomer { bound, ..newcomer("nas", token.clone()) };
    assert_refused(try_join(&alone).await, "are all this machine's own");
    token.addresses.push(house.address.clone());
    assert_eq!(try_join(&Newcomer { token, ..alone }).await.unwrap().node, NodeId(2));
}

/// What the door says to these bytes, as a whole connection; `None` if nothing.
async fn knock(door: &Door, bytes: &[u8], peer: SocketAddr) -> Option<JoinAnswer> {
    let (mut ours, theirs) = tokio::io::duplex(REQUEST_LEN_MAX);
    let asked = async {
        let framed = [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
        ours.write_all(&framed).await.unwrap();
        let answer = wire::read(&mut ours, wire::ANSWER_LEN_MAX).await.ok();
        drop(ours);
        answer.map(|bytes| versioned::decode(&bytes).unwrap())
    };
    tokio::join!(door.talk(theirs, peer), asked).1
}

fn request(id: u8, secret: u8) -> Vec<u8> {
    versioned::encode(&JoinRequest {
        cluster: "ours".to_owned(),
        token: TokenId([id; 8]),
        secret: JoinSecret::new([secret; 32]),
        key: Identity::ephemeral().peer_id(),
        name: format!("n{id}"),
        p2p: Vec::new(),
        client: "192.0.2.2:8443".to_owned(),
        software: String::new(),
    })
}

#[tokio::test]
async fn who_fails_too_often_waits_and_who_gets_in_does_not() {
    let house = House::new("ours").await;
    let peer: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let knock = async |bytes: &[u8], peer| knock(&house.door, bytes, peer).await.unwrap();
    for id in 20..40 {
        house.token(id);
        let answer = knock(&request(id, id), peer).await;
        assert!(matches!(answer, JoinAnswer::Admitted(_)), "{answer:?}");
    }
    house.token(7);
    for _ in 0..ATTEMPTS_BURST {
        let answer = knock(&request(7, 8), peer).await;
        assert!(matches!(answer, JoinAnswer::Refused(Refusal::Decided(_))), "{answer:?}");
    }
    let answer = knock(&request(7, 7), peer).await;
    assert!(matches!(answer, JoinAnswer::Refused(Refusal::TooOften { retry_after_s: 1..=30 })), "{answer:?}");
    let elsewhere: SocketAddr = "192.0.2.10:1".parse().unwrap();
    let answer = knock(b"\x09junk", elsewhere).await;
    assert!(matches!(answer, JoinAnswer::Refused(Refusal::Version { known: 1 })), "{answer:?}");
    assert!(matches!(knock(&request(7, 7), elsewhere).await, JoinAnswer::Admitted(_)));
}

#[tokio::test(start_paused = true)]
async fn silence_counts_as_an_attempt() {
    let house = House::new("ours").await;
    house.serving.abort();
    let peer: SocketAddr = "192.0.2.9:1".parse().unwrap();
    // Paused time runs on by itself to each deadline.
    let began = Instant::now();
    let mut turned_away = 0;
    while began.elapsed() < 10 * ATTEMPT_EVERY && turned_away == 0 {
        let (mut silent, theirs) = tokio::io::duplex(1024);
        let ((), said) =
            tokio::join!(house.door.talk(theirs, peer), tokio::time::timeout(TURN_AWAY_DEADLINE, silent.read_u8()));
        turned_away += usize::from(matches!(said, Ok(Ok(_))));
    }
    assert_eq!(turned_away, 1, "an address that only keeps silent is told to wait");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_one_address_leaves_room_for_others() {
    let house = House::new("ours").await;
    house.serving.abort();
    house.token(7);
    let crowd: SocketAddr = "192.0.2.9:1".parse().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..AT_ONCE_MAX {
        let (ours, theirs) = tokio::io::duplex(1024);
        let door = house.door.clone();
        waiting.push((ours, tokio::spawn(async move { door.talk(theirs, crowd).await })));
    }
    tokio::task::yield_now().await;
    let taken = |door: &Door| door.places.0.lock().unwrap().values().sum::<usize>();
    assert_eq!(taken(&house.door), OF_ONE_ADDRESS_MAX);
    let before = Instant::now();
    let answer = knock(&house.door, &request(7, 7), crowd).await;
    assert!(matches!(answer, Some(JoinAnswer::Refused(Refusal::NotNow(_)))), "{answer:?}");
    let other = knock(&house.door, &request(7, 7), "192.0.2.10:1".parse().unwrap()).await;
    assert!(matches!(other, Some(JoinAnswer::Admitted(_))), "{other:?}");
    assert_eq!(Instant::now(), before, "at once");
    for (_silent, talk) in waiting {
        talk.await.unwrap();
    }
    assert_eq!(taken(&house.door), 0);
}

#[tokio::test]
async fn a_door_that_is_full_is_asked_again() {
    let house = House::new("ours").await;
    let nas = newcomer("nas", house.token(7));
    let places: Vec<_> =
        (0..OF_ONE_ADDRESS_MAX).map(|_| house.door.places.take([127, 0, 0, 1].into()).unwrap()).collect();
    let heard = std::sync::Arc::new(tokio::sync::Notify::new());
    let say = |text: &str| {
        if text.contains("has to wait a moment") {
            heard.notify_one();
        }
    };
    let random = Surroundings::system().random;
    let freed = async {
        heard.notified().await;
        drop(places);
    };
    let (place, ()) = tokio::join!(join(&nas, &*random, &say), freed);
    assert_eq!(place.unwrap().node, NodeId(2));
}

#[test]
fn an_ipv6_host_is_its_network() {
    let same = |a: &str, b: &str| origin(a.parse().unwrap()) == origin(b.parse().unwrap());
    assert!(same("fd00:0:0:1::1", "fd00:0:0:1:ffff::2"));
    assert!(!same("fd00:0:0:1::1", "fd00:0:0:2::1"));
    assert!(!same("192.0.2.1", "192.0.2.2"));
    assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
}
