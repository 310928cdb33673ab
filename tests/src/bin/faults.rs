//! `make faults`: breaks a cluster of real nodes in every way of the battery, and prints a line for each row. The exit code is 0
//! only if no row failed; a row that can't run here is skipped, with its reason.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use iris_tests::faults::rows::{ALL, SOAK, by_name};
use iris_tests::faults::run::{Ended, Wish, run};
use iris_tests::faults::{Length, Row};

/// Breaks everything, loses nothing.
#[derive(Debug, Parser)]
struct Arguments {
    /// Replays a run's faults; a fresh one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How often each row breaks something; each row's own number if not given.
    #[arg(long)]
    rounds: Option<u32>,
    /// How long, for the row SOAK; an hour if not given.
    #[arg(long)]
    minutes: Option<u32>,
    /// One row, or several with commas; all but SOAK if not given.
    #[arg(long, value_delimiter = ',')]
    row: Vec<String>,
    /// The short form, as the tests run it.
    #[arg(long)]
    short: bool,
    /// On loopback, even where network namespaces can be had.
    #[arg(long)]
    loopback: bool,
    /// Keeps the folders of good runs too.
    #[arg(long)]
    keep: bool,
    /// Says which rows there are.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        ALL.iter().chain([SOAK]).for_each(|row| println!("{:>2} {:<18} {}", row.number, row.name, row.about));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(battery(&arguments))),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn battery(arguments: &Arguments) -> anyhow::Result<bool> {
    let rows = chosen(&arguments.row)?;
    let wish = Wish {
        seed: arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
        rounds: arguments.rounds,
        minutes: arguments.minutes,
        length: if arguments.short { Length::Short } else { Length::Long },
        loopback: arguments.loopback,
        keep: arguments.keep,
    };
    let (mut good, mut skipped, mut failed) = (0, 0, Vec::new());
    for row in rows {
        // Ctrl-C takes the nodes and networks of the row that runs along, in order.
        let ended = tokio::select! {
            ended = run(row, &wish) => ended?,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped in the middle of {}", row.name),
        };
        match ended {
            Ended::Good(_) => good += 1,
            Ended::Skipped(_) => skipped += 1,
            Ended::Failed(..) => failed.push(row.name),
        }
    }
    println!("faults: {good} rows good, {skipped} skipped, {} failed {}", failed.len(), failed.join(" "));
    Ok(failed.is_empty())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| by_name(name).with_context(|| format!("no row is called {name}; --list says which are"));
    names.iter().map(find).collect()
}
