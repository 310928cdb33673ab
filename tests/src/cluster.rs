//! A cluster of real node processes on this machine, in a folder of its own. Owns starting, killing, waiting until it
//! serves, tokens and clients. Reads the cluster through the admin API only, as an operator does.

mod access;
mod joining;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use iris_client::{NodeId, UserId};
use iris_protocol::ShardId;
use iris_protocol::admin::StatusReport;
use iris_protocol::vnode::{first_shard_of, vnode_of};
use tempfile::TempDir;

use crate::binaries::Binary;
use crate::config_file::{MemberLine, Settings, render};
use crate::node_process::{NodeProcess, Usage};
use crate::place::Place;
use crate::wait::{NotYet, wait_for};
use access::Access;

/// Longest a cluster may take until every group has a leader everywhere. An election takes under a second; a loaded machine
/// with debug builds takes many times that.
pub const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Longest a node may take to leave after SIGTERM: 30 s for its sessions (B7) and some for its last checkpoint.
pub const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// Nodes a shard is on, if there are so many (C3).
const REPLICAS: usize = 3;

/// What a cluster under test is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// What differs from the product's defaults.
    pub settings: Settings,
    /// Which program runs.
    pub binary: Binary,
    /// Where everything is kept; a temporary folder if none.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// So many nodes with raised limits.
    #[must_use]
    pub fn nodes(nodes: usize) -> Self {
        Self { nodes, settings: Settings::raised(), binary: Binary::Iris, dir: None }
    }

    /// Sets one field of every node's configuration.
    #[must_use]
    pub fn with(mut self, section: &'static str, field: &'static str, value: impl ToString) -> Self {
        self.settings = self.settings.with(section, field, value);
        self
    }
}

/// Where the files are.
#[derive(Debug)]
enum Folder {
    Temporary(Option<TempDir>),
    Kept,
}

/// The cluster. Its processes die with it; its folder stays if a test panics.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<NodeProcess>,
    program: PathBuf,
    settings: Settings,
    shards: u16,
    /// The indices of the nodes that ran when the cluster was last ready.
    ids: BTreeMap<NodeId, usize>,
    access: Access,
    dir: PathBuf,
    folder: Folder,
}

impl Cluster {
    /// Starts `nodes` nodes with raised limits and waits until they serve.
    ///
    /// # Errors
    /// See [`Self::start_with`].
    pub async fn start(nodes: usize) -> anyhow::Result<Self> {
        Self::start_with(Options::nodes(nodes)).await
    }

    /// Starts a cluster and waits until it serves.
    ///
    /// # Errors
    /// A program is missing, a node did not start, or no leaders in time; the nodes' last lines are in the error.
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let places = (0..options.nodes).map(|_| Place::loopback()).collect();
        Self::start_at(options, places).await
    }

    /// Starts a cluster with one node at each place and waits until it serves.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn start_at(options: Options, places: Vec<Place>) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare_at(options, places)?;
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Makes folders, keys and configuration files; starts nothing.
    ///
    /// # Errors
    /// A program is missing, or the folder can't be written.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        let places = (0..options.nodes).map(|_| Place::loopback()).collect();
        Self::prepare_at(options, places)
    }

    /// As [`Self::prepare`], with one node at each place.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_at(options: Options, places: Vec<Place>) -> anyhow::Result<Self> {
        let program = options.binary.path()?;
        let iris = Binary::Iris.path()?;
        let (dir, folder) = match options.dir {
            Some(dir) => (dir, Folder::Kept),
            None => {
                let temporary = tempfile::Builder::new().prefix("iris-test-").tempdir()?;
                (temporary.path().to_owned(), Folder::Temporary(Some(temporary)))
            }
        };
        let numbered = (1..).map(NodeId).zip(places);
        let nodes =
            numbered.map(|(id, place)| NodeProcess::new(id, &dir, place)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut members = Vec::new();
        for node in &nodes {
            members.push(own_line(node, identity(&iris, &node.data)?));
        }
        for node in &nodes {
            let own = own_line(node, String::new());
            write_config(node, render(&own, &node.data, &members, &options.settings))?;
        }
        Ok(Self {
            nodes,
            program,
            settings: options.settings,
            shards: 0,
            ids: BTreeMap::new(),
            access: Access::default(),
            dir,
            folder,
        })
    }

    /// How many nodes it has, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node at `index`, from 0; its id is one more.
    #[must_use]
    pub fn node(&self, index: usize) -> &NodeProcess {
        &self.nodes[index]
    }

    /// The same, to change what its next start is like.
    pub fn node_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.nodes[index]
    }

    /// Indices of the nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.len()).filter(|index| self.nodes[*index].is_running()).collect()
    }

    /// Client addresses of all nodes, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_port.address()).collect()
    }

    /// Starts a node; returns at once.
    ///
    /// # Errors
    /// It runs already, or the program can't be run.
    pub fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].start(&self.program)
    }

    /// How a node ended, if it ended by itself.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self, index: usize) -> anyhow::Result<Option<std::process::ExitStatus>> {
        self.nodes[index].ended_by_itself()
    }

    /// kill -9, and waits until the kernel has it.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill9(&mut self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].send_kill9()?;
        self.nodes[index].reap()
    }

    /// kill -9 of every running node, as close together as signals are.
    ///
    /// # Errors
    /// One was not running any more.
    pub fn kill9_all(&mut self) -> anyhow::Result<()> {
        let running = self.running();
        for index in &running {
            self.nodes[*index].send_kill9()?;
        }
        running.iter().try_for_each(|index| self.nodes[*index].reap())
    }

    /// Waits until a node ends by itself; its log says why.
    ///
    /// # Errors
    /// It does not.
    pub async fn wait_ended(&mut self, index: usize) -> anyhow::Result<std::process::ExitStatus> {
        self.nodes[index].wait_ended(READY_DEADLINE).await
    }

    /// SIGTERM, and waits for exit code 0 (B7).
    ///
    /// # Errors
    /// It did not end in time, or with another code.
    pub async fn stop(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        let status = node.terminate(STOP_DEADLINE).await?;
        if status.success() {
            return Ok(());
        }
        bail!("node {} ended with {status} after SIGTERM\n{}", node.id, node.log_tail())
    }

    /// SIGTERM to every running node at once; returns the longest any took, once all have ended with 0.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub async fn stop_all(&mut self) -> anyhow::Result<Duration> {
        let running = self.nodes.iter_mut().filter(|node| node.is_running());
        let ends = running.map(async |node| {
            let began = Instant::now();
            let status = node.terminate(STOP_DEADLINE).await?;
            anyhow::ensure!(status.success(), "node {} ended with {status} after SIGTERM", node.id);
            Ok(began.elapsed())
        });
        let ended: Vec<Duration> = futures::future::try_join_all(ends).await?;
        ended.into_iter().max().context("no node runs")
    }

    /// Starts every node that does not run, and waits until all serve.
    ///
    /// # Errors
    /// As [`Self::wait_ready`].
    pub async fn heal(&mut self) -> anyhow::Result<()> {
        for index in 0..self.len() {
            if !self.nodes[index].is_running() {
                self.start_node(index)?;
            }
        }
        self.wait_ready().await
    }

    /// Waits until every running node sees every other running node, and all of them agree on a running leader for every group.
    ///
    /// # Errors
    /// A node ended, or the deadline passed; with the nodes' last lines.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let running = self.running();
        // With more nodes than copies, some hold no shard.
        let holds_all = self.nodes.len() <= REPLICAS;
        let nodes = &mut self.nodes;
        let waited = wait_for("every group to have a leader everywhere", READY_DEADLINE, async || {
            let (mut agreed, mut reports) = (Leaders::new(), Vec::new());
            for index in &running {
                let node = &mut nodes[*index];
                if let Some(status) = node.ended_by_itself().map_err(|error| format!("{error:#}"))? {
                    return Err(NotYet::never(format!("node {} ended by itself: {status}", node.id)));
                }
                let report = access::admin(node).status().await.map_err(|error| error.to_string())?;
                reports.push(report);
            }
            // One that came back from quarantine has another id than its index says.
            let ids: BTreeMap<NodeId, usize> = reports.iter().map(|report| report.node).zip(running.clone()).collect();
            for report in &reports {
                let leaders = leaders_of(report, &ids)?;
                if holds_all && leaders.len() < 2 {
                    return Err(format!("node {} has no shard", report.node).into());
                }
                for (group, leader) in leaders {
                    if *agreed.entry(group).or_insert(leader) != leader {
                        return Err("the nodes name different leaders".into());
                    }
                }
            }
            if agreed.len() < 2 { Err("there is no shard".into()) } else { Ok((agreed, ids)) }
        });
        match waited.await {
            Ok((leaders, ids)) => {
                self.shards = u16::try_from(leaders.keys().flatten().count())?;
                self.ids = ids;
            }
            Err(error) => return Err(error.context(self.log_tails())),
        }
        if self.access.is_unset() {
            self.access.learn(&self.nodes[running[0]]).await?;
        }
        Ok(())
    }

    /// What a node says of itself and the others.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, index: usize) -> anyhow::Result<StatusReport> {
        let node = &self.nodes[index];
        access::admin(node).status().await.with_context(|| format!("the status of node {}", node.id))
    }

    /// The leader of each shard, as an index, once the running nodes agree.
    ///
    /// # Errors
    /// As [`Self::wait_ready`].
    pub async fn leaders(&mut self) -> anyhow::Result<BTreeMap<ShardId, usize>> {
        self.wait_ready().await?;
        let report = self.status(self.running()[0]).await?;
        let shards = report.groups.iter().filter_map(|group| Some((group.shard?, group.leader?)));
        let index = |leader| self.ids.get(&leader).copied().with_context(|| format!("node {leader} does not run"));
        shards.map(|(shard, leader)| Ok((shard, index(leader)?))).collect()
    }

    /// The node that leads most shards.
    ///
    /// # Errors
    /// As [`Self::leaders`].
    pub async fn leading_most(&mut self) -> anyhow::Result<usize> {
        let leaders = self.leaders().await?;
        let led = |index: &usize| leaders.values().filter(|leader| *leader == index).count();
        self.running().into_iter().max_by_key(led).context("no node runs")
    }

    /// The shard a user's inbox is in. Known once the cluster was ready.
    #[must_use]
    pub fn shard_of(&self, user: &UserId) -> ShardId {
        first_shard_of(vnode_of(user), self.shards)
    }

    /// The node that leads a user's shard.
    ///
    /// # Errors
    /// As [`Self::leaders`].
    pub async fn leader_for(&mut self, user: &UserId) -> anyhow::Result<usize> {
        let leaders = self.leaders().await?;
        leaders.get(&self.shard_of(user)).copied().with_context(|| format!("no leader for {user}"))
    }

    /// What the kernel says of a node's memory.
    ///
    /// # Errors
    /// It does not run.
    pub fn usage(&self, index: usize) -> anyhow::Result<Usage> {
        self.nodes[index].usage()
    }

    /// The last lines of every node's log.
    #[must_use]
    pub fn log_tails(&self) -> String {
        self.nodes.iter().map(NodeProcess::log_tail).collect::<Vec<_>>().join("\n")
    }
}

type Leaders = BTreeMap<Option<ShardId>, NodeId>;

/// The leader of every group, if the report names a running one for each and sees every running node.
fn leaders_of(report: &StatusReport, running: &BTreeMap<NodeId, usize>) -> Result<Leaders, NotYet> {
    let runs = |id: NodeId| running.contains_key(&id);
    if let Some(unseen) = report.nodes.iter().find(|node| runs(node.id) && !node.up) {
        return Err(format!("node {} has no link to node {}", report.node, unseen.id).into());
    }
    let mut leaders = Leaders::new();
    for group in &report.groups {
        match group.leader {
            Some(leader) if runs(leader) => drop(leaders.insert(group.shard, leader)),
            other => return Err(format!("on node {}, {:?} is led by {other:?}", report.node, group.shard).into()),
        }
    }
    Ok(leaders)
}

/// A node as a list of members has it.
fn own_line(node: &NodeProcess, key: String) -> MemberLine {
    MemberLine { id: node.id.0, key, p2p: node.p2p_port.address(), client: node.client_port.address() }
}

fn write_config(node: &NodeProcess, text: String) -> anyhow::Result<()> {
    std::fs::write(&node.config, text).with_context(|| format!("writing {}", node.config.display()))
}

/// Makes a node's key and returns its public half.
fn identity(iris: &Path, data: &Path) -> anyhow::Result<String> {
    let output = Command::new(iris).arg("identity").arg("--data").arg(data).output();
    let output = output.with_context(|| format!("running {} identity", iris.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || text.is_empty() {
        bail!("`iris identity` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
            if let Folder::Temporary(temporary) = &mut self.folder
                && let Some(temporary) = temporary.take()
            {
                eprintln!("everything is kept in {}", temporary.keep().display());
            }
        }
        // Processes first: a folder in use can't be removed.
        self.nodes.clear();
    }
}
