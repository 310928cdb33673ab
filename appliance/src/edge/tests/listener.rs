//! The listener over real sockets and TLS; time is the system's here.

use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::server::TlsStream as ServerStream;
use tokio_util::sync::CancellationToken;

use super::super::{Edge, EdgeParts, SideDoor};
use super::*;
use crate::auth::pki;
use crate::cluster::meta::Pki;

/// A listening edge of a node that is not founded yet: nobody can log in.
struct Listening {
    pki: Pki,
    tls: pki::ServerTls,
    edge: Arc<Edge<FakeRouter>>,
    address: SocketAddr,
    roots: RootCertStore,
    stop: CancellationToken,
    accepting: JoinHandle<anyhow::Result<()>>,
}

impl Listening {
    async fn new(change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let mut options = options();
        change(&mut options);
        let made = pki::found("test", &[], Surroundings::system().clock.unix_ms()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.ca_cert_pem.as_bytes()).unwrap()).unwrap();
        let tls = pki::ServerTls::new(&made).unwrap();
        let (_, meta) = watch::channel(None);
        let edge = Edge::new(EdgeParts {
            router: FakeRouter::default(),
            meta,
            tls: tls.config(),
            options,
            counters: Arc::default(),
            surroundings: Surroundings::system(),
            node: NodeId(1),
            side_door: Some(Arc::new(Hinge)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (serving, stopped) = (edge.clone(), stop.clone());
        let accepting = tokio::spawn(async move { serving.run(&listener, &stopped).await });
        Self { pki: made, tls, edge, address, roots, stop, accepting }
    }

    async fn dial(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.expect("a handshake")
    }
}

/// A door that says one word.
struct Hinge;

impl SideDoor for Hinge {
    fn alpn(&self) -> &'static [u8] {
        crate::admission::JOIN_ALPN
    }

    fn serve(&self, mut stream: ServerStream<TcpStream>, _: SocketAddr) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            stream.write_all(b"knock").await.unwrap();
            stream.shutdown().await.unwrap();
        })
    }
}

async fn ends(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("the server closes");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_client_speaks_with_a_session_over_tls() {
    let listening = Listening::new(|_| {}).await;
    let mut stream = listening.dial(&[b"iris/2"]).await.unwrap();
    let mut out = BytesMut::new();
    hello("anything").encode(&mut out);
    stream.write_all(&out).await.unwrap();
    let mut input = BytesMut::new();
    let frame = loop {
        if let Some(frame) = ServerFrame::decode(&mut input).unwrap() {
            break frame;
        }
        assert_ne!(timeout(PATIENCE, stream.read_buf(&mut input)).await.expect("an answer").unwrap(), 0);
    };
    assert!(matches!(frame, ServerFrame::Error { code: Code::ShuttingDown, .. }), "not founded yet: {frame:?}");
    ends(&mut stream).await;
}

#[tokio::test]
async fn another_alpn_or_none_gets_no_session() {
    let listening = Listening::new(|_| {}).await;
    for alpn in [&[b"http/1.1" as &[u8]][..], &[]] {
        if let Ok(mut stream) = listening.dial(alpn).await {
            ends(&mut stream).await;
        }
        wait_for("the connection's task to end", || listening.edge.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn the_side_door_speaks_its_own_protocol_and_no_session_does() {
    let listening = Listening::new(|_| {}).await;
    let mut stream = listening.dial(&[b"iris-join/1"]).await.unwrap();
    let mut word = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut word)).await.expect("a word").unwrap();
    assert_eq!(&word, b"knock");
    ends(&mut stream).await;
}

/// The names and the certificate's bytes change, the key stays, and who is connected notices nothing (D10).
#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_sessions_live_on() {
    let mut listening = Listening::new(|_| {}).await;
    let mut old = listening.dial(&[b"iris/2"]).await.unwrap();
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let before = shown(&old);
    let now_ms = Surroundings::system().clock.unix_ms();
    listening.pki.leaf = pki::reissue("test", &listening.pki, &["nas".to_owned()], now_ms).unwrap();
    listening.tls.update(&listening.pki).unwrap();
    let new = listening.dial(&[b"iris/2"]).await.unwrap();
    assert_ne!(shown(&new), before, "the new one is shown");
    // The old connection still gets its answer, whatever it is.
    let mut out = BytesMut::new();
    hello("anything").encode(&mut out);
    old.write_all(&out).await.unwrap();
    assert_ne!(timeout(PATIENCE, old.read(&mut [0; 64])).await.expect("an answer").unwrap(), 0);
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_cut_off() {
    let listening = Listening::new(|options| options.handshake = Duration::from_millis(50)).await;
    ends(&mut TcpStream::connect(listening.address).await.unwrap()).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_room_comes_back() {
    let listening = Listening::new(|options| options.connections_max = 1).await;
    let first = listening.dial(&[b"iris/2"]).await.unwrap();
    ends(&mut TcpStream::connect(listening.address).await.unwrap()).await;
    drop(first);
    wait_for("the first to end", || listening.edge.is_empty().then_some(())).await;
    listening.dial(&[b"iris/2"]).await.unwrap();
}

#[tokio::test]
async fn stopping_and_draining_end_everything() {
    let listening = Listening::new(|_| {}).await;
    let mut waiting = listening.dial(&[b"iris/2"]).await.unwrap();
    listening.stop.cancel();
    timeout(PATIENCE, listening.accepting).await.expect("accepting stops").unwrap().unwrap();
    let client = tokio::spawn(async move { while waiting.read(&mut [0; 64]).await.is_ok_and(|len| len > 0) {} });
    timeout(PATIENCE, listening.edge.drained(DRAIN)).await.expect("sessions end");
    client.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_close_holds_nothing_up() {
    let listening = Listening::new(|_| {}).await;
    // Its goodbye waits for a client that neither reads nor closes.
    let _waiting = listening.dial(&[b"iris/2"]).await.unwrap();
    timeout(PATIENCE, listening.edge.drained(Duration::ZERO)).await.expect("sessions end");
}
