//! A node played by the test: real TLS, frames by the protocol crate's codec, and a script instead of a cluster. Every wait has
//! a deadline, so that a test that hangs says where.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use iris_client::{
    Client, ClientConfig, Delivery, EntryId, MessageKey, NodeId, Outgoing, Pending, Status, Trust, UserId,
};
use iris_protocol::frame::{ClientFrame, Code, Send, ServerFrame};
use iris_protocol::limits::FRAME_LEN_MAX;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::SupportedProtocolVersion;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Longer than anything here takes on a busy machine, and shorter than the pause between PINGs, which would wake a client that
/// forgot to wake itself.
const DEADLINE: Duration = Duration::from_secs(15);

/// Waits, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// A cluster's certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub fn pem(&self) -> Trust {
        Trust::CaPem(self.certificate.pem())
    }

    pub fn fingerprint(&self) -> Trust {
        Trust::CaSha256(Sha256::digest(self.certificate.der().as_ref()).into())
    }

    /// What a node presents: a leaf for `name` and this CA's certificate.
    pub fn tls(&self, name: &str) -> rustls::ServerConfig {
        self.tls_with(name, &rustls::version::TLS13, self)
    }

    /// The same with another version, or with `shown` in the chain instead of the CA that signed the leaf.
    pub fn tls_with(
        &self,
        name: &str,
        version: &'static SupportedProtocolVersion,
        shown: &Self,
    ) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.der().clone(), shown.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"iris/2".to_vec()];
        config
    }
}

/// One node: a port that accepts.
pub struct Node {
    pub address: String,
    pub id: u64,
    pub window: u32,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Node {
    pub async fn start(ca: &Ca, id: u64) -> Self {
        Self::with_tls(ca.tls("iris.internal"), id).await
    }

    pub async fn with_tls(config: rustls::ServerConfig, id: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { address, id, window: 1024, listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// The next connection, as far as its handshake goes.
    pub async fn accept(&self) -> std::io::Result<Conn> {
        let (tcp, _) = within("a connection", self.listener.accept()).await?;
        let stream = within("a handshake", self.acceptor.accept(tcp)).await?;
        Ok(Conn { stream, input: BytesMut::new() })
    }

    /// The next connection, logged in.
    pub async fn login(&self) -> Conn {
        let mut conn = self.accept().await.unwrap();
        let ClientFrame::Hello { token, .. } = conn.frame().await else { panic!("HELLO comes first") };
        assert_eq!(token, TOKEN);
        conn.say(&[self.welcome()]).await;
        conn
    }

    /// The next connection, logged in; none if it ended before.
    pub async fn try_login(&self) -> Option<Conn> {
        let (tcp, _) = self.listener.accept().await.ok()?;
        let mut conn = Conn { stream: self.acceptor.accept(tcp).await.ok()?, input: BytesMut::new() };
        conn.try_frame().await?;
        conn.say(&[self.welcome()]).await;
        Some(conn)
    }

    pub fn welcome(&self) -> ServerFrame {
        ServerFrame::Welcome {
            version: 2,
            node: NodeId(self.id),
            user: user("me"),
            device: "default".parse().unwrap(),
            sends_in_flight_max: self.window,
            idle_ms_max: 300_000,
        }
    }
}

/// One connection, seen from the node.
pub struct Conn {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
}

impl Conn {
    /// The next frame; PINGs are answered on the way.
    pub async fn frame(&mut self) -> ClientFrame {
        within("a frame", self.try_frame()).await.expect("the connection should be open")
    }

    /// The next frame; none at the end.
    pub async fn try_frame(&mut self) -> Option<ClientFrame> {
        loop {
            match ClientFrame::decode(&mut self.input, FRAME_LEN_MAX).unwrap() {
                Some(ClientFrame::Ping { nonce }) => self.say(&[ServerFrame::Pong { nonce }]).await,
                Some(frame) => return Some(frame),
                None => {
                    if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// The next frame that is here already; a PING waits for [`Self::try_frame`].
    pub fn buffered(&mut self) -> Option<ClientFrame> {
        let is_ping = self.input.get(4) == Some(&0x06);
        if is_ping { None } else { ClientFrame::decode(&mut self.input, FRAME_LEN_MAX).unwrap() }
    }

    pub async fn next_send(&mut self) -> Send {
        match self.frame().await {
            ClientFrame::Send(send) => send,
            other => panic!("a SEND was due, not {other:?}"),
        }
    }

    /// The next `count` SENDs' bodies, and the numbers to answer them by.
    pub async fn sends(&mut self, count: usize) -> (Vec<String>, Vec<u64>) {
        let (mut bodies, mut seqs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let send = self.next_send().await;
            bodies.push(String::from_utf8(send.body.to_vec()).unwrap());
            seqs.push(send.seq);
        }
        (bodies, seqs)
    }

    pub async fn say(&mut self, frames: &[ServerFrame]) {
        let mut output = BytesMut::new();
        for frame in frames {
            frame.encode(&mut output);
        }
        self.say_bytes(&output).await;
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        // The client may be gone; then the script's next step finds out.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Waits until the client hangs up; nothing but goodbyes may come before.
    pub async fn hung_up(&mut self) {
        while let Some(frame) = within("the client to hang up", self.try_frame()).await {
            assert_eq!(frame, ClientFrame::Bye);
        }
    }
}

pub const TOKEN: &str = "a.b.c";

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

/// A client's configuration that begins at the first of these nodes.
pub fn config(trust: Trust, nodes: &[&Node]) -> ClientConfig {
    let mut config = ClientConfig::new(nodes.iter().map(|node| node.address.clone()).collect(), trust, TOKEN);
    config.start_at = Some(0);
    config
}

pub fn start(ca: &Ca, nodes: &[&Node]) -> Client {
    Client::start(config(ca.pem(), nodes)).unwrap()
}

/// Sends bodies "1", "2", .. to one recipient.
pub async fn send_all(client: &Client, to: &str, bodies: &[&str]) -> Vec<Pending> {
    let mut pending = Vec::new();
    for body in bodies {
        pending.push(within("room", client.send(Outgoing::new(user(to), body.to_string()))).await.unwrap());
    }
    pending
}

pub fn accepted(seq: u64, id: u64) -> ServerFrame {
    ServerFrame::Accepted { seq, status: Status::Committed, duplicate: false, id: EntryId(id) }
}

pub fn refused(seq: u64, code: Code, retry_after_ms: u32) -> ServerFrame {
    ServerFrame::Refused { seq, code, retry_after_ms, reason: "because".into() }
}

pub fn entry(id: u64) -> Delivery {
    Delivery {
        id: EntryId(id),
        kind: 0,
        key: MessageKey([id as u8; 16]),
        sender: user("bob"),
        body: format!("entry {id}").into(),
    }
}
