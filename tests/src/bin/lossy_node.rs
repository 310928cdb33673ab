//! `iris up --config FILE` with a log that keeps in memory what was not fsynced: kill -9 of this process is a power cut for
//! the log. From SIGUSR1 on every fsync says yes and does nothing, which is the negative control: a cluster that was founded
//! properly and only then began to lie.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Parser, Subcommand};
use iris_appliance::config::{Config, Overrides};
use iris_appliance::surroundings::{LogDisk, Surroundings};
use iris_store::testing::LossyFs;
use iris_store::{LogError, LogOptions, RaftLog};
use iris_tests::cluster::LYING;
use tokio::signal::unix::{SignalKind, signal};

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
    let surroundings = Surroundings { log_disk: Arc::new(LossyDisk(fs.clone())), ..Surroundings::system() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(Box::pin(async move {
        let mut lie = signal(SignalKind::user_defined1())?;
        tokio::spawn(async move {
            lie.recv().await;
            fs.ignore_sync(true);
            tracing::warn!("{LYING}");
        });
        iris_appliance::node::run(config, None, surroundings).await
    }))
}
