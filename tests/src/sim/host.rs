//! One machine of the world: a runtime with one thread and a clock that only the world moves. To crash it is to drop it, with
//! everything that runs on it, between two awaits.

use tokio::runtime::Runtime;
use tokio::time::Duration;

use super::time::HostTime;

/// A running machine.
pub struct Host {
    runtime: Runtime,
    time: HostTime,
    /// Until when it has lived.
    lived_to_ms: u64,
}

impl Host {
    /// Boots at a time of the world.
    ///
    /// # Errors
    /// The system has no room for another runtime.
    pub fn boot(now_ms: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let time = runtime.block_on(async { HostTime::beginning(now_ms) });
        Ok(Self { runtime, time, lived_to_ms: now_ms })
    }

    /// Its clock.
    pub fn time(&self) -> HostTime {
        self.time
    }

    /// Begins something on it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Lives until then.
    pub fn live(&mut self, to_ms: u64) {
        if to_ms <= self.lived_to_ms {
            return;
        }
        self.lived_to_ms = to_ms;
        let until = self.time.instant(to_ms);
        self.runtime.block_on(async move { tokio::time::sleep_until(until).await });
    }

    /// Wakes from having been stopped: for it, the time since is gone at once.
    pub fn skip(&mut self, to_ms: u64) {
        let gone = Duration::from_millis(to_ms.saturating_sub(self.lived_to_ms));
        self.lived_to_ms = to_ms;
        self.runtime.block_on(async move { tokio::time::advance(gone).await });
    }
}
