//! `iris up`: the node itself.

use std::io::Read as _;
use std::path::PathBuf;

use iris_appliance::admission::{JoinError, JoinToken};
use iris_appliance::config::{Config, Overrides};
use iris_appliance::node;
use iris_appliance::surroundings::Surroundings;

use super::config::refuse_problems;
use super::failure::{Failure, Outcome};
use super::logging;

/// What may be said of a node on the command line; it beats the environment and the file.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Data folder [default: as configured, else ~/.local/share/iris]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file; `iris config example` prints one
    #[arg(long, value_name = "FILE", env = "IRIS_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen for clients [default: 0.0.0.0:8443]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Where to listen for members [default: 0.0.0.0:8444]
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    p2p: Vec<String>,
    /// What people call this node [default: the host name]
    #[arg(long)]
    name: Option<String>,
}

impl Args {
    /// The configuration as it holds with these.
    pub fn load(self) -> Result<Config, Failure> {
        let p2p = Some(self.p2p).filter(|p2p| !p2p.is_empty());
        let flags = Overrides { file: self.config, data: self.data, listen: self.listen, p2p, name: self.name };
        Ok(Config::load(flags)?)
    }
}

/// `iris up`'s own: what it is, and how it comes into a cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    node: Args,
    /// Join a cluster with a token of `iris join-token`, if this data folder belongs to none yet; - reads it from stdin, @FILE
    /// from a file: other users of this machine can't see it there
    #[arg(long, value_name = "TOKEN", env = "IRIS_JOIN", hide_env_values = true)]
    join: Option<String>,
}

/// Characters of a file or of stdin in which a token is looked for.
const JOIN_TEXT_LEN_MAX: u64 = 16 * 1024;

/// The token of `--join`: itself, in a file, or on stdin.
fn join_token(text: &str) -> Result<JoinToken, Failure> {
    let read = |source: &mut dyn std::io::Read, name: &str| {
        let mut text = String::new();
        let read = source.take(JOIN_TEXT_LEN_MAX).read_to_string(&mut text);
        read.map(|_| text).map_err(|error| Failure::Failed(format!("can't read the join token from {name}: {error}")))
    };
    let text = match text.strip_prefix('@') {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let unreadable = |error| Failure::Failed(format!("can't read the join token from {path}: {error}"));
            read(&mut opened.map_err(unreadable)?, path)?
        }
        None if text == "-" => read(&mut std::io::stdin().lock(), "stdin")?,
        None => text.to_owned(),
    };
    text.parse().map_err(Failure::failed)
}

/// Runs the node until it is told to stop.
pub fn run(args: UpArgs) -> Outcome {
    let config = args.node.load()?;
    refuse_problems(&config)?;
    let join = args.join.as_deref().filter(|text| !text.is_empty()).map(join_token).transpose()?;
    logging::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    let ended = runtime.block_on(Box::pin(node::run(config, join, Surroundings::system())));
    // Without waiting for what still hangs on a broken disk: a node that has to end ends now (C9).
    runtime.shutdown_background();
    ended.map_err(|error| match error.downcast_ref::<JoinError>() {
        Some(JoinError::Unreachable(why)) => Failure::Unreachable(why.clone()),
        _ => error.into(),
    })
}
