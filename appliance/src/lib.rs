//! The Iris node: everything that runs in the `iris` process. docs/ARCHITECTURE.md is the map.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod admin;
pub mod admission;
pub mod auth;
pub mod blocking;
pub mod calendar;
pub mod cluster;
pub mod config;
pub mod disk;
pub mod edge;
#[cfg(test)]
mod formats_tests;
pub mod node;
pub mod quarantine;
pub mod routing;
pub mod supervise;
pub mod surroundings;
pub mod system;
mod versioned_file;
pub mod welcome;
