//! `iris identity`: the key by which the other members know this node.

use std::io::Write as _;

use anyhow::Context as _;
use iris_appliance::config::identity_path;
use iris_p2p::Identity;

use super::failure::Outcome;
use super::target::LocalArgs;

/// Whose.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    node: LocalArgs,
}

/// Prints it.
pub fn run(args: Args) -> Outcome {
    let data = args.node.data()?;
    // The key is private, and so is the folder from the start.
    iris_store::create_private_dir(&data)
        .with_context(|| format!("can't create the data folder {}", data.display()))?;
    let identity = Identity::load_or_create(&identity_path(&data)).map_err(anyhow::Error::from)?;
    Ok(writeln!(std::io::stdout(), "{}", identity.peer_id())?)
}
