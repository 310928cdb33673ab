//! A cluster whose nodes have their data on lossy disks, one each, and what a row does there with each engine of the warm tier.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use iris_protocol::admin::{DiskStatus, StatusReport};

use super::bed::{Bed, data_of, options};
use super::outcome::Tally;
use super::{Outcome, RowRun};
use crate::cluster::Options;
use crate::lossy_disk::LossyDisk;
use crate::wait::wait_for;

/// The engines a node can keep its inboxes in.
const ENGINES: [&str; 2] = ["sqlite", "sled"];

/// Nodes of these rows.
pub const NODES: usize = 3;

/// Longest a node may take to notice what happens to its disk, and its leaderships to go.
const NOTICE_DEADLINE: Duration = Duration::from_secs(60);

/// The disks of a cluster's nodes, in order. Dropped after the cluster.
#[derive(Debug)]
pub struct Disks(Vec<LossyDisk>);

impl Disks {
    /// One for each node that [`Bed`] will have in `dir`.
    ///
    /// # Errors
    /// No FUSE here.
    pub fn mount(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self((0..NODES).map(|index| LossyDisk::mount(&data_of(dir, index))).collect::<anyhow::Result<_>>()?))
    }

    /// The disk of one node.
    #[must_use]
    pub fn of(&self, node: usize) -> &LossyDisk {
        &self.0[node]
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &LossyDisk> {
        self.0.iter()
    }
}

/// Plays a row with each engine, in a folder of its own, and adds up; figures of the row's own stand side by side. Skipped where there
/// are no lossy disks.
///
/// # Errors
/// The first that fails.
pub async fn with_each_engine(
    run: &RowRun<'_>,
    mut play: impl AsyncFnMut(&RowRun<'_>, Options) -> anyhow::Result<Tally>,
) -> anyhow::Result<Outcome> {
    if let Some(reason) = LossyDisk::unavailable() {
        return Ok(Outcome::Skipped(reason));
    }
    let mut total = Tally::default();
    for engine in ENGINES {
        run.say(&format!("with {engine}"));
        // Short: an admin socket's path has to fit.
        let dir = run.dir.join(&engine[..2]);
        std::fs::create_dir_all(&dir)?;
        let part = RowRun { dir: &dir, ..run.clone() };
        let options = options(&part, NODES).with("store", "engine", format!("{engine:?}"));
        let mut tally = play(&part, options).await?;
        let extra = std::mem::take(&mut tally.extra);
        total.add(tally);
        for (key, value) in extra {
            match total.extra.iter_mut().find(|(known, _)| *known == key) {
                Some((_, first)) => *first = format!("{first}/{value}"),
                None => total.extra.push((key, value)),
            }
        }
    }
    Ok(Outcome::Ran(total))
}

/// Waits until a node says of its disk what it should.
///
/// # Errors
/// It doesn't.
pub async fn disk_says(bed: &Bed, node: usize, what: &str, fits: impl Fn(&DiskStatus) -> bool) -> anyhow::Result<()> {
    status_says(bed, node, what, |report| report.disk.as_ref().is_some_and(&fits)).await
}

/// Waits until a node leads no shard, as it says itself.
///
/// # Errors
/// It keeps some.
pub async fn leads_nothing(bed: &Bed, node: usize) -> anyhow::Result<()> {
    let leads = |report: &StatusReport| {
        report
            .groups
            .iter()
            .any(|group| group.shard.is_some() && group.leader.is_none_or(|leader| leader == report.node))
    };
    status_says(bed, node, "leads nothing", |report| !leads(report)).await
}

async fn status_says(bed: &Bed, node: usize, what: &str, fits: impl Fn(&StatusReport) -> bool) -> anyhow::Result<()> {
    let what = format!("node {}: {what}", node + 1);
    let waited = wait_for(&what, NOTICE_DEADLINE, async || {
        let report = bed.cluster.status(node).await.map_err(|error| format!("{error:#}"))?;
        if fits(&report) {
            return Ok(());
        }
        let leaders: Vec<_> = report.groups.iter().map(|group| group.leader.map(|leader| leader.0)).collect();
        Err(format!("{}; its disk {:?}, leaders {leaders:?}", report.health.sentence, report.disk).into())
    });
    waited.await.map_err(|error| error.context(bed.cluster.log_tails()))
}

/// Fails if a node has ended: it should bear what is done to it.
///
/// # Errors
/// It has.
pub fn must_live(bed: &mut Bed, node: usize) -> anyhow::Result<()> {
    if let Some(status) = bed.cluster.node_mut(node).ended_by_itself()? {
        bail!("node {} ended by itself: {status}\n{}", node + 1, bed.cluster.node(node).log_tail());
    }
    Ok(())
}
