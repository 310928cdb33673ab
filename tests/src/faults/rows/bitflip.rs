//! Row 6, BITFLIP: a bit of what a minority synced flips, in the log, its last records (votes are among them), the store, the meta
//! file or the note of the node's place; of a stopped node or of one that runs, on SQLite and on sled (C12). The node notices and
//! comes back as a new one by itself, or the bit did no harm; nobody is served what is damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::future::LocalBoxFuture;
use iris_client::NodeId;
use rand::Rng;
use rand::rngs::StdRng;

use crate::faults::bed::{Bed, options};
use crate::faults::load::{Load, Size};
use crate::faults::{Outcome, Rounds, Row, RowRun, Tally};
use crate::wait::{NotYet, wait_for};

/// The row.
pub const ROW: Row = Row {
    name: "BITFLIP",
    number: 6,
    about: "a synced bit flips on one node",
    rounds: Rounds { short: 4, long: 60 },
    run,
};

/// A node reads all it has so often: damage that nobody meets is found within a round.
const SCRUB_MS: u64 = 1_000;

/// For a damaged node to be a voter of every group again, eight shards two at a time.
const BACK_DEADLINE: Duration = Duration::from_secs(150);

/// So many readings of all it has a node gets to find a bit; then the bit did no harm.
const SCRUBS: u32 = 4;

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(play(run))
}

/// Where the bit is.
#[derive(Debug, Clone, Copy)]
enum Area {
    Log,
    LogEnd,
    Store,
    Meta,
    Place,
}

const AREAS: [Area; 5] = [Area::Log, Area::LogEnd, Area::Store, Area::Meta, Area::Place];

/// What became of the bits.
#[derive(Default)]
struct Found {
    quarantined: usize,
    harmless: usize,
}

async fn play(run: &RowRun<'_>) -> anyhow::Result<Outcome> {
    let (mut tally, mut found, mut on) = (Tally::default(), Found::default(), "");
    for (at, engine) in ["sqlite", "sled"].into_iter().enumerate() {
        let rounds = (run.rounds + 1 - at as u32) / 2;
        if rounds == 0 {
            continue;
        }
        let dir = run.dir.join(engine);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let part = RowRun { dir: &dir, ..*run };
        let options = options(&part, 3).with("store", "engine", format!("{engine:?}"));
        let mut bed = Bed::start_with(&part, options.with("store", "scrub_ms", SCRUB_MS)).await?;
        bed.damages = true;
        on = bed.ground.word();
        let load = Load::start(&part, &bed.cluster, Size { per_s: 150, ..Size::default() }).await?;
        let mut rng = run.rng(engine);
        load.more(200).await?;
        for round in 1..=rounds {
            flip_one(run, &mut bed, &load, &mut rng, round, &mut found).await?;
        }
        let mut part = load.finish(&mut bed).await?;
        part.rounds = rounds;
        tally.add(part);
    }
    anyhow::ensure!(found.quarantined > 0, "no flipped bit was found in {} rounds", run.rounds);
    let tally = tally.with("quarantined", found.quarantined).with("harmless", found.harmless);
    Ok(Outcome::Ran(tally.with("on", on)))
}

async fn flip_one(
    run: &RowRun<'_>,
    bed: &mut Bed,
    load: &Load,
    rng: &mut StdRng,
    round: u32,
    found: &mut Found,
) -> anyhow::Result<()> {
    load.more(rng.random_range(50..200)).await?;
    bed.cluster.wait_ready().await?;
    let (victim, area) = (rng.random_range(0..bed.cluster.len()), AREAS[rng.random_range(0..AREAS.len())]);
    // Meta file and place are read at a start only.
    let stopped = rng.random() || matches!(area, Area::Meta | Area::Place | Area::LogEnd);
    let report = bed.cluster.status(victim).await?;
    let (before, groups) = (report.node, report.groups.len());
    if stopped {
        bed.cluster.kill9(victim)?;
    }
    let data = bed.cluster.node(victim).data.clone();
    let (path, at, bit) = flip(&data, area, rng)?;
    let name = path.strip_prefix(&data)?.display().to_string();
    if stopped {
        bed.cluster.start_node(victim)?;
    }
    let became = settle(bed, victim, before, groups).await?;
    run.say(&format!(
        "round {round}: bit {bit} of byte {at} of {name} on node {before}, {}: {}",
        if stopped { "stopped" } else { "running" },
        became.map_or_else(|| "no harm".to_owned(), |node| format!("back as node {node}")),
    ));
    // These are read as a whole at every start, and nobody could do without them.
    let must_show = matches!(area, Area::Meta | Area::Place);
    anyhow::ensure!(became.is_some() || !must_show, "node {before} started with a flipped bit in {name}");
    match became {
        Some(_) => found.quarantined += 1,
        None => found.harmless += 1,
    }
    load.more(50).await
}

/// Flips a bit of the area's files, in what was written of them.
fn flip(data: &Path, area: Area, rng: &mut StdRng) -> anyhow::Result<(PathBuf, usize, u8)> {
    let mut files = match area {
        Area::Log | Area::LogEnd => below(&data.join("log"))?,
        Area::Store => ["inboxes.db", "inboxes.db-wal", "inboxes.sled"]
            .iter()
            .map(|name| below(&data.join(name)))
            .collect::<anyhow::Result<Vec<_>>>()?
            .concat(),
        Area::Meta => vec![data.join("meta")],
        Area::Place => vec![data.join("membership")],
    };
    files.retain(|path| {
        let log = path.extension().is_some_and(|is| is == "raftlog");
        std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0) && (!path.starts_with(data.join("log")) || log)
    });
    files.sort();
    let path = match area {
        Area::LogEnd => files.pop(),
        _ => (!files.is_empty()).then(|| files.swap_remove(rng.random_range(0..files.len()))),
    };
    let path = path.with_context(|| format!("{area:?}: nothing is there"))?;
    let bytes = std::fs::read(&path)?;
    // Behind it is space that the file was given ahead.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let from = if matches!(area, Area::LogEnd) { written.saturating_sub(64) } else { 0 };
    let (at, bit) = (rng.random_range(from..written), rng.random_range(0..8u8));
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(&path)?;
    file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64)?;
    Ok((path, at, bit))
}

fn below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(if path.is_file() { vec![path.to_owned()] } else { Vec::new() });
    }
    let entries = std::fs::read_dir(path)?.map(|entry| below(&entry?.path()));
    Ok(entries.collect::<anyhow::Result<Vec<_>>>()?.concat())
}

/// Waits until the node is back as a new one, a voter everywhere; its id then, or none if it found nothing to complain of.
async fn settle(bed: &mut Bed, victim: usize, before: NodeId, groups: usize) -> anyhow::Result<Option<NodeId>> {
    let (mut looks, began) = (0, tokio::time::Instant::now());
    let became = wait_for("the damaged node to be well again", BACK_DEADLINE, async || {
        if let Some(status) = bed.cluster.ended(victim).map_err(|error| format!("{error:#}"))? {
            return Err(NotYet::never(format!("it ended by itself: {status}")));
        }
        let report = bed.cluster.status(victim).await.map_err(|error| format!("{error:#}"))?;
        let voting = report.groups.iter().filter(|group| group.voters.contains(&report.node)).count();
        // All of them: the next bit must not meet a group that is still short of a voter.
        if voting < groups || voting < report.groups.len() {
            return Err(format!("node {} votes in {voting} groups: {}", report.node, report.health.sentence).into());
        }
        if report.node != before {
            return Ok(Some(report.node));
        }
        looks += 1;
        match began.elapsed() >= Duration::from_millis(SCRUB_MS) * SCRUBS {
            true => Ok(None),
            false => Err(format!("{looks} looks and nothing found").into()),
        }
    });
    became.await
}
