//! A connection that does what a test says and nothing by itself: TLS and frames, no retries, no order. For what the client
//! library would never do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use iris_client::{DeviceId, Durability, MessageKey, UserId};
use iris_protocol::frame::{ALPN, ClientFrame, Send, ServerFrame, VERSION};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::within;

/// Longest a node may take for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// The name every node's certificate has.
const SERVER_NAME: &str = "iris.internal";

const TLS13_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// How a test's TLS differs from a good client's.
#[derive(Debug, Clone)]
pub struct TlsStyle {
    /// Protocol names offered.
    pub alpn: Vec<Vec<u8>>,
    /// TLS versions offered.
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
}

impl Default for TlsStyle {
    fn default() -> Self {
        Self { alpn: vec![ALPN.to_vec()], versions: TLS13_ONLY }
    }
}

/// A TLS connection to a node's client port.
pub struct RawConnection {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
}

impl RawConnection {
    /// Dials and shakes hands as a good client does.
    ///
    /// # Errors
    /// The connection or the handshake failed.
    pub async fn dial(address: &str, ca_pem: &str) -> anyhow::Result<Self> {
        Self::dial_with(address, ca_pem, TlsStyle::default()).await
    }

    /// Dials and shakes hands.
    ///
    /// # Errors
    /// The connection or the handshake failed.
    pub async fn dial_with(address: &str, ca_pem: &str, style: TlsStyle) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(style.versions)?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = style.alpn;
        let shake = async {
            let tcp = TcpStream::connect(address).await.context("TCP")?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(SERVER_NAME)?;
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")
        };
        let stream = within("the handshake", ANSWER_DEADLINE, shake).await??;
        Ok(Self { stream, input: BytesMut::new() })
    }

    /// Dials and logs in.
    ///
    /// # Errors
    /// The connection failed or the login was refused.
    pub async fn login(address: &str, ca_pem: &str, token: &str, device: &str) -> anyhow::Result<Self> {
        let mut connection = Self::dial(address, ca_pem).await?;
        connection.hello(token, device).await?;
        match connection.read().await? {
            Some(ServerFrame::Welcome { .. }) => Ok(connection),
            other => bail!("no WELCOME but {other:?}"),
        }
    }

    /// The certificate the node shows, DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.stream.get_ref().1.peer_certificates();
        chain.and_then(|chain| chain.first()).map(|leaf| leaf.to_vec()).unwrap_or_default()
    }

    /// Says HELLO.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn hello(&mut self, token: &str, device: &str) -> anyhow::Result<()> {
        let hello = ClientFrame::Hello {
            version_min: VERSION,
            version_max: VERSION,
            token: token.to_owned(),
            device: Some(DeviceId::new(device)?),
            software: "raw".to_owned(),
        };
        self.write(&hello).await
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, seq: u64, key: MessageKey, recipient: &UserId, body: Bytes) -> anyhow::Result<()> {
        let send = Send { seq, key, durability: Durability::Quorum, kind: 0, recipient: recipient.clone(), body };
        self.write(&ClientFrame::Send(send)).await
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn write(&mut self, frame: &ClientFrame) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        self.write_bytes(&out).await
    }

    /// Writes bytes that need not be a frame.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn write_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next frame; none if the connection has ended.
    ///
    /// # Errors
    /// No frame in time, or bytes that are none.
    pub async fn read(&mut self) -> anyhow::Result<Option<ServerFrame>> {
        let next = async {
            loop {
                if let Some(frame) = ServerFrame::decode(&mut self.input)? {
                    return anyhow::Ok(Some(frame));
                }
                // A connection that was reset has ended, too.
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return Ok(None);
                }
            }
        };
        within("a frame", ANSWER_DEADLINE, next).await?
    }

    /// Ends the connection without a word.
    pub fn drop_now(self) {
        drop(self);
    }
}
