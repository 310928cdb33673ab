//! For tests of this crate and of those above it, behind the feature `testing`: a file system that loses what was not
//! fsynced, and the suite every warm store must pass.

mod conformance;
mod conformance_crash;
mod conformance_whole;
mod lossy_fs;

pub use conformance::warm_store_conforms;
pub use conformance_crash::{CRASH_CHILD, warm_store_crash_child, warm_store_survives_kills};
pub use lossy_fs::{Left, LossyFs};
