//! The command line (docs: `iris help`): what can be typed, and which file does it. Results go to stdout, everything else to
//! stderr; exit 0 done, 1 failed, 2 usage, 3 unreachable.

mod config;
mod duration;
mod failure;
mod identity;
mod join_token;
mod logging;
mod output;
mod send;
mod status;
mod status_text;
mod store;
mod tail;
mod target;
mod token;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Failure, Outcome};

/// A private message relay: messages are kept on every node of a cluster until their recipients have them.
#[derive(Debug, Parser)]
#[command(name = "iris", version, arg_required_else_help = true, subcommand_required = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node and run it until Ctrl-C; on a bare machine this is a cluster of one.
    Up(up::UpArgs),
    /// Print a token that lets one more machine into the cluster: `iris up --join` there.
    JoinToken(join_token::Args),
    /// Make tokens to log in with.
    Token(token::Args),
    /// Send messages.
    Send(send::Args),
    /// Read a user's inbox.
    Tail(tail::Args),
    /// Say how things stand.
    Status(status::Args),
    /// Check, show or explain the configuration.
    Config(config::Args),
    /// Check what a stopped node has on its disk, or give up what is damaged.
    Store(store::Args),
    /// Print this node's key, for the `members` of the others; makes the key if there is none yet.
    Identity(identity::Args),
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    // Wrong usage ends here with exit 2 and clap's own words.
    let Cli { command } = Cli::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Config(args) => config::run(args),
        Command::Identity(args) => identity::run(args),
        Command::Store(args) => store::run(args),
        Command::Up(args) => up::run(args),
        Command::JoinToken(args) => block_on(join_token::run(args)),
        Command::Token(args) => block_on(token::run(args)),
        Command::Send(args) => block_on(send::run(args)),
        Command::Tail(args) => block_on(tail::run(args)),
        Command::Status(args) => block_on(status::run(args)),
    }
}

/// One worker beside this thread: when a reader of stdout is slow, this thread waits and the connection stays alive.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests;
