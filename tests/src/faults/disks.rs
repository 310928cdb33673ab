//! A cluster whose nodes have their data on lossy disks, one each, and what a row does there with each engine of the warm tier.

use std::path::Path;

use super::bed::{data_of, options};
use super::outcome::Tally;
use super::{Outcome, RowRun};
use crate::cluster::Options;
use crate::lossy_disk::LossyDisk;

/// The engines a node can keep its inboxes in.
const ENGINES: [&str; 2] = ["sqlite", "sled"];

/// Nodes of these rows.
pub const NODES: usize = 3;

/// The disks of a cluster's nodes, in order. Dropped after the cluster.
#[derive(Debug)]
pub struct Disks(Vec<LossyDisk>);

impl Disks {
    /// One for each node that a bed will have in `dir`.
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

/// Plays a row with each engine, in a folder of its own, and adds up. Skipped where there are no lossy disks.
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
        let (seed, rounds, length, loopback) = (run.seed, run.rounds, run.length, run.loopback);
        let part = RowRun { seed, rounds, length, dir: &dir, loopback };
        let options = options(&part, NODES).with("store", "engine", format!("{engine:?}"));
        let mut tally = play(&part, options).await?;
        let extra = std::mem::take(&mut tally.extra);
        total.add(tally);
        total.extra.extend(extra);
    }
    Ok(Outcome::Ran(total))
}
