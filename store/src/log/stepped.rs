//! A log whose writer is no thread but is stepped by its owner: a simulation decides when a write begins, how long its fsync
//! takes, and whether the power goes in between. The steps are the writer's own.

use std::sync::{Arc, Mutex};

use raft_engine::env::FileSystem;
use tokio::sync::watch;

use super::writer::{self, Written};
use super::{Handle, LogError, LogOptions, RaftLog, Shared};

/// Writes when told to. Keeps the log's files open as long as it lives.
pub struct LogStepper {
    shared: Arc<Shared>,
    closing: watch::Sender<Option<Option<LogError>>>,
    written: Option<Written>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing waited.
    Idle,
    /// Something was written; [`LogStepper::answer`] is to follow.
    Wrote,
    /// The log is closed, or failed: nothing will be written any more.
    Ended,
}

impl RaftLog {
    /// Opens or creates a log that is written to only by the stepper.
    ///
    /// # Errors
    /// As [`RaftLog::open`].
    pub fn open_stepped<F: FileSystem + 'static>(
        options: LogOptions,
        fs: Arc<F>,
    ) -> Result<(Self, LogStepper), LogError> {
        let shared = Self::share(&options, fs)?;
        let (closing, closed) = watch::channel(None);
        let stepper = LogStepper { shared: shared.clone(), closing, written: None };
        Ok((Self { handle: Arc::new(Handle { shared, closed, writer: Mutex::new(None) }) }, stepper))
    }
}

impl LogStepper {
    /// Resolves when there may be something to write.
    pub async fn news(&mut self) {
        self.shared.queue.news.notified().await;
    }

    /// Writes and syncs everything that waits. Nobody is told yet.
    pub fn write(&mut self) -> Step {
        let Some(ops) = self.shared.queue.take_now() else {
            self.closing.send_replace(Some(None));
            return Step::Ended;
        };
        if ops.is_empty() {
            return Step::Idle;
        }
        match writer::write_all(&self.shared, ops) {
            Ok(written) => {
                self.written = Some(written);
                Step::Wrote
            }
            Err(error) => self.fail(error),
        }
    }

    /// Tells those who wait for what was written.
    pub fn answer(&mut self) -> Step {
        let Some(written) = self.written.take() else { return Step::Idle };
        match writer::answer_all(&self.shared, written) {
            Ok(()) => Step::Wrote,
            Err(error) => self.fail(error),
        }
    }

    fn fail(&self, error: LogError) -> Step {
        self.closing.send_replace(Some(Some(error)));
        Step::Ended
    }
}
