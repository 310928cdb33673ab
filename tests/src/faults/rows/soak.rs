//! SOAK: every kind of fault mixed, drawn from the seed, for an hour or as long as is asked, with the oracle at intervals and a look at
//! what every node uses after each fault. One node, the anchor, is never ended, so that what it leaks adds up; the others are.
//!
//! The run is cut into epochs with users of their own: at the end of each everything is judged. What was judged is trimmed later by the
//! nodes' own retention, so that disks have a level to stay at.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;

use crate::cluster::Options;
use crate::faults::bed::{Bed, options};
use crate::faults::clock::{Clocks, Off};
use crate::faults::load::{Load, Size};
use crate::faults::partition::Kind;
use crate::faults::vitals::{Allowance, Chart, Vitals, WAL_BYTES_MAX, mb, wal_bytes};
use crate::faults::{Outcome, Rounds, Row, RowRun, Tally, audit};
use crate::wait::{let_pass, wait_for};

/// The row.
pub const ROW: Row = Row {
    name: "SOAK",
    number: 27,
    about: "mixed faults for an hour, with leak checks",
    rounds: Rounds { short: 1, long: 1 },
    run,
};

/// How long, if nobody says.
const MINUTES: u32 = 60;

/// Between two judgements.
const EPOCH: Duration = Duration::from_secs(180);

/// An acked entry's life: longer than an epoch and its judgement, whatever those meet.
const RETENTION: Duration = Duration::from_secs(600);

/// After which the devices of a judged epoch hold nothing back any more.
const DEVICE_EXPIRY: Duration = Duration::from_secs(300);

/// Until then everything grows to its level: an epoch, the life of its entries, and that of its devices.
const WARM: Duration = Duration::from_secs(180 + 600 + 300 + 60);

/// A run has to be so much longer than it takes to get warm before growth is judged.
const JUDGED: Duration = Duration::from_secs(600);

/// The smallest bound of the log, reached while warming up.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a node may use late more than early: room for what breathes, little against what leaks for most of an hour.
const ALLOWED: Allowance = Allowance {
    percent: 15,
    rss_bytes: 24 * 1024 * 1024,
    files: 24,
    threads: 6,
    disk_bytes: 48 * 1024 * 1024,
    // A key is kept for eight days, in memory's and the disk's index.
    disk_bytes_each: 120,
};

/// What no node may use at any time: memory at default settings (E8), files for a handful of clients.
const MOST: Vitals = Vitals { rss_bytes: 512 * 1024 * 1024, files: 1_000, threads: 200, disk_bytes: 4_000_000_000 };

/// Longest the nodes may take to notice that an epoch's clients are gone.
const GONE_DEADLINE: Duration = Duration::from_secs(90);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

/// A run so far.
struct Soak {
    bed: Bed,
    clocks: Option<Clocks>,
    anchor: usize,
    began: Instant,
    chart: Chart,
    acked_before: usize,
    total: Tally,
    faults: u32,
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let lasts = match run.minutes {
        Some(minutes) => Duration::from_secs(60) * minutes,
        None => run.choose(Duration::from_secs(30), Duration::from_secs(60) * MINUTES),
    };
    let epoch = EPOCH.min(lasts);
    let mut rng = run.rng("faults");
    let mut soak = Soak::start(run, &mut rng).await?;
    let mut number = 0;
    loop {
        number += 1;
        let is_last = soak.began.elapsed() + epoch >= lasts;
        let is_clean = soak.epoch(run, number, epoch, is_last, &mut rng).await?;
        soak.chart.write(&run.dir.join("soak.csv"))?;
        if is_last || !is_clean {
            break;
        }
    }
    soak.judge(run, lasts)
}

fn settings(run: &RowRun<'_>) -> Options {
    options(run, 3)
        .with("store", "retention_ms", RETENTION.as_millis())
        .with("store", "device_expiry_ms", DEVICE_EXPIRY.as_millis())
        .with("store", "log_bytes_max", LOG_BYTES_MAX)
}

impl Soak {
    async fn start(run: &RowRun<'_>, rng: &mut StdRng) -> anyhow::Result<Self> {
        let mut bed = Bed::prepare(run, settings(run))?;
        let clocks = match Clocks::install(&mut bed)? {
            Ok(clocks) => Some(clocks),
            Err(reason) => {
                run.say(&format!("without jumping clocks: {reason}"));
                None
            }
        };
        if let Some(reason) = bed.ground.uncuttable() {
            run.say(&format!("without partitions: {reason}"));
        }
        bed.cluster.heal().await?;
        let anchor = rng.random_range(0..bed.cluster.len());
        run.say(&format!("node {} is never ended", anchor + 1));
        Ok(Self {
            bed,
            clocks,
            anchor,
            began: Instant::now(),
            chart: Chart::default(),
            acked_before: 0,
            total: Tally::default(),
            faults: 0,
        })
    }

    /// One epoch: load, faults, judgement. Says whether every promise was kept.
    async fn epoch(
        &mut self,
        run: &RowRun<'_>,
        number: u32,
        lasts: Duration,
        is_last: bool,
        rng: &mut StdRng,
    ) -> anyhow::Result<bool> {
        let size = Size { per_s: 200, ..Size::default() };
        let load = Load::start_as(run, &self.bed.cluster, size, &format!("e{number}-")).await?;
        let began = Instant::now();
        while began.elapsed() < lasts {
            load.more(rng.random_range(50..300)).await?;
            let fault = Fault::draw(rng, self.bed.ground.uncuttable().is_none(), self.clocks.is_some());
            self.inject(fault, rng)
                .await
                .with_context(|| format!("{fault:?} at {} s", self.began.elapsed().as_secs()))?;
            self.faults += 1;
            load.more(rng.random_range(50..300)).await?;
            self.chart.sample(self.began.elapsed(), self.acked_before + load.oracle.acked(), &self.bed.cluster);
        }
        let (oracle, mut tally, errors) = load.finish_serving(&mut self.bed).await?;
        if let Some(first) = errors.first() {
            anyhow::bail!("the client library let {} errors through, the first: {first}", errors.len());
        }
        self.wait_clients_gone().await?;
        self.acked_before += oracle.acked();
        self.say(run, number);
        if is_last {
            self.check_tasks().await?;
            audit::nothing_unexpected(&self.bed)?;
            audit::at_every_replica(&mut self.bed, &oracle, &mut tally).await?;
        }
        let is_clean = tally.is_clean();
        self.total.add(tally);
        Ok(is_clean)
    }

    /// Breaks something, and mends it.
    async fn inject(&mut self, fault: Fault, rng: &mut StdRng) -> anyhow::Result<()> {
        let bed = &mut self.bed;
        let any = rng.random_range(0..bed.cluster.len());
        let mortal = (self.anchor + rng.random_range(1..bed.cluster.len())) % bed.cluster.len();
        let a_while = Duration::from_millis(rng.random_range(500..8_000));
        match fault {
            Fault::Kill9 => {
                bed.cluster.kill9(mortal)?;
                let_pass(a_while).await;
            }
            Fault::Leave => {
                bed.cluster.stop(mortal).await?;
                let_pass(a_while).await;
            }
            Fault::Pause => {
                bed.cluster.node(any).pause()?;
                let_pass(a_while).await;
                bed.cluster.node(any).wake()?;
            }
            Fault::Cut(kind) => {
                kind.begin(bed, any, rng).await?;
                let_pass(a_while).await;
                bed.end_cuts()?;
            }
            Fault::PauseOneKillAnother => {
                let other = (0..bed.cluster.len()).find(|node| *node != mortal).unwrap_or(self.anchor);
                bed.cluster.node(other).pause()?;
                bed.cluster.kill9(mortal)?;
                let_pass(a_while).await;
                bed.cluster.node(other).wake()?;
            }
            Fault::Clocks => {
                if let Some(clocks) = &self.clocks {
                    for node in 0..bed.cluster.len() {
                        clocks.set(node, Off::ByMs(rng.random_range(-30_000..=30_000)))?;
                    }
                }
            }
        }
        bed.cluster.heal().await
    }

    /// Sessions are tasks: none may outlive its client for long.
    async fn wait_clients_gone(&self) -> anyhow::Result<()> {
        wait_for("every session to end with its client", GONE_DEADLINE, async || {
            for node in self.bed.cluster.running() {
                let report = self.bed.cluster.status(node).await.map_err(|error| format!("{error:#}"))?;
                if report.counters.sessions > 0 {
                    return Err(format!("node {} has {} sessions", node + 1, report.counters.sessions).into());
                }
            }
            Ok(())
        })
        .await
    }

    /// No task of the anchor ended and was started again.
    async fn check_tasks(&mut self) -> anyhow::Result<()> {
        let restarts = self.bed.cluster.status(self.anchor).await?.counters.task_restarts;
        ensure!(restarts == 0, "{restarts} tasks of node {} ended and were started again", self.anchor + 1);
        Ok(())
    }

    fn say(&self, run: &RowRun<'_>, epoch: u32) {
        let nodes = self.chart.samples.last().map(|sample| sample.nodes.clone()).unwrap_or_default();
        let figure = |of: fn(&Vitals) -> u64| {
            let each = nodes.iter().map(|node| node.as_ref().map_or("-".to_owned(), |node| of(node).to_string()));
            each.collect::<Vec<_>>().join("/")
        };
        run.say(&format!(
            "epoch {epoch} at {} s: {} acked, {} faults, memory {} MB, files {}, threads {}, disk {} MB",
            self.began.elapsed().as_secs(),
            self.acked_before,
            self.faults,
            figure(|node| mb(node.rss_bytes)),
            figure(|node| node.files),
            figure(|node| node.threads),
            figure(|node| mb(node.disk_bytes)),
        ));
    }

    /// Limits that hold at any time, and growth if the run was long enough for it.
    fn judge(mut self, run: &RowRun<'_>, lasts: Duration) -> anyhow::Result<Outcome> {
        let most = self.chart.most();
        let within = most.rss_bytes <= MOST.rss_bytes
            && most.files <= MOST.files
            && most.threads <= MOST.threads
            && most.disk_bytes <= MOST.disk_bytes;
        ensure!(within, "a node used more than any may: {most:?}, at most {MOST:?}");
        let long = (0..self.bed.cluster.len()).find(|node| wal_bytes(&self.bed.cluster, *node) > WAL_BYTES_MAX);
        ensure!(long.is_none(), "SQLite's log is not kept short on node {}", long.map_or(0, |node| node + 1));
        let is_judged = lasts >= WARM + JUDGED;
        if is_judged {
            // What ends begins anew: only the disks of the others add up.
            let disk_only = Allowance { rss_bytes: u64::MAX / 4, files: 1_000, threads: 1_000, ..ALLOWED };
            let allowed = |node| if node == self.anchor { ALLOWED } else { disk_only };
            let grown: Vec<String> =
                (0..self.bed.cluster.len()).flat_map(|node| self.chart.growth(node, WARM, &allowed(node))).collect();
            ensure!(grown.is_empty(), "{}; see soak.csv", grown.join("; "));
        } else {
            run.say("too short to judge growth: only limits were");
        }
        self.total.rounds = self.faults;
        let tally = std::mem::take(&mut self.total);
        let tally = tally
            .with("minutes", self.began.elapsed().as_secs() / 60)
            .with("rss_mb_max", mb(most.rss_bytes))
            .with("files_max", most.files)
            .with("threads_max", most.threads)
            .with("disk_mb_max", mb(most.disk_bytes))
            .with("growth", if is_judged { "none" } else { "unjudged" })
            .with("on", self.bed.ground.word());
        Ok(Outcome::Ran(tally))
    }
}

/// One of many.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill9,
    Leave,
    Pause,
    PauseOneKillAnother,
    Cut(Kind),
    Clocks,
}

impl Fault {
    /// What can't be done here is not drawn; the draws are the same all the same, so that a seed means the same everywhere.
    fn draw(rng: &mut StdRng, cuts: bool, clocks: bool) -> Self {
        let kind = Kind::ALL[rng.random_range(0..Kind::ALL.len())];
        match rng.random_range(0..10) {
            0 | 1 => Self::Kill9,
            2 => Self::Leave,
            3 => Self::Pause,
            4 => Self::PauseOneKillAnother,
            5..=7 if cuts => Self::Cut(kind),
            8 if clocks => Self::Clocks,
            _ => Self::Kill9,
        }
    }
}
