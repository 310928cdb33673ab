//! Clusters that grow: one node founds, the others join with tokens. Ids are given in the order of joining, so a node's index
//! is its id less one here too, as long as nobody is removed.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context;
use iris_client::NodeId;
use iris_protocol::admin::JoinTokenRequest;

use super::{Cluster, Options, access, own_line, write_config};
use crate::config_file::render;
use crate::node_process::NodeProcess;
use crate::place::Place;
use crate::wait::{NotYet, wait_for};

/// Longest a node may take from its start to its place.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// What a node says when it was let in.
const JOINED: &str = "joined as node ";

impl Cluster {
    /// Starts one node that founds a cluster by itself, as `iris up` on a bare machine does, and waits until it serves.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn found(options: Options) -> anyhow::Result<Self> {
        Self::found_at(options, Place::loopback()).await
    }

    /// The same, at a place.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn found_at(options: Options, place: Place) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare_at(options, vec![place])?;
        let node = &cluster.nodes[0];
        write_config(node, render(&own_line(node, String::new()), &node.data, &[], &cluster.settings))?;
        cluster.start_node(0)?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Sets one field of the configuration of machines that are added from now on.
    pub fn set(&mut self, section: &'static str, field: &'static str, value: impl ToString) {
        self.settings = std::mem::take(&mut self.settings).with(section, field, value);
    }

    /// A token from this node.
    ///
    /// # Errors
    /// It gives none.
    pub async fn join_token(&self, index: usize) -> anyhow::Result<String> {
        let request = JoinTokenRequest { ttl_s: 3_600 };
        let issued = access::admin(&self.nodes[index]).join_token(&request).await;
        Ok(issued.with_context(|| format!("a join token from node {index}"))?.token)
    }

    /// Prepares a machine with an empty folder and this token; starts nothing. Returns its index.
    ///
    /// # Errors
    /// Its files can't be written.
    pub fn add_machine(&mut self, token: &str) -> anyhow::Result<usize> {
        self.add_machine_at(token, Place::loopback())
    }

    /// The same, at a place.
    ///
    /// # Errors
    /// As [`Self::add_machine`].
    pub fn add_machine_at(&mut self, token: &str, place: Place) -> anyhow::Result<usize> {
        let mut node = NodeProcess::new(NodeId(self.nodes.len() as u64 + 1), &self.dir, place)?;
        write_config(&node, render(&own_line(&node, String::new()), &node.data, &[], &self.settings))?;
        let file = self.dir.join(format!("node-{}.token", node.id));
        std::fs::write(&file, token).with_context(|| format!("writing {}", file.display()))?;
        node.join = Some(file);
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Starts another machine with a token of node `by` and waits until it was let in. Returns its index.
    ///
    /// # Errors
    /// It was not let in, or under another id than the next one.
    pub async fn join(&mut self, by: usize) -> anyhow::Result<usize> {
        let token = self.join_token(by).await?;
        let index = self.add_machine(&token)?;
        self.start_node(index)?;
        self.wait_joined(index).await?;
        Ok(index)
    }

    /// Waits until a machine that was started with a token says that it was let in.
    ///
    /// # Errors
    /// It ended, or the deadline passed, or it got another id than its index says.
    pub async fn wait_joined(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[index];
        let place = format!("{JOINED}{}", node.id);
        wait_for("the new node to be let in", JOIN_DEADLINE, async || {
            if node.has_logged(&place) {
                return Ok(());
            }
            match node.ended_by_itself().map_err(|error| format!("{error:#}"))? {
                Some(status) => Err(NotYet::never(format!("it ended with {status}\n{}", node.log_tail()))),
                None => Err("it was not let in yet".into()),
            }
        })
        .await
    }

    /// The same for machines that were started together: they are let in in some order, and get their indices by it.
    ///
    /// # Errors
    /// As [`Self::wait_joined`].
    pub async fn wait_joined_together(&mut self, indices: RangeInclusive<usize>) -> anyhow::Result<()> {
        let joiners = &mut self.nodes[indices];
        wait_for("the new nodes to be let in", JOIN_DEADLINE, async || {
            for node in joiners.iter_mut() {
                match (node.logged_behind(JOINED), node.ended_by_itself().map_err(|error| format!("{error:#}"))?) {
                    (Some(id), _) => node.id = NodeId(id),
                    (None, Some(status)) => {
                        return Err(NotYet::never(format!("one ended with {status}\n{}", node.log_tail())));
                    }
                    (None, None) => return Err(format!("{} was not let in yet", node.data.display()).into()),
                }
            }
            Ok(())
        })
        .await?;
        joiners.sort_by_key(|node| node.id);
        Ok(())
    }
}
