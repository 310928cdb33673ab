//! What edges and shard leaders say to each other: versioned encodings. Appends travel as the store's own batch encoding, so
//! that bodies are sliced, not copied; pages as postcard.

use std::time::Duration;

use bytes::Bytes;
use iris_protocol::versioned::{DecodeError, Versioned, decode, encode};
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use iris_store::{Entry, Outcome};
use serde::{Deserialize, Serialize};

use super::{InboxPage, PageRequest};
use crate::cluster::Refused;

/// Asks for a page.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadCall {
    user: UserId,
    after: EntryId,
    entries_max: u32,
    wait_ms: u32,
    confirm: bool,
    device: Option<DeviceId>,
}

impl Versioned for ReadCall {
    const NAME: &'static str = "read call";
    const VERSION: u8 = 2;
}

impl ReadCall {
    /// The call for a request.
    #[must_use]
    pub fn new(user: &UserId, request: &PageRequest) -> Self {
        Self {
            user: user.clone(),
            after: request.after,
            entries_max: request.entries_max as u32,
            wait_ms: u32::try_from(request.wait.as_millis()).unwrap_or(u32::MAX),
            confirm: request.confirm,
            device: request.device.clone(),
        }
    }

    /// The user and the request.
    #[must_use]
    pub fn into_request(self) -> (UserId, PageRequest) {
        let request = PageRequest {
            after: self.after,
            entries_max: self.entries_max as usize,
            wait: Duration::from_millis(self.wait_ms.into()),
            confirm: self.confirm,
            device: self.device,
        };
        (self.user, request)
    }
}

/// Asks for a stored cursor.
#[derive(Debug, Serialize, Deserialize)]
pub struct CursorCall {
    /// Whose.
    pub user: UserId,
    /// Which device's.
    pub device: DeviceId,
}

impl Versioned for CursorCall {
    const NAME: &'static str = "cursor call";
    const VERSION: u8 = 1;
}

#[derive(Serialize, Deserialize)]
struct WireEntry {
    id: EntryId,
    sender: UserId,
    kind: u16,
    key: MessageKey,
    body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct WirePage {
    entries: Vec<WireEntry>,
    scanned_to: EntryId,
    live: bool,
}

/// An answer: what was asked for, or why not.
#[derive(Serialize, Deserialize)]
struct Answer<T>(Result<T, Refused>);

macro_rules! answer {
    ($inner:ty, $name:literal) => {
        impl Versioned for Answer<$inner> {
            const NAME: &'static str = $name;
            const VERSION: u8 = 1;
        }
    };
}
answer!(WirePage, "page");
answer!(EntryId, "cursor");
answer!(Vec<Outcome>, "append answer");

/// Encodes the answer to an append.
#[must_use]
pub fn encode_outcomes(answer: Result<Vec<Outcome>, Refused>) -> Bytes {
    encode(&Answer(answer)).into()
}

/// Reads the answer to an append.
///
/// # Errors
/// Not one.
pub fn decode_outcomes(bytes: &[u8]) -> Result<Result<Vec<Outcome>, Refused>, DecodeError> {
    decode::<Answer<Vec<Outcome>>>(bytes).map(|answer| answer.0)
}

/// Encodes the answer to a cursor call.
#[must_use]
pub fn encode_cursor(answer: Result<EntryId, Refused>) -> Bytes {
    encode(&Answer(answer)).into()
}

/// Reads the answer to a cursor call.
///
/// # Errors
/// Not one.
pub fn decode_cursor(bytes: &[u8]) -> Result<Result<EntryId, Refused>, DecodeError> {
    decode::<Answer<EntryId>>(bytes).map(|answer| answer.0)
}

/// Encodes the answer to a read.
#[must_use]
pub fn encode_page(answer: Result<InboxPage, Refused>) -> Bytes {
    let answer = answer.map(|page| WirePage {
        entries: page
            .entries
            .into_iter()
            .map(|Entry { id, sender, kind, key, body }| WireEntry { id, sender, kind, key, body })
            .collect(),
        scanned_to: page.scanned_to,
        live: page.live,
    });
    encode(&Answer(answer)).into()
}

/// Reads the answer to a read.
///
/// # Errors
/// Not one.
pub fn decode_page(bytes: &[u8]) -> Result<Result<InboxPage, Refused>, DecodeError> {
    Ok(decode::<Answer<WirePage>>(bytes)?.0.map(|page| InboxPage {
        entries: page
            .entries
            .into_iter()
            .map(|WireEntry { id, sender, kind, key, body }| Entry { id, sender, kind, key, body })
            .collect(),
        scanned_to: page.scanned_to,
        live: page.live,
    }))
}
