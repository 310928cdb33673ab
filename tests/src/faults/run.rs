//! Runs rows and judges them: a folder for each, a deadline, its line, and what replays it. A row that fails or panics keeps its
//! folder, with every node's log.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use futures::FutureExt as _;

use super::{Length, Outcome, Row, RowRun};
use crate::binaries::workspace_root;
use crate::wait::within;

/// Longest a row may take in its short form, and one round of the long one (with its share of the rest).
const SHORT_DEADLINE: Duration = Duration::from_secs(540);
const ROUND_DEADLINE: Duration = Duration::from_secs(300);

/// What a long form may take besides: the soak's hour and some.
const LONG_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);

/// What is asked of a row.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Replays the faults.
    pub seed: u64,
    /// How often; the row's own number if none.
    pub rounds: Option<u32>,
    /// How long, for a row that is told in minutes; its own length if none.
    pub minutes: Option<u32>,
    /// Which form.
    pub length: Length,
    /// On loopback even where namespaces can be had.
    pub loopback: bool,
    /// Keeps the folder of a good run too.
    pub keep: bool,
}

/// How a run of a row ended.
#[derive(Debug)]
pub enum Ended {
    /// Every promise was kept.
    Good(Outcome),
    /// It could not run here.
    Skipped(String),
    /// It was not as it should be; why, and the folder it left.
    Failed(String, PathBuf),
}

/// Runs one row, prints its line, and says how it ended.
///
/// # Errors
/// Its folder can't be made.
pub async fn run(row: &Row, wish: &Wish) -> anyhow::Result<Ended> {
    let rounds = wish.rounds.unwrap_or(match wish.length {
        Length::Short => row.rounds.short,
        Length::Long => row.rounds.long,
    });
    let dir = make_dir(row.name, wish.seed)?;
    let Wish { seed, minutes, length, loopback, .. } = *wish;
    let run = RowRun { seed, rounds, minutes, length, dir: &dir, loopback };
    println!("faults: {} begins, {}; seed {}, in {}", row.name, row.about, wish.seed, dir.display());
    let began = Instant::now();
    let deadline = match length {
        Length::Short => SHORT_DEADLINE,
        Length::Long => LONG_DEADLINE + ROUND_DEADLINE * rounds,
    };
    let deadline = deadline + 2 * Duration::from_secs(60) * minutes.unwrap_or(0);
    // A panic is a failure like any other: it has to be replayed too.
    let played = AssertUnwindSafe((row.run)(&run)).catch_unwind();
    let outcome = match within("the row to end", deadline, played).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("it panicked: {}", words(&*panic))),
        Err(late) => Err(late),
    };
    let ended = judge(row, outcome, &dir);
    show(row, wish, rounds, &ended, began.elapsed());
    if !matches!(ended, Ended::Failed(..)) && !wish.keep {
        keep_charts(&dir, &dir)?;
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(ended)
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

fn judge(row: &Row, outcome: anyhow::Result<Outcome>, dir: &Path) -> Ended {
    let outcome = match outcome {
        Ok(Outcome::Skipped(reason)) => return Ended::Skipped(reason),
        Ok(outcome) => outcome,
        Err(error) => return Ended::Failed(format!("{error:#}"), dir.to_owned()),
    };
    if let Outcome::Ran(tally) | Outcome::Control(tally) = &outcome {
        tally.problems.iter().for_each(|problem| println!("  problem: {problem}"));
    }
    match outcome.fault() {
        None => Ended::Good(outcome),
        Some(fault) => {
            println!("faults: {} {outcome}", row.name);
            Ended::Failed(fault.to_owned(), dir.to_owned())
        }
    }
}

fn show(row: &Row, wish: &Wish, rounds: u32, ended: &Ended, took: Duration) {
    let name = row.name;
    match ended {
        Ended::Good(outcome) => println!("faults: {name} {outcome} seed {} took_s {}", wish.seed, took.as_secs()),
        Ended::Skipped(reason) => println!("faults: {name} skipped {reason}"),
        Ended::Failed(why, dir) => {
            println!("faults: {name} FAILED: {why}");
            println!("  its logs are kept in {}", dir.display());
            let minutes = wish.minutes.map_or(String::new(), |minutes| format!(" MINUTES={minutes}"));
            let short = if wish.length == Length::Short { " FAULTS_ARGS=--short" } else { "" };
            println!("  replay with: make faults SEED={} ROUNDS={rounds} ROW={name}{minutes}{short}", wish.seed);
        }
    }
    // Whoever reads along in a pipe sees it now.
    let _ = std::io::stdout().flush();
}

/// Moves the charts of a good run beside its folder, which goes: `target/faults/ROW-SEED-NAME.csv`.
fn keep_charts(dir: &Path, run_dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && dir == run_dir {
            keep_charts(&path, run_dir)?;
        } else if path.extension().is_some_and(|ending| ending == "csv") {
            let name = path.strip_prefix(run_dir)?.display().to_string().replace('/', "-");
            let kept = format!("{}-{name}", run_dir.display());
            std::fs::copy(&path, &kept).with_context(|| format!("keeping {kept}"))?;
            println!("  its chart is kept in {kept}");
        }
    }
    Ok(())
}

/// A folder nobody has: `target/faults/ROW-SEED`, or with a number behind it.
fn make_dir(name: &str, seed: u64) -> anyhow::Result<PathBuf> {
    let parent = workspace_root().join("target/faults");
    std::fs::create_dir_all(&parent).with_context(|| format!("making {}", parent.display()))?;
    // Short: an admin socket's path has to fit in 100 bytes or so.
    let parent = parent.canonicalize()?;
    for number in 0..u32::MAX {
        let suffix = if number == 0 { String::new() } else { format!(".{number}") };
        let dir = parent.join(format!("{name}-{seed}{suffix}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(anyhow!(error).context(format!("making {}", dir.display()))),
        }
    }
    Err(anyhow!("no folder is free in {}", parent.display()))
}
