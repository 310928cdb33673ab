//! `iris token`: what people need to log in.

use std::io::Write as _;
use std::time::Duration;

use clap::Subcommand;
use iris_client::{DeviceId, UserId};
use iris_protocol::admin::UserTokenRequest;

use super::duration;
use super::failure::Outcome;
use super::target::LocalArgs;

/// For whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Print a token a user logs in with. It is a secret: write it to a file only the user can read.
    User(UserArgs),
}

#[derive(Debug, clap::Args)]
struct UserArgs {
    /// Who
    #[arg(value_name = "NAME")]
    user: UserId,
    /// How long it is good for, 24h at most
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    ttl: Duration,
    /// Only for this device of the user
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    #[command(flatten)]
    node: LocalArgs,
}

/// Prints one.
pub async fn run(args: Args) -> Outcome {
    let Kind::User(UserArgs { user, ttl, device, node }) = args.kind;
    let request = UserTokenRequest { user, device, ttl_s: ttl.as_secs() };
    let token = node.admin()?.user_token(&request).await?;
    Ok(writeln!(std::io::stdout(), "{}", token.token)?)
}
