//! `iris status`: how things stand, once or every second.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use iris_client::Admin;

use super::failure::{Failure, Outcome, complain};
use super::status_text::status_text;
use super::target::LocalArgs;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Cursor home, and clear from there.
const REDRAW: &str = "\x1b[H\x1b[2J";

/// In which form, how often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The whole report as JSON
    #[arg(long)]
    json: bool,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    node: LocalArgs,
}

/// Says it.
pub async fn run(args: Args) -> Outcome {
    let admin = args.node.admin()?;
    if !args.watch {
        return show(&report(&admin, args.json).await?);
    }
    let redraw = if io::stdout().is_terminal() && !args.json { REDRAW } else { "" };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match report(&admin, args.json).await {
            Ok(text) => show(&format!("{redraw}{text}"))?,
            // Watching a node restart is what watching is for.
            Err(Failure::Unreachable(why)) => {
                show(redraw)?;
                complain(&why);
            }
            Err(failure) => return Err(failure),
        }
    }
}

async fn report(admin: &Admin, json: bool) -> Result<String, Failure> {
    let report = admin.status().await?;
    if json {
        let text = serde_json::to_string(&report).map_err(Failure::failed)?;
        return Ok(text + "\n");
    }
    Ok(status_text(&report))
}

fn show(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
