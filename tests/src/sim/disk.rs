//! A node's disk: a folder in memory that outlives crashes, and for the log a file system whose fsyncs take time and which loses,
//! or tears, what was not synced when the power goes. The log's writer is a task of the host that takes a step, waits for the
//! fsync, and only then answers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use iris_appliance::surroundings::LogDisk;
use iris_store::testing::{Left, LossyFs};
use iris_store::{LogError, LogOptions, LogStepper, RaftLog, Step};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Duration;

/// How a machine goes down, for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Only the process: what was written is there.
    Nothing,
    /// What was not synced is gone.
    Unsynced,
    /// What was not synced is torn at any byte.
    Torn,
}

/// The disk of one node. Stays when the node goes.
pub struct Disk {
    folder: PathBuf,
    fs: Arc<LossyFs>,
    fsync_ms: Arc<AtomicU64>,
}

impl Disk {
    /// An empty one.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn new(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, fs: Arc::default(), fsync_ms: Arc::new(AtomicU64::new(4)) })
    }

    /// Where everything but the log's unsynced bytes is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// An fsync takes up to so long from now on.
    pub fn set_fsync_ms(&self, ms: u64) {
        self.fsync_ms.store(ms, Ordering::Relaxed);
    }

    /// A machine begins to use it.
    pub fn mount(&mut self, rng: StdRng) -> Mounted {
        self.fs = Arc::default();
        Mounted { fs: self.fs.clone(), fsync_ms: self.fsync_ms.clone(), rng, stepper: Mutex::default() }
    }

    /// The machine that used it goes down. To be called before its tasks end: what they still do then must not be kept.
    ///
    /// # Errors
    /// The real file system's.
    pub fn crash(&self, loss: Loss, rng: &mut StdRng) -> std::io::Result<()> {
        match loss {
            Loss::Nothing => self.fs.crash(Left::All),
            Loss::Unsynced => self.fs.crash(Left::Nothing),
            Loss::Torn => self.fs.crash(Left::Torn(&mut |len| rng.random_range(0..=len))),
        }
    }
}

/// The disk as one life of a machine sees it.
pub struct Mounted {
    fs: Arc<LossyFs>,
    fsync_ms: Arc<AtomicU64>,
    rng: StdRng,
    stepper: Mutex<Option<LogStepper>>,
}

impl LogDisk for Mounted {
    fn open(&self, options: LogOptions) -> Result<RaftLog, LogError> {
        let (log, stepper) = RaftLog::open_stepped(options, self.fs.clone())?;
        // What opening wrote, it synced; from here on an fsync takes its time.
        self.fs.defer_sync(true);
        *self.stepper.lock().unwrap_or_else(PoisonError::into_inner) = Some(stepper);
        Ok(log)
    }
}

impl Mounted {
    /// The log's writer, once it is open.
    pub fn writer(&self) -> Option<Writer> {
        let stepper = self.stepper.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Writer { stepper, fs: self.fs.clone(), fsync_ms: self.fsync_ms.clone(), rng: self.rng.clone() })
    }
}

/// Writes the log.
pub struct Writer {
    stepper: LogStepper,
    fs: Arc<LossyFs>,
    fsync_ms: Arc<AtomicU64>,
    rng: StdRng,
}

impl Writer {
    /// Runs until the log is closed.
    pub async fn run(mut self) {
        loop {
            match self.stepper.write() {
                Step::Ended => return,
                Step::Idle => self.stepper.news().await,
                Step::Wrote => {
                    let most_ms = self.fsync_ms.load(Ordering::Relaxed);
                    crate::wait::let_pass(Duration::from_millis(self.rng.random_range(0..=most_ms))).await;
                    if let Err(error) = self.fs.settle() {
                        tracing::error!(%error, "the world's own disk failed");
                        return;
                    }
                    // Giving files back is rewriting, syncing and then removing: names go at once here, so the sync must not wait.
                    self.fs.defer_sync(false);
                    let answered = self.stepper.answer();
                    self.fs.defer_sync(true);
                    if answered == Step::Ended {
                        return;
                    }
                }
            }
        }
    }
}
