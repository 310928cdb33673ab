//! The `iris` command: starts a node, and talks to one. Everything it does is in [`cli`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
