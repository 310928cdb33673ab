//! What Iris speaks and stores, as types: ids, limits, the hybrid logical clock, the wire frames of `iris/2`, and versioned
//! encodings. No I/O, no clock, no async: everything here is a function of bytes. The wire format is specified in
//! docs/protocol.md; where the two differ, the document is right.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod admin;
pub mod frame;
pub mod hlc;
pub mod ids;
pub mod limits;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod versioned;
pub mod vnode;

pub use hlc::HybridClock;
pub use ids::{DeviceId, EntryId, MessageKey, NameError, NodeId, ShardId, UserId, VnodeId};
