//! `iris up`: the node itself.

use std::path::PathBuf;

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

/// Runs the node until it is told to stop.
pub fn run(args: Args) -> Outcome {
    let config = args.load()?;
    refuse_problems(&config)?;
    logging::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    let ended = runtime.block_on(Box::pin(node::run(config, Surroundings::system())));
    // Without waiting for what still hangs on a broken disk: a node that has to end ends now (C9).
    runtime.shutdown_background();
    Ok(ended?)
}
