//! How AppendEntries travels: a small header, then each entry as it lies in the log, so that commands are copied once into
//! the write buffer and not at all on arrival. The other Raft messages are plain versioned encodings.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use iris_protocol::versioned::DecodeError;
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize};

use super::raft_types::{LogId, TypeConfig, Vote, decode, decode_entry, encode, encode_entry};

const NAME: &str = "append request";

/// Entries in one request: openraft's `max_payload_entries` is far below.
const ENTRIES_MAX: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Header {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    entries: u32,
}

/// `header_len u32, header, then per entry: len u32, entry`.
pub(super) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let header = encode(&Header {
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
        entries: request.entries.len() as u32,
    });
    let entries: Vec<Bytes> = request.entries.iter().map(encode_entry).collect();
    let len = 4 + header.len() + entries.iter().map(|entry| 4 + entry.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(len);
    out.put_u32(header.len() as u32);
    out.put_slice(&header);
    for entry in entries {
        out.put_u32(entry.len() as u32);
        out.put_slice(&entry);
    }
    out.freeze()
}

/// Reads what [`encode_append`] wrote.
pub(super) fn decode_append(mut bytes: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let header: Header = decode(NAME, &take(&mut bytes)?)?;
    let count = header.entries as usize;
    if count > ENTRIES_MAX {
        return Err(DecodeError::Malformed {
            name: NAME,
            why: format!("{count} entries, at most {ENTRIES_MAX} are allowed"),
        });
    }
    let entries = (0..count).map(|_| decode_entry(&take(&mut bytes)?)).collect::<Result<Vec<_>, _>>()?;
    Ok(AppendEntriesRequest {
        vote: header.vote,
        prev_log_id: header.prev_log_id,
        leader_commit: header.leader_commit,
        entries,
    })
}

fn take(bytes: &mut Bytes) -> Result<Bytes, DecodeError> {
    let short = || DecodeError::Malformed { name: NAME, why: "it ends inside a field".to_owned() };
    if bytes.len() < 4 {
        return Err(short());
    }
    let len = bytes.get_u32() as usize;
    if bytes.len() < len {
        return Err(short());
    }
    Ok(bytes.split_to(len))
}
