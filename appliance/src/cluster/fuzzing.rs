//! What fuzz targets see of this folder's decoders: each function reads bytes as the product does and gives back what it would
//! write for them.

use bytes::Bytes;
use iris_protocol::versioned::{self, DecodeError, Versioned};
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::meta_machine::Checkpoint;
use super::neighbours::Known;
use super::proposals::{MetaCall, MetaReply};
use super::raft_types::{self, StoredMembership, TypeConfig, Vote, decode, encode};
use super::{bulk, raft_wire};

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode::<T>("anything", bytes).map(|value| encode(&value))
}

fn again_versioned<T: Versioned>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    versioned::decode::<T>(bytes).map(|value| versioned::encode(&value))
}

/// An entry of the log.
///
/// # Errors
/// It is none.
pub fn log_entry(bytes: &Bytes) -> Result<Bytes, DecodeError> {
    raft_types::decode_entry(bytes).map(|entry| raft_types::encode_entry(&entry))
}

/// The command an entry of the log carries, if it carries one.
///
/// # Errors
/// It is no entry.
pub fn command(bytes: &Bytes) -> Result<Option<Bytes>, DecodeError> {
    raft_types::decode_entry(bytes).map(|entry| match entry.payload {
        openraft::EntryPayload::Normal(command) => Some(command.0),
        _ => None,
    })
}

/// A leader's entries for a follower.
///
/// # Errors
/// It is no such request.
pub fn append_request(bytes: Bytes) -> Result<Bytes, DecodeError> {
    raft_wire::decode_append(bytes).map(|request| raft_wire::encode_append(&request))
}

/// Reads bytes as what they claim to be, and writes that.
pub type Again = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

/// Raft's other messages, and what the log and the meta group's checkpoint keep of them.
pub const RAFT_VALUES: [(&str, Again); 8] = [
    ("vote request", again::<VoteRequest<TypeConfig>>),
    ("vote answer", again::<VoteResponse<TypeConfig>>),
    ("append answer", again::<AppendEntriesResponse<TypeConfig>>),
    ("transfer request", again::<TransferLeaderRequest<TypeConfig>>),
    ("vote", again::<Vote>),
    ("log id", again::<Option<raft_types::LogId>>),
    ("membership", again::<StoredMembership>),
    ("meta checkpoint", again::<Checkpoint>),
];

/// What members send each other beside Raft's messages.
pub const MEMBER_VALUES: [(&str, Again); 5] = [
    ("snapshot offer", again_versioned::<bulk::Offer>),
    ("snapshot reply", again_versioned::<bulk::Reply>),
    ("meta call", again_versioned::<MetaCall>),
    ("meta reply", again_versioned::<MetaReply>),
    ("known members", again_versioned::<Known>),
];
