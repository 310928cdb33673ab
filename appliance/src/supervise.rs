//! Supervision (C9): every long-lived task has a name and somebody who notices its end. An ordinary task that fails is
//! started again, ten times in a minute at most; a critical one (log writer, Raft cores, checkpoints) ends the process at
//! once, because nothing restarts those in place. Owns the tasks; the process's exit is the caller's.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Restarts of one task within [`RESTART_WINDOW`] after which the process gives up (C9).
const RESTARTS_MAX: usize = 10;

/// The window restarts are counted in.
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Before a restart: long enough not to spin, short enough not to be noticed.
const RESTART_AFTER: Duration = Duration::from_millis(50);

/// The node's tasks. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    stop: CancellationToken,
    /// What tasks need is being taken from under them, in order: their ends are no failures any more.
    leaving: AtomicBool,
    tasks: TaskTracker,
    fatal: watch::Sender<Option<String>>,
    restarts: AtomicU64,
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            stop: CancellationToken::new(),
            leaving: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            fatal: watch::Sender::new(None),
            restarts: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
        }))
    }

    /// Runs a task that is started again when it fails or panics. Ending with `Ok` ends it for good.
    pub fn spawn<F, Fut>(&self, name: impl Into<String>, mut make: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (name, inner) = (name.into(), self.0.clone());
        self.0.tasks.spawn(async move {
            let mut recent = VecDeque::new();
            loop {
                let Err(error) = guarded(make(inner.stop.clone())).await else { return };
                if inner.is_stopping() {
                    return;
                }
                let now = Instant::now();
                recent.push_back(now);
                while recent.front().is_some_and(|at| now.duration_since(*at) > RESTART_WINDOW) {
                    recent.pop_front();
                }
                if recent.len() > RESTARTS_MAX {
                    let window_s = RESTART_WINDOW.as_secs();
                    inner.end(format!("{name} failed {} times in {window_s} s, last: {error:#}", recent.len()));
                    return;
                }
                inner.restarts.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task = name, error = format!("{error:#}"), "a task failed; it is started again");
                tokio::select! {
                    () = inner.stop.cancelled() => return,
                    () = tokio::time::sleep(RESTART_AFTER) => {}
                }
            }
        });
    }

    /// Runs a task whose end, before the node stops, ends the process.
    pub fn spawn_critical<F, Fut>(&self, name: impl Into<String>, make: F)
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (name, inner) = (name.into(), self.0.clone());
        self.0.tasks.spawn(async move {
            let ended = guarded(make(inner.stop.clone())).await;
            if !inner.is_stopping() {
                let why = ended.err().map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"));
                inner.end(format!("{name}: {why}"));
            }
        });
    }

    /// Keeps a value alive as long as the tasks.
    pub fn keep<T: Send + 'static>(&self, value: T) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(value));
    }

    /// Resolves, with the reason, when the process must end.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.0.fatal.subscribe();
        let ended = fatal.wait_for(Option::is_some).await;
        ended.ok().and_then(|why| why.clone()).unwrap_or_else(|| "the supervisor ended".to_owned())
    }

    /// Cancelled when the node stops.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Restarts since the start.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
    }

    /// The node is leaving: a task that ends from now on is neither started again nor a reason to end the process. Those that
    /// go on do so until [`Self::shut_down`].
    pub fn expect_ends(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Stops every task and waits for them; `false` if some had not ended by the deadline.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tasks.close();
        tokio::time::timeout(deadline, self.0.tasks.wait()).await.is_ok()
    }
}

impl Inner {
    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled() || self.leaving.load(Ordering::Relaxed)
    }

    /// The first reason stays.
    fn end(&self, why: String) {
        self.fatal.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(why);
            first
        });
    }
}

/// A panic becomes an error like any other.
async fn guarded(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(anyhow::anyhow!("it panicked: {}", text.unwrap_or_else(|| "without a message".to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_started_again_until_it_is_too_often() {
        let supervisor = Supervisor::new();
        let starts = Arc::new(AtomicU64::new(0));
        let counted = starts.clone();
        supervisor.spawn("worker", move |_| {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(start.is_multiple_of(2), "odd starts panic");
                anyhow::bail!("even starts fail")
            }
        });
        let why = supervisor.fatal().await;
        assert!(why.starts_with("worker failed 11 times in 60 s"), "{why}");
        assert_eq!(starts.load(Ordering::Relaxed), 11);
        assert_eq!(supervisor.restarts(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_now_and_then_goes_on() {
        let supervisor = Supervisor::new();
        let starts = Arc::new(AtomicU64::new(0));
        let counted = starts.clone();
        supervisor.spawn("worker", move |_| {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(7)).await;
                anyhow::ensure!(start >= 40, "not yet");
                Ok(())
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(400), supervisor.fatal()).await;
        assert!(ended.is_err());
        assert_eq!(starts.load(Ordering::Relaxed), 41);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_critical_task_is_fatal_but_not_while_stopping() {
        let supervisor = Supervisor::new();
        supervisor.spawn_critical("log writer", |_| async { anyhow::bail!("no space left") });
        assert_eq!(supervisor.fatal().await, "log writer: no space left");
        let stopping = Supervisor::new();
        stopping.spawn_critical("core", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        assert!(stopping.shut_down(Duration::from_secs(1)).await);
        assert!(stopping.fatal().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_ends_while_the_node_leaves_is_no_failure() {
        let supervisor = Supervisor::new();
        let gone = CancellationToken::new();
        for name in ["membership", "balance"] {
            let gone = gone.clone();
            supervisor.spawn(name, move |_| gone.clone().cancelled_owned().map(|()| anyhow::bail!("channel closed")));
        }
        supervisor.spawn_critical("core", {
            let gone = gone.clone();
            |_| gone.cancelled_owned().map(|()| Ok(()))
        });
        supervisor.expect_ends();
        gone.cancel();
        supervisor.0.tasks.close();
        supervisor.0.tasks.wait().await;
        assert_eq!(supervisor.restarts(), 0);
        assert!(supervisor.fatal().now_or_never().is_none());
    }
}
