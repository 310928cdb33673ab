//! Which node a command speaks to: the one whose data folder this is, through its socket, or any at an address, with a token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use iris_appliance::config::{Config, Overrides};
use iris_client::{Admin, Client, ClientConfig, ClientError, DeviceId, Token, Trust, UserId};
use iris_protocol::admin::UserTokenRequest;
use iris_protocol::limits::TOKEN_LEN_MAX;

use super::failure::Failure;

/// How long a login may take before the command gives up.
const LOGIN_WITHIN: Duration = Duration::from_secs(15);

/// How long one message may take, elections and restarts included.
const SEND_WITHIN: Duration = Duration::from_secs(60);

/// How long goodbyes may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Tokens that commands make for themselves. A command that runs longer asks for another one.
const OWN_TOKEN_TTL_S: u64 = 3_600;

/// Bytes of a CA's certificate, PEM: some 700 in fact.
const CA_LEN_MAX: u64 = 64 * 1024;

/// The node on this machine.
#[derive(Debug, Clone, Args)]
pub struct LocalArgs {
    /// The node's data folder [default: as configured, else ~/.local/share/iris]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The node's configuration file
    #[arg(long, value_name = "FILE", env = "IRIS_CONFIG")]
    pub config: Option<PathBuf>,
}

impl LocalArgs {
    /// The data folder, from the flag, else from wherever the node has it.
    pub fn data(&self) -> Result<PathBuf, Failure> {
        match &self.data {
            Some(data) => Ok(data.clone()),
            None => Ok(Config::load(Overrides { file: self.config.clone(), ..Overrides::default() })?.node.data),
        }
    }

    /// Its admin API.
    pub fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::at(&self.data()?))
    }
}

/// The node on this machine, or any other.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    local: LocalArgs,
    /// Speak to the nodes at these addresses instead
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "token", conflicts_with = "data")]
    connect: Vec<String>,
    /// File with the token to log in with
    #[arg(long, value_name = "FILE", requires = "connect")]
    token: Option<PathBuf>,
    /// File with the cluster's CA certificate [default: the one the token names]
    #[arg(long, value_name = "FILE", requires = "connect")]
    ca: Option<PathBuf>,
    /// The device that is speaking: each has its own place in the inbox
    #[arg(long, value_name = "NAME", default_value = "iris-cli")]
    device: DeviceId,
}

impl TargetArgs {
    /// A client that is logged in. `user` is who it is when the node on this machine makes the token; a token of one's own
    /// says so itself.
    pub async fn client(&self, user: Option<&UserId>) -> Result<Client, Failure> {
        let mut config = match &self.token {
            Some(token) => self.remote(token, user)?,
            None => self.through_socket(user).await?,
        };
        config.device = Some(self.device.clone());
        config.deadlines.send = Some(SEND_WITHIN);
        config.software = concat!("iris/", env!("CARGO_PKG_VERSION")).to_owned();
        let client = Client::start(config)?;
        match tokio::time::timeout(LOGIN_WITHIN, client.connected()).await {
            Ok(Ok(_)) => Ok(client),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::Unreachable(no_login(&client))),
        }
    }

    fn remote(&self, token: &PathBuf, user: Option<&UserId>) -> Result<ClientConfig, Failure> {
        if user.is_some() {
            let why = "--as goes with the node on this machine; with --connect the token says who is speaking";
            return Err(Failure::Usage(why.to_owned()));
        }
        let token = read_text(token, TOKEN_LEN_MAX as u64 + 2)?.trim().to_owned();
        let trust = match &self.ca {
            Some(ca) => Trust::CaPem(read_text(ca, CA_LEN_MAX)?),
            None => Trust::from_token(&token).ok_or_else(|| {
                Failure::Usage(
                    "the token does not name the cluster's CA; give its certificate with --ca FILE".to_owned(),
                )
            })?,
        };
        Ok(ClientConfig::new(self.connect.clone(), trust, token))
    }

    async fn through_socket(&self, user: Option<&UserId>) -> Result<ClientConfig, Failure> {
        let user = match user {
            Some(user) => user.clone(),
            None => login_name()?,
        };
        let admin = self.local.admin()?;
        let info = admin.connect_info().await?;
        let request = Arc::new(UserTokenRequest { user, device: None, ttl_s: OWN_TOKEN_TTL_S });
        // Asked once now, so that a refusal is told as what it is and not as a login that never comes.
        admin.user_token(&request).await?;
        let token = Token::provider(move || {
            let (admin, request) = (admin.clone(), request.clone());
            async move { admin.user_token(&request).await.map(|token| token.token).map_err(|error| error.to_string()) }
        });
        let mut config = ClientConfig::new(info.addresses, Trust::CaPem(info.ca_pem), token);
        // The node whose socket was asked comes first in the list.
        config.start_at = Some(0);
        Ok(config)
    }
}

/// Who sends if nobody is named: whoever is logged in at this machine.
fn login_name() -> Result<UserId, Failure> {
    let name = std::env::var("USER").ok().and_then(|name| UserId::new(name).ok());
    name.ok_or_else(|| Failure::Usage("say with --as who is speaking".to_owned()))
}

fn no_login(client: &Client) -> String {
    let why = client.stats().last_failure.unwrap_or_else(|| "no answer".to_owned());
    format!(
        "no node let this command in within {} s: {why}; is the address right, and a node running there?",
        LOGIN_WITHIN.as_secs()
    )
}

fn read_text(path: &PathBuf, len_max: u64) -> Result<String, Failure> {
    let told = |why: String| Failure::Failed(format!("can't use {}: {why}", path.display()));
    let len = std::fs::metadata(path).map_err(|error| told(error.to_string()))?.len();
    if len > len_max {
        return Err(told(format!("it has {len} bytes, at most {len_max} make sense")));
    }
    std::fs::read_to_string(path).map_err(|error| told(error.to_string()))
}

/// Says goodbye; what was not done by then was reported before.
pub async fn close(client: Client) {
    client.close(CLOSE_WITHIN).await;
}

/// Waits until every ack is durable.
pub async fn flush_acks(client: &Client) -> Result<(), Failure> {
    client.flush_acks(LOGIN_WITHIN).await.map_err(|error| match error {
        ClientError::Deadline => {
            Failure::Failed("the last acks may be lost; those entries will be shown again".to_owned())
        }
        other => other.into(),
    })
}
