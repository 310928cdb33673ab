//! Looks for damage that nothing else would notice (C12): some minutes after the start, and once a day from then on. What is found
//! goes the way of all damage, through the watch over the store.

use std::sync::Arc;
use std::time::Duration;

use iris_store::WarmStore;

use crate::blocking;
use crate::supervise::Supervisor;

/// After the start: not while a node catches up, and soon enough to be of use to one that restarts every day.
const FIRST_AFTER: Duration = Duration::from_secs(2 * 60);

/// Between two looks: bits flip rarely, and each look reads the whole store.
const EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Looks until the node stops.
pub(super) fn spawn(supervisor: &Supervisor, warm: Arc<dyn WarmStore>) {
    supervisor.spawn("scrub", move |stop| {
        let warm = warm.clone();
        async move {
            let mut wait = FIRST_AFTER;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = EVERY;
                let looked = warm.clone();
                // Damage is noted where it is found; what else went wrong is the disk's, and tried again tomorrow.
                if let Err(error) = blocking::run(move || looked.scrub()).await? {
                    tracing::warn!(%error, "the store could not be checked");
                }
            }
        }
    });
}
