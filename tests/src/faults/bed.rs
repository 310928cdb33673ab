//! The test bed of a row: a cluster on its ground, and the cuts between its nodes. Owns both; the processes go first.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::RowRun;
use super::ground::Ground;
use crate::cluster::{Cluster, Options};
use crate::place::Place;

/// A cluster under fault.
#[derive(Debug)]
pub struct Bed {
    /// The nodes.
    pub cluster: Cluster,
    /// What they stand on. Behind the cluster: a switch goes after its machines.
    pub ground: Ground,
    /// The row damages data: a node may quarantine itself.
    pub damages: bool,
    /// The row makes fsyncs fail: the log's engine panics then, which ends the node.
    pub fails_disks: bool,
}

/// The data folder a node will have: a row that mounts something there does so before the bed is made.
#[must_use]
pub fn data_of(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("node-{}", index + 1))
}

/// The settings most rows use: checkpoints and purges often enough that faults fall into them.
#[must_use]
pub fn options(run: &RowRun<'_>, nodes: usize) -> Options {
    let options = Options::nodes(nodes).with("store", "checkpoint_ms", 700);
    Options { dir: Some(run.dir.to_owned()), ..options }
}

impl Bed {
    /// Three nodes with the usual settings, serving.
    ///
    /// # Errors
    /// See [`Self::start_with`].
    pub async fn start(run: &RowRun<'_>) -> anyhow::Result<Self> {
        Self::start_with(run, options(run, 3)).await
    }

    /// Nodes that serve.
    ///
    /// # Errors
    /// They don't.
    pub async fn start_with(run: &RowRun<'_>, options: Options) -> anyhow::Result<Self> {
        let mut bed = Self::prepare(run, options)?;
        for index in 0..bed.cluster.len() {
            bed.cluster.start_node(index)?;
        }
        bed.cluster.wait_ready().await?;
        Ok(bed)
    }

    /// Nodes with folders, keys and configurations that were not started yet.
    ///
    /// # Errors
    /// No network where there should be one, or the folder can't be written.
    pub fn prepare(run: &RowRun<'_>, options: Options) -> anyhow::Result<Self> {
        let ground = Ground::new(run.loopback)?;
        let numbers = 1..=u8::try_from(options.nodes).context("so many nodes have no addresses")?;
        let places = numbers.map(|number| ground.place(number)).collect::<anyhow::Result<Vec<Place>>>()?;
        Ok(Self { cluster: Cluster::prepare_at(options, places)?, ground, damages: false, fails_disks: false })
    }

    /// One node that founds a cluster by itself; others join.
    ///
    /// # Errors
    /// It does not serve.
    pub async fn found(run: &RowRun<'_>, options: Options) -> anyhow::Result<Self> {
        let ground = Ground::new(run.loopback)?;
        let place = ground.place(1)?;
        let cluster = Cluster::found_at(options, place).await?;
        Ok(Self { cluster, ground, damages: false, fails_disks: false })
    }

    /// Prepares one more machine with this join token; starts nothing. Returns its index.
    ///
    /// # Errors
    /// Its place or its files can't be made.
    pub fn add_machine(&mut self, token: &str) -> anyhow::Result<usize> {
        let number = u8::try_from(self.cluster.len() + 1).context("so many nodes have no addresses")?;
        let place = self.ground.place(number)?;
        self.cluster.add_machine_at(token, place)
    }

    /// From now on nothing that node `from` sends reaches node `to`.
    ///
    /// # Errors
    /// They are on loopback, or nft's.
    pub fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        let (_, from) = self.cluster.node(from).place().on_network()?;
        self.cluster.node(to).place().on_network()?.0.drop_from(from)
    }

    /// Nothing goes either way between two nodes.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn cut_both(&self, one: usize, other: usize) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Cuts a node off from all other nodes. Clients still reach it.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn isolate(&self, node: usize) -> anyhow::Result<()> {
        (0..self.cluster.len()).filter(|other| *other != node).try_for_each(|other| self.cut_both(node, other))
    }

    /// Everybody hears everybody.
    ///
    /// # Errors
    /// They are on loopback, or nft's.
    pub fn end_cuts(&self) -> anyhow::Result<()> {
        (0..self.cluster.len()).try_for_each(|node| self.cluster.node(node).place().on_network()?.0.hear_all())
    }
}
