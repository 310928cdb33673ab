//! How fast a test's senders send together, so that faults fall into the middle of traffic on every machine.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

/// Between two grants.
const TICK: Duration = Duration::from_millis(10);

/// A steady flow of permissions to send one message, shared by all senders of a test. Ends with its last user.
#[derive(Debug)]
pub struct Pace {
    permits: Arc<Semaphore>,
    until: watch::Sender<usize>,
    task: AbortHandle,
}

impl Pace {
    /// `per_s` permissions a second, without end.
    #[must_use]
    pub fn steady(per_s: u32) -> Arc<Self> {
        Self::up_to(per_s, usize::MAX)
    }

    /// `per_s` permissions a second, until there were `until` of them: see [`Self::raise`].
    #[must_use]
    pub fn up_to(per_s: u32, until: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(0));
        let until = watch::Sender::new(until);
        let task = tokio::spawn(grant(permits.clone(), until.subscribe(), per_s.max(1))).abort_handle();
        Arc::new(Self { permits, until, task })
    }

    /// Moves the end.
    pub fn raise(&self, until: usize) {
        self.until.send_replace(until);
    }

    /// Waits for the permission to send one more.
    pub async fn next(&self) {
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn grant(permits: Arc<Semaphore>, until: watch::Receiver<usize>, per_s: u32) {
    let per_tick = f64::from(per_s) * TICK.as_secs_f64();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut due, mut granted) = (0.0, 0usize);
    loop {
        ticks.tick().await;
        due += per_tick;
        // Unused permissions of more than a second are not saved up: senders that stood still go on at their pace.
        let room = (per_s as usize).saturating_sub(permits.available_permits());
        let more = (due as usize).min(room).min(until.borrow().saturating_sub(granted));
        due -= due.trunc();
        permits.add_permits(more);
        granted += more;
    }
}
