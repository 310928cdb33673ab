//! How far a group's log is on this node's disk. Nothing is applied before its entry is durable here: openraft may commit
//! an entry on other nodes' word before this disk has it, and after a power cut a checkpoint ahead of its own log would
//! hold entries that this node promised nobody to have.

use std::io;

use tokio::sync::watch;

/// Told of every flush, by the log.
pub struct DurableMark(watch::Sender<u64>);

/// Waited for, by apply.
#[derive(Clone)]
pub struct Durable(watch::Receiver<u64>);

/// A mark at `index`, and what waits for it.
#[must_use]
pub fn durable(index: u64) -> (DurableMark, Durable) {
    let (sender, receiver) = watch::channel(index);
    (DurableMark(sender), Durable(receiver))
}

impl DurableMark {
    /// Everything up to `index` is on disk.
    pub fn flushed(&self, index: u64) {
        self.0.send_if_modified(|now| std::mem::replace(now, index.max(*now)) < index);
    }

    /// Everything behind `index` is gone; what is written there next is not on disk yet.
    pub fn truncated(&self, index: u64) {
        self.0.send_modify(|now| *now = index.min(*now));
    }
}

impl Durable {
    /// Waits until `index` is on disk.
    ///
    /// # Errors
    /// The log is closed.
    pub async fn reached(&mut self, index: u64) -> io::Result<()> {
        self.0.wait_for(|now| *now >= index).await.map(drop).map_err(|_| io::Error::other("the log is closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn waits_for_the_flush_and_forgets_what_was_cut_off() {
        let (mark, mut log) = durable(3);
        assert!(log.reached(3).now_or_never().is_some());
        assert!(log.reached(4).now_or_never().is_none());
        mark.flushed(6);
        assert!(log.reached(6).now_or_never().is_some());
        mark.truncated(4);
        assert!(log.reached(5).now_or_never().is_none());
        mark.flushed(5);
        assert!(log.reached(5).now_or_never().is_some());
        drop(mark);
        assert!(log.reached(9).await.is_err());
    }
}
