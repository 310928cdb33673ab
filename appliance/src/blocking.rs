//! Work that blocks on the disk, off the threads that have heartbeats to send. Everything of that kind goes through here, so that
//! a simulation, which has one thread, can run it in place: between two awaits, where no other task sees half of it.

use std::io;

/// The work did not come to its end: it panicked, or the runtime went away under it.
#[derive(Debug, thiserror::Error)]
#[error("work on the disk ended early: {0}")]
pub struct Broken(#[from] tokio::task::JoinError);

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        Self::other(broken)
    }
}

/// Runs blocking work and waits for it. It goes on to its end even where nobody waits for it any more.
///
/// # Errors
/// It panicked, or the runtime went away.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Broken> {
    #[cfg(feature = "simulation")]
    if let Some(times) = inline::times() {
        tokio::time::sleep(times.before).await;
        let done = work();
        tokio::time::sleep(times.after).await;
        return Ok(done);
    }
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(feature = "simulation")]
pub use inline::{Times, in_place};

/// Blocking work in a simulation.
#[cfg(feature = "simulation")]
mod inline {
    use std::cell::Cell;
    use std::time::Duration;

    /// How long one piece of work takes in virtual time, around the moment in which it happens.
    #[derive(Debug, Clone, Copy)]
    pub struct Times {
        /// Before.
        pub before: Duration,
        /// After: a crash here leaves something on disk that nobody was told of.
        pub after: Duration,
    }

    thread_local! {
        static DRAW: Cell<Option<fn() -> Times>> = const { Cell::new(None) };
    }

    /// From now on blocking work of this thread is done in place, and takes as long as `draw` says.
    pub fn in_place(draw: fn() -> Times) {
        DRAW.set(Some(draw));
    }

    pub(super) fn times() -> Option<Times> {
        DRAW.get().map(|draw| draw())
    }
}
