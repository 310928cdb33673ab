//! Many schedules: each in a process of its own, so that what decides its course can be made the same every time, a hang costs
//! one schedule and a panic another. Owns the processes; what happens in one is `run`'s business.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::process::Command;
use tokio::task::JoinSet;

/// What makes a process's run depend on its seed alone.
const SAME_C: &str = include_str!("same.c");

/// A schedule that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// A week takes longer.
const WEEK_DEADLINE: Duration = Duration::from_secs(3 * 3_600);

/// Files of a schedule go where no disk is in the way.
const IN_MEMORY: &str = "/dev/shm";

/// How schedules are run.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The `sim` program.
    pub program: PathBuf,
    /// The compiled [`SAME_C`].
    same: PathBuf,
    folder: std::sync::Arc<tempfile::TempDir>,
    /// Weeks instead of ordinary schedules.
    pub weeks: bool,
}

/// How one schedule ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What its process said, a line for the whole and one for each broken promise.
    pub said: Vec<String>,
    /// No promise was broken, and it ended as it should.
    pub good: bool,
}

impl Outcome {
    /// A number from the line for the whole.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.word(name).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// What everything that happened comes to.
    #[must_use]
    pub fn hash(&self) -> Option<&str> {
        self.word("hash")
    }

    fn word(&self, name: &str) -> Option<&str> {
        let line = self.said.iter().find(|line| line.starts_with("sim: seed"))?;
        line.split(' ').skip_while(|word| *word != name).nth(1)
    }
}

impl Fleet {
    /// Prepares everything. `None`, with the reason, where the system can't do it.
    ///
    /// # Errors
    /// There is no C compiler, or no room.
    pub async fn new(program: PathBuf) -> anyhow::Result<Self> {
        let in_memory = Path::new(IN_MEMORY);
        let folder = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() }?;
        let (source, same) = (folder.path().join("same.c"), folder.path().join("same.so"));
        std::fs::write(&source, SAME_C)?;
        let compiled = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&same, &source])
            .output()
            .await
            .context("the simulation needs a C compiler, as `cc`")?;
        anyhow::ensure!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
        Ok(Self { program, same, folder: folder.into(), weeks: false })
    }

    /// Runs one schedule; `trace` to see everything that happened.
    ///
    /// # Errors
    /// The process can't be started.
    pub async fn one(&self, seed: u64, trace: Option<&Path>) -> anyhow::Result<Outcome> {
        let folder = tempfile::tempdir_in(self.folder.path())?;
        let mut command = Command::new(&self.program);
        command.args(["--one", "--seed", &seed.to_string(), "--folder"]).arg(folder.path());
        if let Some(trace) = trace {
            command.arg("--trace").arg(trace);
        }
        if self.weeks {
            command.arg("--week");
        }
        command.env("LD_PRELOAD", &self.same).env("IRIS_SIM_SEED", seed.to_string());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
        let deadline = if self.weeks { WEEK_DEADLINE } else { DEADLINE };
        let Ok(ended) = tokio::time::timeout(deadline, child.wait_with_output()).await else {
            let said = vec![format!("BROKEN it ends: no end after {} s", deadline.as_secs())];
            return Ok(Outcome { seed, said, good: false });
        };
        let ended = ended?;
        let mut said: Vec<String> = String::from_utf8_lossy(&ended.stdout).lines().map(str::to_owned).collect();
        if !ended.status.success() && said.is_empty() {
            said.push(format!("BROKEN it ends: {}", ended.status));
        }
        Ok(Outcome { seed, said, good: ended.status.success() })
    }

    /// Runs `count` schedules from `first` on, `jobs` at a time; hands over each as it ends, until one answer is `false`.
    ///
    /// # Errors
    /// A process can't be started.
    pub async fn many(
        &self,
        first: u64,
        count: u64,
        jobs: usize,
        mut each: impl FnMut(&Outcome) -> bool,
    ) -> anyhow::Result<Totals> {
        let began = Instant::now();
        let (mut totals, mut running) = (Totals::default(), JoinSet::new());
        let mut seeds = (first..first.saturating_add(count)).fuse();
        loop {
            while running.len() < jobs
                && let Some(seed) = seeds.next()
            {
                let fleet = self.clone();
                running.spawn(async move { fleet.one(seed, None).await });
            }
            let Some(ended) = running.join_next().await else { break };
            let outcome = ended??;
            totals.add(&outcome);
            if !each(&outcome) {
                break;
            }
        }
        totals.took = began.elapsed();
        Ok(totals)
    }
}

/// What many schedules came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Schedules that ended.
    pub schedules: u64,
    /// Those in which a promise was broken.
    pub broken: u64,
    /// Messages acked.
    pub acked: u64,
    /// Reads that were said to be fresh, and were.
    pub fresh_reads: u64,
    /// Virtual time.
    pub virtual_ms: u64,
    /// Real time.
    pub took: Duration,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.broken += u64::from(!outcome.good);
        self.acked += outcome.number("acked");
        self.fresh_reads += outcome.number("fresh");
        self.virtual_ms += outcome.number("virtual_ms");
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { schedules, broken, acked, fresh_reads, virtual_ms, took } = self;
        let per_minute = *schedules as f64 * 60.0 / took.as_secs_f64().max(0.001);
        write!(
            f,
            "sim: schedules {schedules} broken {broken} acked {acked} fresh {fresh_reads} virtual_s {} took_s {} \
             per_minute {per_minute:.0}",
            virtual_ms / 1_000,
            took.as_secs()
        )
    }
}
