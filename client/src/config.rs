//! What a client is told: where the nodes are, whom to trust, who it is, how long to wait. Trust is in the cluster's
//! certificate authority and nothing else; a token is a secret and never shows in a log.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iris_protocol::DeviceId;
use iris_protocol::limits::{DEVICE_LEN_MAX, SENDS_IN_FLIGHT_MAX, TOKEN_LEN_MAX};

use crate::error::ClientError;

/// Addresses a client may be given: as many as a GOAWAY can name, so that a rotation stays a matter of seconds.
const ADDRESSES_MAX: usize = iris_protocol::limits::ADDRESSES_MAX;

/// Everything [`crate::Client::start`] needs.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `host:port` of nodes, tried in rotation.
    pub addresses: Vec<String>,
    /// Index of the address to try first; a random one if `None`, so that a crowd of clients spreads.
    pub start_at: Option<usize>,
    /// Whose nodes to talk to.
    pub trust: Trust,
    /// Who the client is.
    pub token: Token,
    /// Device name, for a token that names none.
    pub device: Option<DeviceId>,
    /// Name and version of the calling software, for the node's log; at most 64 bytes.
    pub software: String,
    /// Messages the client holds unanswered at most: [`crate::Client::send`] waits when they are that many. No more than the node
    /// allows are ever on the wire, whatever this says.
    pub sends_max: usize,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

impl ClientConfig {
    /// The usual client: everything but these three has a default.
    pub fn new(addresses: Vec<String>, trust: Trust, token: impl Into<Token>) -> Self {
        Self {
            addresses,
            start_at: None,
            trust,
            token: token.into(),
            device: None,
            software: concat!("iris-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            sends_max: SENDS_IN_FLIGHT_MAX,
            deadlines: Deadlines::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |why: String| Err(ClientError::Config(why));
        if self.addresses.is_empty() {
            return refuse("no address of a node was given".into());
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return refuse(format!("{} addresses were given, {ADDRESSES_MAX} are enough", self.addresses.len()));
        }
        if let Some(bad) = self.addresses.iter().find(|address| !is_address(address)) {
            return refuse(format!("'{bad}' is not host:port"));
        }
        if self.start_at.is_some_and(|index| index >= self.addresses.len()) {
            return refuse("start_at names no address".into());
        }
        if self.software.len() > DEVICE_LEN_MAX {
            return refuse(format!("the software's name may have {DEVICE_LEN_MAX} bytes at most"));
        }
        if self.sends_max == 0 || self.sends_max > tokio::sync::Semaphore::MAX_PERMITS {
            return refuse("sends_max must be at least 1".into());
        }
        self.token.check().map_err(ClientError::Config)
    }
}

/// Whether text has the shape `host:port`; whether the host exists is found out by dialling.
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Name lookup and TCP connect.
    pub connect: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// HELLO to WELCOME, and the token source before it.
    pub login: Duration,
    /// Silence after a PING until the node counts as dead.
    pub pong: Duration,
    /// Longest time between signs of life on a quiet connection; a third of the node's own limit if that is shorter.
    pub ping_every: Duration,
    /// Silence until a PING while answers are owed: a node that vanished is noticed within this and `pong`.
    pub ping_while_waiting: Duration,
    /// A SEND without an answer for this long, on a connection that is otherwise alive, means the node is sick.
    pub answer: Duration,
    /// From [`crate::Client::send`] taking a message to giving it up as [`crate::SendError::Deadline`]; never if `None`.
    pub send: Option<Duration>,
    /// First and longest pause between attempts to connect, and between attempts at a refused message.
    pub backoff: (Duration, Duration),
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            login: Duration::from_secs(10),
            pong: Duration::from_secs(10),
            ping_every: Duration::from_secs(20),
            ping_while_waiting: Duration::from_secs(1),
            answer: Duration::from_secs(30),
            send: None,
            backoff: (Duration::from_millis(20), Duration::from_secs(2)),
        }
    }
}

/// The certificate authority nodes must descend from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The CA's certificate, as a node writes it to `ca.pem`.
    CaPem(String),
    /// SHA-256 of the CA's certificate (DER): the one with this hash in the chain a node presents becomes the only root.
    CaSha256([u8; 32]),
}

impl Trust {
    /// Reads the `ca` claim of a token given by a trusted hand. The token is not verified: it is the caller who trusts it.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Claims {
            ca: String,
        }
        if token.len() > TOKEN_LEN_MAX {
            return None;
        }
        let payload = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        Self::from_sha256_hex(&claims.ca)
    }

    /// Reads a fingerprint as `iris status` shows it: 64 hexadecimal digits.
    #[must_use]
    pub fn from_sha256_hex(hex: &str) -> Option<Self> {
        let digits: Vec<u8> =
            hex.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
        if digits.len() != 64 {
            return None;
        }
        let mut sha256 = [0u8; 32];
        for (byte, pair) in sha256.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Some(Self::CaSha256(sha256))
    }
}

/// A token being fetched; the error is for people.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// What the client logs in with: a fixed token, or a source asked before every login, for clients that outlive a token. A
/// token is never shown.
#[derive(Clone)]
pub struct Token(Source);

#[derive(Clone)]
enum Source {
    Fixed(Arc<str>),
    Provider(Arc<dyn Fn() -> TokenFuture + Send + Sync>),
}

impl Token {
    /// One token for as long as it lasts.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Source::Fixed(token.into().into()))
    }

    /// A source of tokens. It is asked before every login, within [`Deadlines::login`].
    pub fn provider<F, Fut>(source: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, String>> + Send + 'static,
    {
        Self(Source::Provider(Arc::new(move || Box::pin(source()))))
    }

    /// Whether asking again may give another token.
    pub(crate) fn can_change(&self) -> bool {
        matches!(self.0, Source::Provider(_))
    }

    /// What is wrong with a fixed token, as far as that shows from here.
    fn check(&self) -> Result<(), String> {
        match &self.0 {
            Source::Fixed(token) => check_token(token).map(drop),
            Source::Provider(_) => Ok(()),
        }
    }

    pub(crate) async fn get(&self) -> Result<String, String> {
        match &self.0 {
            Source::Fixed(token) => check_token(token),
            Source::Provider(source) => check_token(&source().await?),
        }
    }
}

fn check_token(token: &str) -> Result<String, String> {
    let token = token.trim();
    match token.len() {
        0 => Err("the token is empty".into()),
        len if len > TOKEN_LEN_MAX => Err(format!("the token has {len} bytes, at most {TOKEN_LEN_MAX} are allowed")),
        _ => Ok(token.to_owned()),
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self::new(token)
    }
}

impl From<&str> for Token {
    fn from(token: &str) -> Self {
        Self::new(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_read_from_a_tokens_claim() {
        let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"bob","ca":"{}"}}"#, "0f".repeat(32)));
        assert_eq!(Trust::from_token(&format!("e30.{payload}.c2ln")), Some(Trust::CaSha256([0x0f; 32])));
        assert_eq!(Trust::from_token("e30.e30.c2ln"), None, "no claim");
        assert_eq!(Trust::from_token("nonsense"), None);
        assert_eq!(Trust::from_sha256_hex("0f"), None, "too short");
        assert_eq!(Trust::from_sha256_hex(&"é".repeat(32)), None, "no digits");
    }

    #[test]
    fn a_token_is_never_shown() {
        let config = ClientConfig::new(vec!["a:1".into()], Trust::CaSha256([0; 32]), "secret");
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        let good = ClientConfig::new(vec!["a:1".into(), "[::1]:8443".into()], Trust::CaSha256([0; 32]), "t");
        assert_eq!(good.check(), Ok(()));
        let refused = |change: fn(&mut ClientConfig)| {
            let mut config = good.clone();
            change(&mut config);
            assert!(matches!(config.check(), Err(ClientError::Config(_))), "{config:?}");
        };
        refused(|config| config.addresses.clear());
        refused(|config| config.addresses.push("no-port".into()));
        refused(|config| config.addresses = vec!["a:1".into(); 33]);
        refused(|config| config.start_at = Some(2));
        refused(|config| config.software = "x".repeat(65));
        refused(|config| config.sends_max = 0);
        refused(|config| config.token = "\n".into());
    }
}
