//! Measurements for docs/performance.md: acknowledged messages a second and the time to an ack, each beside floors measured
//! in the same run on the same disk, so that ratios mean something on any machine. Beside them, a link between nodes under bulk.

pub mod failover;
pub mod floors;
pub mod hot_inbox;
pub mod latency;
pub mod links;
pub mod load;
pub mod report;
pub mod restart;
