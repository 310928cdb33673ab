//! The runtime of targets that need one: time is paused, so that a deadline passes as soon as nothing else can happen, and
//! nothing of the system is touched.

use std::future::Future;
use std::time::Duration;

/// Longer than any patience of the product: what takes longer never ends.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Runs `work` to its end.
pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(async { tokio::time::timeout(FOREVER, work).await.expect("it ends") })
}
