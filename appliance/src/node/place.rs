//! This node's place in a cluster, from what a start was found to be (`admission/begin`): its id, whom it links up with, and what
//! it may found. Asks for a place where there is none yet, and notes the place in the data folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use iris_p2p::PeerKey;
use iris_protocol::NodeId;

use super::addresses::Addresses;
use super::founding;
use crate::admission::{self, Begin, JoinToken, Membership, Newcomer, Origin};
use crate::cluster::MetaState;
use crate::cluster::meta::NodeRecord;
use crate::config::Config;
use crate::surroundings::Surroundings;

/// Which of the configuration's list of members this node is, if it is one of those. Whoever joined is not, even if it has the
/// founders' file: the list founds a cluster, and its ids are the founders'.
pub(super) fn listed_as(begin: &Begin, config: &Config) -> Option<NodeId> {
    match begin {
        Begin::Found => Some(NodeId(config.node.id)),
        Begin::Resume(noted) => (noted.origin == Origin::Founded).then_some(noted.node),
        Begin::Join(_) => None,
    }
}

/// A node's place.
pub(super) struct Place {
    pub(super) node: NodeId,
    /// Every member known before the meta state is, this node included.
    pub(super) members: BTreeMap<NodeId, NodeRecord>,
    /// What to found, where that may still be to be done.
    pub(super) founding: Option<MetaState>,
    /// As it is noted in the data folder.
    noted: Option<Membership>,
}

impl Place {
    /// Finds it, or asks for it.
    ///
    /// # Errors
    /// The configuration contradicts the folder, or the node is not let in.
    pub(super) async fn find(
        begin: Begin,
        config: &Config,
        own: &Addresses,
        surroundings: &Surroundings,
    ) -> anyhow::Result<Self> {
        let record = own.record();
        let noted = match begin {
            Begin::Found => None,
            Begin::Resume(noted) => Some(noted),
            Begin::Join(token) => Some(ask(token, &record, own.bound(), config, surroundings).await?),
        };
        if let Some(noted) = &noted {
            check_key(noted, record.key, config)?;
        }
        match noted {
            Some(noted) if noted.origin == Origin::Joined => {
                if !config.members.is_empty() {
                    tracing::info!(
                        "this node joined by token, and the cluster lists its members itself; the configuration's list is not used"
                    );
                }
                let mut members: BTreeMap<NodeId, NodeRecord> = noted.seeds.iter().cloned().collect();
                members.insert(noted.node, record);
                Ok(Self { node: noted.node, members, founding: None, noted: Some(noted) })
            }
            noted => {
                let node = noted.as_ref().map_or(NodeId(config.node.id), |noted| noted.node);
                let members = founding::members(config, node, record)?;
                // Made anew at every start and thrown away unless this node is the one that founds: cheaper than finding out.
                let founding = founding::state(config, &members, surroundings.clock.unix_ms())?;
                Ok(Self { node, members, founding: Some(founding), noted })
            }
        }
    }

    /// Whether this node has held the cluster's state before.
    pub(super) fn is_settled(&self) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.settled)
    }

    /// Notes that this node holds its cluster's state now.
    ///
    /// # Errors
    /// The folder's parts belong to different clusters, or the note can't be written.
    pub(super) fn settle(&self, data: &Path, state: &MetaState) -> anyhow::Result<()> {
        if let Some(noted) = &self.noted {
            anyhow::ensure!(
                noted.cluster == state.cluster,
                "{} holds the place of cluster {} and the data of cluster {}: were folders mixed? Nothing was changed",
                data.display(),
                noted.cluster,
                state.cluster
            );
            if noted.settled {
                return Ok(());
            }
        }
        let seeds = state.nodes.iter().filter(|(node, _)| **node != self.node);
        let own = self.members.get(&self.node).context("this node is no member")?;
        let membership = Membership {
            node: self.node,
            key: own.key,
            cluster: state.cluster.clone(),
            origin: self.noted.as_ref().map_or(Origin::Founded, |noted| noted.origin),
            settled: true,
            seeds: seeds.map(|(node, record)| (*node, record.clone())).collect(),
            ca_pem: state.pki.ca_cert_pem.clone(),
        };
        membership.save(data).context("can't note this node's place in its data folder")
    }
}

async fn ask(
    token: JoinToken,
    record: &NodeRecord,
    bound: SocketAddr,
    config: &Config,
    surroundings: &Surroundings,
) -> anyhow::Result<Membership> {
    let NodeRecord { name, key, p2p, client } = record.clone();
    let newcomer = Newcomer { token, key, name, p2p, client, bound };
    let say = admission::say_on_stderr();
    let place = admission::join(&newcomer, &*surroundings.random, &*say).await?;
    // Before anything of the cluster is made here: see `admission/joiner`.
    place
        .save(&config.node.data)
        .context("can't note this node's place in its data folder; start again with the same token")?;
    // Only now is it so, whatever happens next.
    let names: Vec<&str> = place.seeds.iter().map(|(_, record)| record.name.as_str()).collect();
    say(&format!("joined as node {}, with {}", place.node, names.join(", ")));
    Ok(place)
}

fn check_key(noted: &Membership, key: PeerKey, config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        noted.key == key,
        "{} belongs to node {} with the key {}, but identity.key there is {key}: put the right one back, or start with an empty folder and join \
         as a new node",
        config.node.data.display(),
        noted.node,
        noted.key
    );
    Ok(())
}
