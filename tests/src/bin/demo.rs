//! `make demo`: three nodes as real processes, real messages, two kill -9. The last line says what came of it; the exit code
//! is 0 only if every message was delivered once and in order.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::corpus;
use iris_tests::scenario::{Play, Progress, play};

/// Three nodes, 5,574 real messages, two kill -9.
#[derive(Debug, Parser)]
struct Arguments {
    /// Messages of the corpus to send.
    #[arg(long, default_value_t = corpus::CORPUS_LEN)]
    messages: usize,
    /// Users who send and receive.
    #[arg(long, default_value_t = 100)]
    users: usize,
    /// Unanswered messages a sender has at most.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Messages a second, all senders together.
    #[arg(long, default_value_t = 500)]
    per_s: u32,
    /// Replays who sends what to whom; a fresh one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps the nodes' data and logs in this folder instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(demo(arguments))),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: Arguments) -> anyhow::Result<bool> {
    if let Some(keep) = &arguments.keep {
        std::fs::create_dir_all(keep)?;
        anyhow::ensure!(keep.read_dir()?.next().is_none(), "{} is not empty: give a new folder", keep.display());
    }
    let mut progress = Printed::default();
    let dir = arguments.keep.as_ref().map(|keep| keep.canonicalize()).transpose()?;
    let mut cluster = Cluster::start_with(Options { dir, ..Options::nodes(3) }).await?;
    progress.say(&format_args!("three nodes serve at {}", cluster.addresses().join(", ")));
    progress.say(&format_args!("their data and logs are in {}", cluster.dir().display()));
    let plan = Play {
        users: arguments.users,
        messages: arguments.messages,
        depth: arguments.depth,
        per_s: arguments.per_s,
        seed: arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
    };
    let report = match Box::pin(play(&mut cluster, &plan, &mut progress)).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{}", cluster.log_tails());
            return Err(error);
        }
    };
    let worst = report.worst();
    for problem in worst.problems.iter().chain(report.errors.iter().take(10)) {
        println!("problem: {problem}");
    }
    println!("sends repeated by the client library: {}, reconnects: {}", report.resends, report.reconnects);
    println!("all figures, the worst of what receivers saw and what inboxes hold: {worst}");
    for index in cluster.running() {
        cluster.stop(index).await?;
    }
    drop(cluster);
    println!("{report}");
    Ok(report.is_success())
}

/// Progress as lines on stdout, one for every twentieth part.
#[derive(Default)]
struct Printed {
    shown: usize,
}

impl Progress for Printed {
    fn say(&mut self, line: &dyn Display) {
        println!("{line}");
        let _ = std::io::stdout().flush();
    }

    fn acked(&mut self, acked: usize, of: usize) {
        let twentieths = acked * 20 / of.max(1);
        if twentieths > self.shown {
            self.shown = twentieths;
            let bar = "#".repeat(twentieths);
            self.say(&format_args!("[{bar:<20}] {:>3} %  {acked}/{of} acked", twentieths * 5));
        }
    }
}
