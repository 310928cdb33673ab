//! Looks for damage that nobody would meet otherwise before it matters (C12): reads the whole store and the whole log some minutes
//! after the start, and once a day from then on. What is found goes the way of all damage, through the watches over the two.

use std::sync::Arc;
use std::time::Duration;

use iris_store::{RaftLog, WarmStore};

use crate::blocking;
use crate::supervise::Supervisor;

/// Longest to wait after the start: not while a node catches up, and soon enough to be of use to one that restarts every day.
const FIRST_AFTER_MAX: Duration = Duration::from_secs(2 * 60);

/// Looks until the node stops, every so often.
pub(super) fn spawn(supervisor: &Supervisor, warm: Arc<dyn WarmStore>, log: RaftLog, every: Duration) {
    supervisor.spawn("scrub", move |stop| {
        let (warm, log) = (warm.clone(), log.clone());
        async move {
            let mut wait = every.min(FIRST_AFTER_MAX);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = every;
                // Damage is noted where it is found; what else went wrong is the disk's, and tried again the next time.
                let looked = warm.clone();
                if let Err(error) = blocking::run(move || looked.scrub()).await? {
                    tracing::warn!(%error, "the store could not be checked");
                }
                let looked = log.clone();
                if let Err(error) = blocking::run(move || looked.scrub()).await? {
                    tracing::warn!(%error, "the Raft log could not be checked");
                }
            }
        }
    });
}
