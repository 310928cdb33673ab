//! The types openraft is made of here, and their encodings. With the rest of this folder it is all that knows openraft, so
//! that a change of its API touches one place.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use iris_protocol::NodeId;
use iris_protocol::versioned::DecodeError;
use iris_store::Outcome;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::meta::MetaOutcome;

/// Tasks, timers, channels and random numbers of the Raft groups.
pub type Runtime = openraft::impls::TokioRuntime;

openraft::declare_raft_types!(
    /// One configuration for the meta group and the shards: they differ in their state machines.
    pub TypeConfig:
        D = Command,
        R = Applied,
        NodeId = NodeId,
        // Where a member is reached is the links' business, so Raft needs no more than its id.
        Node = (),
        AsyncRuntime = Runtime
);

pub(crate) use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};

/// A log id of any of our groups.
pub type LogId = LogIdOf<TypeConfig>;
/// A vote of any of our groups.
pub type Vote = VoteOf<TypeConfig>;
/// An entry of any of our groups.
pub type Entry = EntryOf<TypeConfig>;
/// A membership and where it stands in the log.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;

/// What a log entry carries: an encoded command. It stays bytes until it is applied, so that replicating it copies no message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// A blank or a membership entry.
    Nothing,
    /// One outcome for each item of a shard's batch.
    Shard(Vec<Outcome>),
    /// What a change of the meta state came to.
    Meta(MetaOutcome),
}

/// Version of every encoding in this file.
const VERSION: u8 = 1;

/// A versioned encoding of one of openraft's own types (votes, log ids, memberships).
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("openraft's types are plain data")
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(name: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = decode_prefix(name, bytes)?;
    if rest != 0 {
        return Err(DecodeError::Malformed { name, why: format!("{rest} bytes left over") });
    }
    Ok(value)
}

/// Reads what [`encode`] wrote from the front; the number of bytes behind it.
fn decode_prefix<T: DeserializeOwned>(name: &'static str, bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    let (&version, rest) = bytes.split_first().ok_or(DecodeError::Empty { name })?;
    if version != VERSION {
        return Err(DecodeError::Version { name, found: version, known: VERSION });
    }
    let (value, rest) =
        postcard::take_from_bytes(rest).map_err(|error| DecodeError::Malformed { name, why: error.to_string() })?;
    Ok((value, rest.len()))
}

/// An entry without its command's bytes, which follow it.
#[derive(Serialize, Deserialize)]
struct EntryHeader {
    log_id: LogId,
    payload: PayloadHeader,
}

#[derive(Serialize, Deserialize)]
enum PayloadHeader {
    Blank,
    Normal,
    Membership(openraft::Membership<NodeId, ()>),
}

/// Room for a header: a log id and a tag; a membership makes the buffer grow.
const HEADER_LEN_USUAL: usize = 48;

/// An entry as it lies in the log and travels to followers: version, header, the command as it is.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let command: &[u8] = match &entry.payload {
        openraft::EntryPayload::Normal(command) => &command.0,
        _ => &[],
    };
    let mut out = BytesMut::with_capacity(HEADER_LEN_USUAL + command.len());
    let header = EntryHeader {
        log_id: entry.log_id,
        payload: match &entry.payload {
            openraft::EntryPayload::Blank => PayloadHeader::Blank,
            openraft::EntryPayload::Normal(_) => PayloadHeader::Normal,
            openraft::EntryPayload::Membership(membership) => PayloadHeader::Membership(membership.clone()),
        },
    };
    out.put_slice(&encode(&header));
    out.put_slice(command);
    out.freeze()
}

/// Reads what [`encode_entry`] wrote; the command is a slice of `bytes`.
pub(crate) fn decode_entry(bytes: &Bytes) -> Result<Entry, DecodeError> {
    const NAME: &str = "log entry";
    let (header, rest_len): (EntryHeader, usize) = decode_prefix(NAME, bytes)?;
    let rest = bytes.slice(bytes.len() - rest_len..);
    let payload = match header.payload {
        PayloadHeader::Normal => openraft::EntryPayload::Normal(Command(rest)),
        _ if rest_len != 0 => {
            return Err(DecodeError::Malformed { name: NAME, why: format!("{rest_len} bytes left over") });
        }
        PayloadHeader::Blank => openraft::EntryPayload::Blank,
        PayloadHeader::Membership(membership) => openraft::EntryPayload::Membership(membership),
    };
    Ok(Entry { log_id: header.log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::vote::RaftLeaderId;
    use openraft::vote::leader_id_adv::LeaderId;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, NodeId(3)).to_committed(), index)
    }

    #[test]
    fn entries_read_back_and_share_their_commands_bytes() {
        let members = openraft::Membership::new(
            vec![[NodeId(1), NodeId(2)].into()],
            std::collections::BTreeMap::from([(NodeId(1), ()), (NodeId(2), ())]),
        );
        for payload in [
            openraft::EntryPayload::Blank,
            openraft::EntryPayload::Normal(Command(Bytes::from_static(b"hello"))),
            openraft::EntryPayload::Membership(members.unwrap()),
        ] {
            let entry = Entry { log_id: log_id(7, 9), payload };
            let bytes = encode_entry(&entry);
            let again = decode_entry(&bytes).unwrap();
            assert_eq!(again.log_id, entry.log_id);
            assert_eq!(again.payload, entry.payload);
            if let openraft::EntryPayload::Normal(command) = &again.payload {
                assert!(bytes.as_ptr_range().contains(&command.0.as_ptr()));
            }
        }
    }

    #[test]
    fn broken_entries_are_errors() {
        assert!(decode_entry(&Bytes::new()).is_err());
        assert!(decode_entry(&Bytes::from_static(&[9, 9, 9])).is_err());
        let blank = encode_entry(&Entry { log_id: log_id(1, 1), payload: openraft::EntryPayload::Blank });
        let longer: Bytes = [&blank[..], b"x"].concat().into();
        assert!(decode_entry(&longer).is_err());
        assert!(decode_entry(&blank.slice(..blank.len() - 1)).is_err());
    }
}
