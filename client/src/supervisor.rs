//! The client's one task: dial, prove, log in, run the connection, and again, for as long as the client lives. Decides what is
//! final and what passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use iris_protocol::frame::{ALPN, ClientFrame, Code, ServerFrame, VERSION};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backoff;
use crate::config::ClientConfig;
use crate::connection::{Connection, End};
use crate::error::ClientError;
use crate::message::Welcome;
use crate::rotation::Rotation;
use crate::shared::{Login, Phase, Shared};
use crate::tls;

/// Errors that say "the same again will fail again", in a row and with nothing useful between them, until they are believed: one
/// node of a cluster being upgraded may be wrong.
const FINAL_ERRORS_MAX: u32 = 5;

/// A fresh token is refused so many times in a row until that is believed.
const FRESH_TOKENS_REFUSED_MAX: u32 = 3;

/// A server's wish to be left alone is kept up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How often messages are checked for their deadline, if they have one.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);

/// Why there is no connection.
enum Failure {
    /// Passes by itself, or at another node.
    Passing(String),
    /// The other side is not a node of our cluster, as far as TLS can tell.
    Untrusted(String),
    /// The server's word.
    Error { code: Code, retry_after: Duration, reason: String },
}

/// Ends the client when its task ends, however that comes about, even before its first step: nobody waits for a task that is
/// gone.
pub(crate) struct EndGuard(pub(crate) Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(ClientError::Closed);
    }
}

/// Runs until the client is closed or has failed for good.
pub(crate) async fn run(guard: EndGuard, config: ClientConfig, tls: Arc<rustls::ClientConfig>) {
    let shared = &*guard.0;
    let start_at = config.start_at.unwrap_or_else(|| rand::rng().random_range(0..config.addresses.len()));
    let rotation = Rotation::new(config.addresses.clone(), start_at);
    let mut supervisor = Supervisor {
        shared,
        config,
        connector: TlsConnector::from(tls),
        rotation,
        rng: SmallRng::from_os_rng(),
        attempts: 0,
        untrusted: 0,
        final_errors: 0,
        tokens_refused: 0,
        ever_logged_in: false,
    };
    let why = tokio::select! {
        why = supervisor.stay_connected() => why,
        never = expire_for_ever(shared) => match never {},
    };
    shared.end(why);
}

async fn expire_for_ever(shared: &Shared) -> std::convert::Infallible {
    if shared.deadlines.send.is_none() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(EXPIRE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.expire();
    }
}

struct Supervisor<'a> {
    shared: &'a Shared,
    config: ClientConfig,
    connector: TlsConnector,
    rotation: Rotation,
    rng: SmallRng,
    /// Attempts since something useful came of one.
    attempts: u32,
    /// Attempts in a row that met a stranger.
    untrusted: usize,
    final_errors: u32,
    tokens_refused: u32,
    ever_logged_in: bool,
}

impl Supervisor<'_> {
    async fn stay_connected(&mut self) -> ClientError {
        loop {
            let address = self.rotation.next();
            self.shared.lock().stats.address = Some(address.clone());
            let connected = tokio::select! {
                connected = self.connect(&address) => connected,
                () = self.shared.done() => return ClientError::Closed,
            };
            let wait = match connected {
                Ok((stream, welcome, input)) => {
                    let end = self.serve(stream, welcome, input).await;
                    self.after_connection(end, &address)
                }
                Err(failure) => {
                    self.shared.lock().stats.connects_failed += 1;
                    self.after_failure(failure, &address)
                }
            };
            let wait = match wait {
                Ok(wait) => wait,
                Err(why) => return why,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shared.done() => return ClientError::Closed,
            }
        }
    }

    /// From an address to a login.
    async fn connect(&self, address: &str) -> Result<(TlsStream<TcpStream>, Welcome, BytesMut), Failure> {
        let deadlines = &self.config.deadlines;
        let passing = |what: &str, error: &dyn std::fmt::Display| Failure::Passing(format!("{what}: {error}"));
        let late = |what: &'static str| move |_| Failure::Passing(format!("{what} took too long"));
        let tcp = timeout(deadlines.connect, TcpStream::connect(address))
            .await
            .map_err(late("connecting"))?
            .map_err(|error| passing("can't connect", &error))?;
        tcp.set_nodelay(true).map_err(|error| passing("can't connect", &error))?;
        let mut stream = timeout(deadlines.handshake, self.connector.connect(tls::server_name(), tcp))
            .await
            .map_err(late("the TLS handshake"))?
            .map_err(handshake_failed)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Failure::Untrusted("the server does not speak iris/2".into()));
        }
        let token = timeout(deadlines.login, self.config.token.get())
            .await
            .map_err(late("getting a token"))?
            .map_err(|error| passing("no token", &error))?;
        let (welcome, input) =
            timeout(deadlines.login, self.log_in(&mut stream, token, address)).await.map_err(late("the login"))??;
        Ok((stream, welcome, input))
    }

    async fn log_in(
        &self,
        stream: &mut TlsStream<TcpStream>,
        token: String,
        address: &str,
    ) -> Result<(Welcome, BytesMut), Failure> {
        let passing = |what: &str, error: &dyn std::fmt::Display| Failure::Passing(format!("{what}: {error}"));
        let mut buffer = BytesMut::new();
        ClientFrame::Hello {
            version_min: VERSION,
            version_max: VERSION,
            token,
            device: self.config.device.clone(),
            software: self.config.software.clone(),
        }
        .encode(&mut buffer);
        stream.write_all(&buffer).await.map_err(|error| passing("login", &error))?;
        stream.flush().await.map_err(|error| passing("login", &error))?;
        buffer.clear();
        loop {
            match ServerFrame::decode(&mut buffer).map_err(|error| passing("login", &error))? {
                None => {}
                Some(ServerFrame::Welcome { version, node, user, device, sends_in_flight_max, idle_ms_max })
                    if version == VERSION && sends_in_flight_max > 0 =>
                {
                    let idle_max = Duration::from_millis(idle_ms_max.into());
                    let address = address.to_owned();
                    return Ok((Welcome { node, user, device, sends_in_flight_max, idle_max, address }, buffer));
                }
                Some(ServerFrame::Error { code, retry_after_ms, reason }) => {
                    let retry_after = Duration::from_millis(retry_after_ms.into());
                    return Err(Failure::Error { code, retry_after, reason });
                }
                Some(_) => return Err(Failure::Passing("the node did not answer HELLO with a usable WELCOME".into())),
            }
            if stream.read_buf(&mut buffer).await.map_err(|error| passing("login", &error))? == 0 {
                return Err(Failure::Passing("the node closed the connection during login".into()));
            }
        }
    }

    /// One connection's life, and what is left of it.
    async fn serve(&mut self, stream: TlsStream<TcpStream>, welcome: Welcome, input: BytesMut) -> End {
        tracing::debug!(address = welcome.address, node = %welcome.node, "logged in");
        self.ever_logged_in = true;
        (self.untrusted, self.tokens_refused) = (0, 0);
        {
            let mut core = self.shared.lock();
            core.stats.logins += 1;
            core.stats.node = Some(welcome.node);
        }
        let mut connection = Connection::new(self.shared, &welcome, input);
        self.shared.login.send_replace(Login::In(welcome));
        let end = connection.run(stream).await;
        if connection.useful {
            (self.attempts, self.final_errors) = (0, 0);
        }
        self.shared.lock().connection_lost();
        end
    }

    fn after_connection(&mut self, end: End, address: &str) -> Result<Duration, ClientError> {
        match end {
            End::Done => Err(ClientError::Closed),
            End::Renew(why) => {
                self.note(address, why);
                // Not a failure of the node's; but a caller, or a bug, that asks again and again shall not spin.
                self.attempts += 1;
                Ok(if self.attempts > 1 { self.pause() } else { Duration::ZERO })
            }
            End::GoneAway { not_before, addresses } => {
                self.note(address, "the node went away");
                self.rotation.hint(addresses, address);
                let wait = not_before.saturating_duration_since(Instant::now());
                // A node that sends everyone away at once, always, is met by the usual backoff.
                self.attempts += 1;
                Ok(if self.attempts > 1 { wait.max(self.pause()) } else { wait })
            }
            End::Error { code, retry_after, reason } => {
                self.after_failure(Failure::Error { code, retry_after, reason }, address)
            }
            End::Broken(why) => self.after_failure(Failure::Passing(why), address),
        }
    }

    /// How long to wait, or why not to go on.
    fn after_failure(&mut self, failure: Failure, address: &str) -> Result<Duration, ClientError> {
        self.attempts = self.attempts.saturating_add(1);
        let pause = self.pause();
        match failure {
            Failure::Passing(why) => {
                self.untrusted = 0;
                self.note(address, &why);
                Ok(pause)
            }
            Failure::Untrusted(why) => {
                self.untrusted += 1;
                self.note(address, &why);
                // Later on a stranger at an address is a passing thing: a machine was replaced, a network is hostile.
                if !self.ever_logged_in && self.untrusted >= self.rotation.known_len() {
                    return Err(ClientError::Untrusted(format!("{address}: {why}")));
                }
                Ok(pause)
            }
            Failure::Error { code, retry_after, reason } => {
                self.untrusted = 0;
                self.note(address, &format!("{code}: {reason}"));
                if let Some(why) = self.is_final(code, reason) {
                    return Err(why);
                }
                // The wish is this node's; with others to go to there is no need to wait for it.
                let wish =
                    if self.rotation.known_len() == 1 { retry_after.min(RETRY_AFTER_MAX) } else { Duration::ZERO };
                Ok(pause.max(wish))
            }
        }
    }

    fn is_final(&mut self, code: Code, reason: String) -> Option<ClientError> {
        match code {
            Code::AuthFailed => {
                self.tokens_refused += 1;
                let may_change = self.config.token.can_change() && self.tokens_refused < FRESH_TOKENS_REFUSED_MAX;
                (!may_change).then_some(ClientError::AuthFailed)
            }
            Code::UnsupportedVersion => Some(ClientError::UnsupportedVersion(reason)),
            code if code.is_retryable() => None,
            code => {
                self.final_errors += 1;
                (self.final_errors >= FINAL_ERRORS_MAX).then_some(ClientError::Refused { code, reason })
            }
        }
    }

    fn pause(&mut self) -> Duration {
        backoff::pause(self.attempts, self.config.deadlines.backoff, &mut self.rng)
    }

    /// For the caller's eyes, and the log's.
    fn note(&self, address: &str, why: &str) {
        tracing::debug!(address, why, "not connected");
        let mut core = self.shared.lock();
        if !matches!(core.phase, Phase::Ended(_)) {
            core.stats.last_failure = Some(format!("{address}: {why}"));
        }
    }
}

/// What TLS itself refused is no passing trouble of the network: a wrong CA, a name that is not ours, a version below 1.3.
fn handshake_failed(error: std::io::Error) -> Failure {
    let by_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let why = format!("the TLS handshake failed: {error}");
    if by_tls { Failure::Untrusted(why) } else { Failure::Passing(why) }
}
