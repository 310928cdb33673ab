//! `sim`: schedules of the simulation, each in a process of its own. `make sim SEED=n SCHEDULES=n` runs it; `--one` is such a
//! process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use iris_tests::sim::fleet::Fleet;
use iris_tests::sim::{Plan, run};
use tracing_subscriber::EnvFilter;

/// Runs seeded schedules of faults against a whole cluster in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many, counting up.
    #[arg(long, default_value_t = 100)]
    schedules: u64,
    /// At a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Go on after a broken promise.
    #[arg(long)]
    all: bool,
    /// A week of virtual time each.
    #[arg(long)]
    week: bool,
    /// Writes down everything that happened; for one schedule.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// This process is one schedule.
    #[arg(long, hide = true)]
    one: bool,
    /// Where its disks lie.
    #[arg(long, hide = true, requires = "one")]
    folder: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.folder {
        Some(folder) if arguments.one => one(&arguments, folder),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(many(&arguments)),
    }
}

fn one(arguments: &Arguments, folder: &std::path::Path) -> anyhow::Result<ExitCode> {
    let logs = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(logs).with_writer(std::io::stderr).with_ansi(false).init();
    // Also one that a task's runtime would keep to itself.
    let (panics, before) = (Arc::new(AtomicUsize::new(0)), std::panic::take_hook());
    let counted = panics.clone();
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let plan = if arguments.week { Plan::week(arguments.seed) } else { Plan::of(arguments.seed) };
    let report = run(plan, folder, arguments.trace.as_deref())?;
    println!(
        "sim: seed {} acked {} fresh {} virtual_ms {} broken {} hash {:016x}",
        report.seed,
        report.acked,
        report.fresh_reads,
        report.virtual_ms,
        report.broken.len(),
        report.hash
    );
    for broken in &report.broken {
        println!("BROKEN {} at {} ms: {}", broken.invariant, broken.at_ms, broken.what);
    }
    let panics = panics.load(Ordering::Relaxed);
    if panics > 0 {
        println!("BROKEN no panic: {panics} tasks panicked");
    }
    Ok(if report.broken.is_empty() && panics == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn many(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut fleet = Fleet::new(std::env::current_exe()?).await?;
    fleet.weeks = arguments.week;
    if arguments.trace.is_some() {
        let outcome = fleet.one(arguments.seed, arguments.trace.as_deref()).await?;
        outcome.said.iter().for_each(|line| println!("{line}"));
        return Ok(if outcome.good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let totals = fleet
        .many(arguments.seed, arguments.schedules, arguments.jobs, |outcome| {
            if !outcome.good {
                outcome.said.iter().for_each(|line| println!("{line}"));
                let week = if arguments.week { " SIM_ARGS=--week" } else { "" };
                println!("replay with: make sim SEED={} SCHEDULES=1{week}", outcome.seed);
            } else if arguments.week {
                outcome.said.iter().for_each(|line| println!("{line}"));
            }
            outcome.good || arguments.all
        })
        .await?;
    println!("{totals}");
    Ok(if totals.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
