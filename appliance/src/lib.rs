//! The Iris node: everything that runs in the `iris` process. docs/ARCHITECTURE.md is the map.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod cluster;
pub mod routing;
pub mod supervise;
pub mod surroundings;
