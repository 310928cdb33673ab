//! A node's place, remembered in its data folder in a file of its own: which cluster, which id, whom to link up with. Written
//! before the node starts as a member, so that whatever is in the folder belongs to that place; nothing ever founds a second
//! cluster in a folder that has one.

use std::path::Path;

use iris_p2p::PeerKey;
use iris_protocol::NodeId;
use iris_protocol::versioned::Versioned;
use serde::{Deserialize, Serialize};

use crate::cluster::meta::NodeRecord;
use crate::versioned_file;

/// The file's name in the data folder.
const FILE_NAME: &str = "membership";

/// Version of the file around the versioned content.
const FILE_VERSION: u16 = 1;

/// How a node came to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It founded the cluster, alone or with the others of its configuration's list.
    Founded,
    /// It was let in by a token.
    Joined,
}

/// A node's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its id.
    pub node: NodeId,
    /// The key it has it under.
    pub key: PeerKey,
    /// The cluster's id.
    pub cluster: String,
    /// How it came to it.
    pub origin: Origin,
    /// Whether it has held the meta group's state. From then on its log holds promises: a folder with this mark but without a
    /// log has lost its data.
    pub settled: bool,
    /// Members to link up with as long as the meta group's state is not here.
    pub seeds: Vec<(NodeId, NodeRecord)>,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
}

impl Versioned for Membership {
    const NAME: &'static str = "membership";
    const VERSION: u8 = 1;
}

impl Membership {
    /// Reads it; `None` if this folder belongs to no cluster yet.
    ///
    /// # Errors
    /// The file is damaged, or of another version. Nothing is overwritten then.
    pub fn load(data: &Path) -> anyhow::Result<Option<Self>> {
        versioned_file::load(&data.join(FILE_NAME), FILE_VERSION)
    }

    /// Writes it; durable when it returns.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, data: &Path) -> anyhow::Result<()> {
        versioned_file::save(&data.join(FILE_NAME), FILE_VERSION, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_damage_and_other_versions_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), None);
        let place = Membership {
            node: NodeId(4),
            key: iris_p2p::Identity::ephemeral().peer_id(),
            cluster: "c".to_owned(),
            origin: Origin::Joined,
            settled: false,
            seeds: Vec::new(),
            ca_pem: "pem".to_owned(),
        };
        place.save(dir.path()).unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), Some(place.clone()));
        let path = dir.path().join(FILE_NAME);
        iris_store::write_checked(&path, 2, b"x").unwrap();
        assert!(Membership::load(dir.path()).unwrap_err().to_string().contains("version 2"));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(Membership::load(dir.path()).unwrap_err().to_string().contains("membership"));
    }
}
