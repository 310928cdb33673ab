//! `iris up --config FILE` with a log that keeps in memory what was not fsynced: kill -9 of this process is a power cut for
//! the log. `IRIS_LOSSY_IGNORE_SYNC=1` makes every fsync say yes and do nothing, which is the negative control.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Parser, Subcommand};
use iris_appliance::config::{Config, Overrides};
use iris_appliance::surroundings::{LogDisk, Surroundings};
use iris_store::testing::LossyFs;
use iris_store::{LogError, LogOptions, RaftLog};

/// Set to 1, no fsync does anything.
const IGNORE_SYNC_VARIABLE: &str = "IRIS_LOSSY_IGNORE_SYNC";

/// A node whose log loses what was not fsynced when it is killed.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node.
    Up {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
}

struct LossyDisk(Arc<LossyFs>);

impl LogDisk for LossyDisk {
    fn open(&self, options: LogOptions) -> Result<RaftLog, LogError> {
        RaftLog::open_with(options, self.0.clone())
    }
}

fn main() -> anyhow::Result<()> {
    let Command::Up { config: file } = Arguments::parse().command;
    let config = Config::load(Overrides { file: Some(file), ..Overrides::default() })?;
    let problems = config.check();
    if !problems.is_empty() {
        bail!("the configuration can't be used: {}", problems.join("; "));
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(config.log.filter.clone()).init();
    let fs = Arc::new(LossyFs::default());
    fs.ignore_sync(std::env::var(IGNORE_SYNC_VARIABLE).is_ok_and(|value| value == "1"));
    let surroundings = Surroundings { log_disk: Arc::new(LossyDisk(fs)), ..Surroundings::system() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(iris_appliance::node::run(config, surroundings)))
}
