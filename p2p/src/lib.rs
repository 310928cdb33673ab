//! Links between Iris nodes.
//!
//! Owns who this node is ([`Identity`]), whom it lets in (the member gate), the one connection it keeps with every
//! member (discovery, address book, dialling, heartbeats, redialling) and the streams opened on it ([`PeerStream`]). Knows no message, no Raft
//! type and no frame of either: what a stream carries is its two owners' business, and no byte of it passes through the
//! loop that keeps the links.
//!
//! Invariants:
//! - no connection to or from a key outside the member set survives its handshake;
//! - a peer is *up* only while a heartbeat is answered on the very connection that new streams use;
//! - discovery never admits: it adds places to look for members, and nothing else;
//! - the lower of two keys decides which connection the pair keeps, so the two can't settle on different ones;
//! - a stream that `open` returned was accepted into the other side's [`Inbound`] queue;
//! - every queue is bounded and every wait has a deadline.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod addr;
mod address_book;
mod addressing;
mod backoff;
mod behaviour;
mod config;
mod dial;
mod discovery;
#[cfg(test)]
mod formats_tests;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod heard;
mod heartbeat;
mod hello;
mod identity;
mod inbound;
mod key;
mod links;
mod listen;
mod muxer;
mod node_behaviour;
mod peer;
mod resolve;
mod states;
mod stream;
mod task;
mod transport;

pub use addr::{ParseAddrError, PeerAddr};
pub use address_book::{AddressBook, KnownAddr, Source};
pub use config::LinkConfig;
pub use identity::{Identity, IdentityError};
pub use inbound::Inbound;
pub use key::{ParseKeyError, PeerKey};
pub use links::{Links, Member, OpenError, StartError};
pub use states::{DownCause, PeerState, PeerStates};
pub use stream::{PeerStream, StreamKind};
pub use task::{LinksError, LinksTask};
