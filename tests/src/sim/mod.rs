//! A whole cluster in one thread and virtual time: the product's own store, Raft groups, router and sessions, over a network, disks
//! and clocks that a schedule of faults breaks. Everything in it comes from a seed, so that a run that breaks a promise can be
//! run again (docs/decisions/0015).
//!
//! A plan is drawn (`plan`), a world is made from it (`world`), its faults happen while clients write and read (`client`), and
//! what must hold is looked at all the while and judged at the end (`invariants`, one promise a file).

pub mod book;
pub mod client;
pub mod disk;
pub mod fleet;
pub mod host;
pub mod invariants;
pub mod net;
pub mod node;
pub mod plan;
pub mod run;
pub mod time;
pub mod trace;
pub mod world;

pub use plan::Plan;
pub use run::{Report, run};
