//! Row 24, CASCADE: a node dies at full load and stays away for minutes; the others carry its share (C5). Their memory stays
//! bounded and the latency recovers; both are charted, second by second, in `cascade.csv` of the run's folder.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::LocalBoxFuture;
use iris_client::UserId;
use rand::Rng;
use tokio::time::{MissedTickBehavior, interval};

use crate::faults::ballast::Ballast;
use crate::faults::bed::Bed;
use crate::faults::load::{Load, Size};
use crate::faults::probe::{Prober, quantile};
use crate::faults::vitals::{Chart, mb};
use crate::faults::{Outcome, Rounds, Row, RowRun, Tally};
use crate::workload::{chatter, users};

/// The row.
pub const ROW: Row = Row {
    name: "CASCADE",
    number: 24,
    about: "a node dies at full load and stays away; memory and latency of the others",
    rounds: Rounds { short: 1, long: 1 },
    run,
};

/// What a node may take at default settings (E8).
const RSS_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Longest the prober's last message may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Whole,
    OneAway,
    Back,
}

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let mut total = Tally::default();
    for round in 1..=run.rounds {
        let dir = run.dir.join(format!("round-{round}"));
        std::fs::create_dir_all(&dir)?;
        let inner = RowRun { dir: &dir, seed: run.seed.wrapping_add(u64::from(round) - 1), ..*run };
        let tally = once(&inner).await?;
        total.extra.extend(tally.extra.clone());
        total.add(tally);
    }
    Ok(Outcome::Ran(total))
}

async fn once(run: &RowRun<'_>) -> anyhow::Result<Tally> {
    let mut rng = run.rng("victim");
    let mut bed = Bed::start(run).await?;
    let load = Load::start(run, &bed.cluster, Size { per_s: 150, ..Size::default() }).await?;
    let prober = probe(run, &bed, &load).await?;
    let ballast = Ballast::start(&bed.cluster, run.rng("ballast")).await?;
    load.more(100).await?;
    let mut watch = Watch::new();
    let part = |short, long| Duration::from_secs(run.choose(short, long));
    watch.pass(part(5, 60), Phase::Whole, &bed, &load, &ballast).await?;
    let victim = rng.random_range(0..bed.cluster.len());
    bed.cluster.kill9(victim)?;
    run.say(&format!("node {} killed at {} acked", victim + 1, load.oracle.acked()));
    watch.pass(part(12, 300), Phase::OneAway, &bed, &load, &ballast).await?;
    bed.cluster.start_node(victim)?;
    watch.pass(part(8, 90), Phase::Back, &bed, &load, &ballast).await?;
    ballast.stop();
    prober_figures(run, &watch, &prober)?;
    let most = watch.chart.most();
    let tally = watch.figures(&prober, Tally::default());
    prober.finish(ANSWER_DEADLINE).await?;
    watch.chart.write(&run.dir.join("vitals.csv"))?;
    let judged = load.finish(&mut bed).await?;
    ensure!(most.rss_bytes <= RSS_BYTES_MAX, "a node took {} MB", mb(most.rss_bytes));
    let extra = tally.extra;
    let tally = Tally { rounds: 1, extra, ..judged };
    Ok(tally.with("rss_mb_max", mb(most.rss_bytes)).with("on", bed.ground.word()))
}

/// One sender that waits for each ack, beside the others.
async fn probe(run: &RowRun<'_>, bed: &Bed, load: &Load) -> anyhow::Result<Prober> {
    let user = UserId::new("prober")?;
    let client = bed.cluster.client(&user, "prober").await?;
    let recipients = users("user-", Size::default().users)?;
    Ok(Prober::start(client, user, load.oracle.clone(), chatter(run.rng("prober"), recipients)))
}

/// What was seen, second by second.
struct Watch {
    began: Instant,
    chart: Chart,
    /// When each phase began and ended, and how much ballast was acked in it.
    phases: Vec<(Phase, Instant, Instant, u64)>,
}

impl Watch {
    fn new() -> Self {
        Self { began: Instant::now(), chart: Chart::default(), phases: Vec::new() }
    }

    /// Lets a phase pass, looking once a second.
    async fn pass(
        &mut self,
        lasts: Duration,
        phase: Phase,
        bed: &Bed,
        load: &Load,
        ballast: &Ballast,
    ) -> anyhow::Result<()> {
        let (began, acked) = (Instant::now(), ballast.acked());
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while began.elapsed() < lasts {
            ticks.tick().await;
            self.chart.sample(self.began.elapsed(), load.oracle.acked(), &bed.cluster);
        }
        ensure!(ballast.acked() > acked, "nothing of the full load was acked in {phase:?}");
        self.phases.push((phase, began, Instant::now(), ballast.acked() - acked));
        Ok(())
    }

    /// Rates and latencies of each phase.
    fn figures(&self, prober: &Prober, mut tally: Tally) -> Tally {
        for (phase, from, until, acked) in &self.phases {
            let keys = match phase {
                Phase::Whole => ("whole_per_s", "whole_p99_ms"),
                Phase::OneAway => ("away_per_s", "away_p99_ms"),
                Phase::Back => ("back_per_s", "back_p99_ms"),
            };
            let per_s = *acked as f64 / (*until - *from).as_secs_f64();
            let p99 = quantile(&prober.latencies, *from, *until, 0.99).unwrap_or_default();
            tally = tally.with(keys.0, per_s.round()).with(keys.1, p99.as_millis());
        }
        tally
    }
}

/// The chart of latencies, a line for each second, and a short one for people.
fn prober_figures(run: &RowRun<'_>, watch: &Watch, prober: &Prober) -> anyhow::Result<()> {
    let end = watch.phases.last().map_or(watch.began, |phase| phase.2);
    let seconds = end.duration_since(watch.began).as_secs();
    let mut text = "s,p50_ms,p99_ms,rss_mb\n".to_owned();
    let step = (seconds / 12).max(1);
    for second in 0..seconds {
        let from = watch.began + Duration::from_secs(second);
        let at = |q: f64, s: u64| quantile(&prober.latencies, from, from + Duration::from_secs(s), q);
        let ms =
            |took: Option<Duration>| took.map_or("-".to_owned(), |took| format!("{:.1}", took.as_secs_f64() * 1e3));
        let sample = watch.chart.samples.iter().find(|sample| sample.at >= Duration::from_secs(second));
        let nodes = sample.map(|sample| sample.nodes.clone()).unwrap_or_default();
        let rss: Vec<String> =
            nodes.iter().map(|node| node.map_or("-".to_owned(), |node| mb(node.rss_bytes).to_string())).collect();
        let rss = rss.join("/");
        // Writing to a String can't fail.
        let _ = writeln!(text, "{second},{},{},{rss}", ms(at(0.5, 1)), ms(at(0.99, 1)));
        if second % step == 0 {
            let (p50, p99) = (ms(at(0.5, step)), ms(at(0.99, step)));
            run.say(&format!("at {second:>3} s: an ack takes {p50} ms, p99 {p99} ms; memory of the nodes {rss} MB"));
        }
    }
    std::fs::write(run.dir.join("cascade.csv"), text).context("writing cascade.csv")
}
