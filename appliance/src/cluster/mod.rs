//! The Raft groups of this node: meta and shards, their log, state machines, network and leaders. All that knows openraft is
//! in this folder. The store and the links meet here and nowhere else.

mod aloof;
mod batch;
mod batcher;
mod beginning;
mod breaker;
mod bulk;
mod check;
mod checkpointer;
#[cfg(test)]
mod conformance_tests;
mod controller;
mod durable;
#[cfg(test)]
mod formats_tests;
mod founding;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod handler;
mod inbound;
mod leadership;
mod log_store;
mod member;
mod membership;
pub mod meta;
mod meta_machine;
mod neighbours;
mod network;
mod partition;
mod partition_watch;
pub mod placement;
mod proposals;
mod purge;
mod raft_types;
mod raft_wire;
mod refused;
mod retention;
pub mod rpc;
mod shard_machine;
mod shard_service;
mod shards;
mod snapshots;
mod standing;
mod status;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod transport;
mod waiters;

pub use aloof::Aloof;
pub use batch::item_len;
pub use batcher::BatchCounters;
pub use check::check_store;
pub use group::{Leadership, ShardGroup};
pub use leadership::Leaderships;
pub use member::{DescribeSelf, Member, MemberOptions, RaftTiming};
pub use meta::MetaState;
pub use meta_machine::{MetaView, peek};
pub use neighbours::Members;
pub use partition_watch::Partitions;
pub use proposals::{MetaCall, Proposals, Undecided};
pub use refused::Refused;
pub use retention::RetentionSettings;
pub use rpc::{Method, RpcClients, RpcError};
pub use shard_service::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX};
pub use shards::Shards;
pub use standing::{QuarantinedPeers, Standing, StandingCall, healthy_without};
pub use transport::{Channel, MemberKeys, PeerTransport};
