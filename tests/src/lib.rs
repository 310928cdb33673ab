//! What the integration tests, the demo and the benchmarks share: a harness of real node processes, an oracle outside the
//! cluster that remembers every ack, seeded workloads, and one way to wait. Owns no product code and nothing of the product
//! depends on it.
//!
//! The rule of faults.md that everything here serves: a `committed` key is readable with its hash, in order, once; a write
//! without an answer is "unknown", never "absent".

pub mod bench;
pub mod binaries;
pub mod cluster;
pub mod command;
pub mod config_file;
pub mod corpus;
pub mod faults;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod hot_inbox;
pub mod link_process;
pub mod lossy_disk;
pub mod netns;
pub mod node_process;
pub mod oracle;
pub mod place;
pub mod ports;
pub mod raw;
pub mod replicas;
pub mod scenario;
pub mod seed;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod traffic;
pub mod verify;
pub mod wait;
pub mod workload;
