//! Carries one shard's submissions to its leader: one batch under way at a time, everything that came meanwhile is the next.
//! After a failure the same items go again, to whoever leads then; the leader's dedup makes that safe (A3), and that nothing
//! overtakes them keeps the order (A6).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Submission;
use super::leader::{Inner, Route};
use super::uplink_queue::UplinkQueue;

/// How long a leader's full disk is waited out before its messages are refused: meanwhile it gives its leadership to a node with
/// room, if there is one, and nobody notices.
const FULL_DISK_PATIENCE: Duration = Duration::from_secs(4);

/// Submissions taken off the channel at once.
const TAKE_MAX: usize = 4_096;

/// The task of one shard.
pub struct UplinkTask {
    router: Arc<Inner>,
    route: Arc<Route>,
    incoming: mpsc::Receiver<Submission>,
    queue: UplinkQueue,
}

impl UplinkTask {
    pub(super) fn new(router: Arc<Inner>, route: Arc<Route>, incoming: mpsc::Receiver<Submission>) -> Self {
        Self { router, route, incoming, queue: UplinkQueue::default() }
    }

    /// A name for the supervisor.
    #[must_use]
    pub fn name(&self) -> String {
        format!("uplink to shard {}", self.route.shard)
    }

    /// Runs until `stop`. What still waits then is not answered here: the sessions that asked are ending too, and their clients ask elsewhere.
    pub async fn run(&mut self, stop: &CancellationToken) {
        let mut taken = Vec::new();
        let mut misses = 0;
        let mut full_since: Option<Instant> = None;
        loop {
            if self.queue.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    count = self.incoming.recv_many(&mut taken, TAKE_MAX) => if count == 0 { return },
                }
            } else {
                while taken.len() < TAKE_MAX
                    && let Ok(submission) = self.incoming.try_recv()
                {
                    taken.push(submission);
                }
            }
            let now = Instant::now();
            let refused: usize = taken.drain(..).map(|submission| self.queue.push(submission, now)).sum();
            self.route.waiting_bytes.fetch_sub(refused, Ordering::Relaxed);
            if self.queue.is_empty() {
                continue;
            }
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.router.append_once(&self.route, self.queue.front()) => result,
            };
            let left = match result {
                Ok(outcomes) => {
                    (misses, full_since) = (0, None);
                    self.queue.complete(&outcomes)
                }
                Err(miss) => {
                    tracing::trace!(shard = %self.route.shard, %miss, "an append did not get through; it is sent again");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.router.wait_for_change(&self.route, misses) => {}
                    }
                    misses += 1;
                    let now = Instant::now();
                    // Another answer in between is that of a new leader, or of nobody: it may be about to change.
                    full_since = miss.is_full_disk().then(|| full_since.unwrap_or(now));
                    match full_since {
                        Some(since) if now - since >= FULL_DISK_PATIENCE => self.queue.refuse_for_room(now),
                        _ => self.queue.expire(now),
                    }
                }
            };
            self.route.waiting_bytes.fetch_sub(left, Ordering::Relaxed);
        }
    }
}
