//! What a new node and a member say to each other: one request, one answer, each `len u32` big-endian and a versioned encoding.
//! Sizes are checked before anything is allocated.

use iris_p2p::{PeerAddr, PeerKey};
use iris_protocol::NodeId;
use iris_protocol::versioned::{self, DecodeError, Versioned};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::token::JoinSecret;
use super::{ADDRESS_LEN_MAX, CLUSTER_LEN_MAX};
use crate::cluster::meta::NodeRecord;
use crate::cluster::meta::admission::{JoinRefusal, TokenId};
use crate::config::is_name;

/// Bytes of a request: eight peer addresses and names of the greatest length.
pub const REQUEST_LEN_MAX: usize = 8 * 1024;

/// Bytes of an answer: as many members as a cluster can have, each with its addresses, and the CA.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;

/// Peer addresses a new node may name: as many as links use.
pub const PEER_ADDRESSES_MAX: usize = 8;

const SOFTWARE_LEN_MAX: usize = 64;

/// "Let me in."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The cluster meant.
    pub cluster: String,
    /// Which token.
    pub token: TokenId,
    /// Its secret.
    pub secret: JoinSecret,
    /// The new node's key. That it holds the private half is proved on every link later; here a false one would only use up a
    /// token for a member that can never link up.
    pub key: PeerKey,
    /// What it is called.
    pub name: String,
    /// Where members reach it.
    pub p2p: Vec<PeerAddr>,
    /// Where clients reach it.
    pub client: String,
    /// Its software's version, for the log.
    pub software: String,
}

impl Versioned for JoinRequest {
    const NAME: &'static str = "join request";
    const VERSION: u8 = 1;
}

impl JoinRequest {
    /// What is wrong with it, if something is.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let too_long = self.cluster.len() > CLUSTER_LEN_MAX
            || self.client.len() > ADDRESS_LEN_MAX
            || self.software.len() > SOFTWARE_LEN_MAX
            || self.p2p.len() > PEER_ADDRESSES_MAX;
        match () {
            () if too_long => Some("a field is too long"),
            () if !is_name(&self.name) => Some("its name is none a node can have"),
            () if !super::is_address(&self.client) => Some("its client address is no host:port"),
            () => None,
        }
    }
}

/// What a new node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a member.
    Admitted(Admitted),
    /// It is not.
    Refused(Refusal),
}

impl Versioned for JoinAnswer {
    const NAME: &'static str = "join answer";
    const VERSION: u8 = 1;
}

/// A member's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The id it was given.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: String,
    /// The members to link up with.
    pub members: Vec<(NodeId, NodeRecord)>,
    /// The CA's certificate, PEM.
    pub ca_pem: String,
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The cluster decided so.
    Decided(JoinRefusal),
    /// The token is another cluster's.
    Foreign {
        /// The cluster asked.
        cluster: String,
    },
    /// This address has tried too often in vain.
    TooOften {
        /// Seconds until it may again.
        retry_after_s: u32,
    },
    /// The node can't have it decided now; another may, or the same one later.
    NotNow(String),
    /// The request can't be read.
    Malformed(String),
    /// The request is of another version.
    Version {
        /// The version the node reads.
        known: u8,
    },
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Version { known, .. } => Self::Version { known },
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Writes one.
///
/// # Errors
/// The connection broke.
pub async fn write<T: Versioned>(stream: &mut (impl AsyncWrite + Unpin), value: &T) -> std::io::Result<()> {
    let bytes = versioned::encode(value);
    let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), &bytes[..]].concat()).await?;
    stream.flush().await
}

/// Reads the bytes of one.
///
/// # Errors
/// The connection broke, or it is longer than `len_max`.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), len_max: usize) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u32().await? as usize;
    if len > len_max {
        return Err(std::io::Error::other(format!("{len} bytes, at most {len_max} are allowed")));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_p2p::Identity;
    use proptest::prelude::*;

    pub(crate) fn request() -> JoinRequest {
        JoinRequest {
            cluster: "c".to_owned(),
            token: TokenId([1; 8]),
            secret: JoinSecret::new([2; 32]),
            key: Identity::ephemeral().peer_id(),
            name: "nas".to_owned(),
            p2p: vec!["192.0.2.1:8444".parse().unwrap()],
            client: "192.0.2.1:8443".to_owned(),
            software: "iris/0".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_what_is_too_long_is_not() {
        let (mut ours, mut theirs) = tokio::io::duplex(REQUEST_LEN_MAX);
        write(&mut ours, &request()).await.unwrap();
        let bytes = read(&mut theirs, REQUEST_LEN_MAX).await.unwrap();
        assert_eq!(versioned::decode::<JoinRequest>(&bytes).unwrap().name, "nas");
        ours.write_u32(REQUEST_LEN_MAX as u32 + 1).await.unwrap();
        assert!(read(&mut theirs, REQUEST_LEN_MAX).await.unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn a_request_keeps_to_its_bounds() {
        let check = |change: fn(&mut JoinRequest), fine: bool| {
            let mut request = request();
            change(&mut request);
            assert_eq!(request.problem().is_none(), fine, "{request:?}");
        };
        check(|_| {}, true);
        check(|request| request.name = "no name\n".to_owned(), false);
        check(|request| request.client = "nowhere".to_owned(), false);
        check(|request| request.cluster = "c".repeat(CLUSTER_LEN_MAX + 1), false);
        check(|request| request.software = "s".repeat(SOFTWARE_LEN_MAX + 1), false);
        check(|request| request.p2p = vec![request.p2p[0].clone(); PEER_ADDRESSES_MAX + 1], false);
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let mut bytes = versioned::encode(&request());
        bytes[0] = 2;
        let refusal: Refusal = versioned::decode::<JoinRequest>(&bytes).unwrap_err().into();
        assert_eq!(refusal, Refusal::Version { known: 1 });
        bytes.truncate(20);
        bytes[0] = 1;
        let refusal: Refusal = versioned::decode::<JoinRequest>(&bytes).unwrap_err().into();
        assert!(matches!(refusal, Refusal::Malformed(_)), "{refusal:?}");
        assert!(!format!("{:?}", request()).contains("[2, 2"), "no secret is shown");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = versioned::decode::<JoinAnswer>(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = 1;
            }
            let _ = versioned::decode::<JoinRequest>(&bytes);
            let _ = versioned::decode::<JoinAnswer>(&bytes);
        }
    }
}
