//! Retention of one shard (A8, A9): its leader looks now and then for entries that every device has received and that are
//! old enough, and for devices that were not seen for long, and proposes that they go. What is proposed names them, so that
//! apply needs no clock; an idle shard proposes nothing. One small command at a time, through the batcher like everything
//! else, so that messages never wait behind a heap of deletions.

use std::sync::Arc;
use std::time::Duration;

use iris_protocol::VnodeId;
use iris_store::{RetentionLook, RetentionTimes};
use tokio_util::sync::CancellationToken;

use super::group::ShardGroup;
use super::refused::Refused;
use crate::surroundings::Clock;

/// Parts of the shorter time between two looks: an entry stays a hundredth longer than it must.
const LOOKS_PER_TIME: u32 = 100;
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(600);

/// Between two commands: what is old can wait, what is sent now can't.
const PAUSE: Duration = Duration::from_millis(20);

/// Longest a command may take before the look is given up until the next.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(10);

/// Times of life, in days: a device's sign of life is written down once in this part of the time it may be silent.
const REFRESH_PART: u32 = 30;

/// How long things are kept. Each shard's leader goes by its own node's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Entries that every device has received are kept this long after they were sent.
    pub keep: Duration,
    /// A device that was not seen for so long no longer holds entries back.
    pub device_expiry: Duration,
}

impl RetentionSettings {
    /// A device last seen before this is to be said to be there.
    #[must_use]
    pub fn refresh_after(&self) -> Duration {
        self.device_expiry / REFRESH_PART
    }

    fn look_every(&self) -> Duration {
        (self.keep.min(self.device_expiry) / LOOKS_PER_TIME).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }

    fn times(&self, now_unix_ms: u64) -> RetentionTimes {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        RetentionTimes::at(now_unix_ms, ms(self.keep), ms(self.device_expiry))
    }
}

/// Runs until `stop`.
///
/// # Errors
/// The disk can't be read. What could not be proposed is looked for again later.
pub async fn run(
    group: ShardGroup,
    clock: Arc<dyn Clock>,
    settings: RetentionSettings,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(settings.look_every()) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            looked = look_through(&group, settings.times(clock.unix_ms())) => looked?,
        }
    }
}

/// One walk through the shard's vnodes.
async fn look_through(group: &ShardGroup, times: RetentionTimes) -> anyhow::Result<()> {
    let mut next = Some(VnodeId(0));
    while let Some(from) = next {
        if !group.leadership.borrow().ready {
            return Ok(());
        }
        let store = group.store.clone();
        let look: RetentionLook = crate::blocking::run(move || store.retention_look(from, times)).await??;
        next = look.next;
        if look.items.is_empty() {
            // A look goes into so many inboxes at most; what reads messages has the disk between two.
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        match tokio::time::timeout(PROPOSAL_DEADLINE, group.append(look.items)).await {
            Ok(Ok(_)) => tokio::time::sleep(PAUSE).await,
            // Another node leads now, or this one has no majority or no room: whoever leads then finds it again.
            Ok(Err(refused @ (Refused::NotLeader { .. } | Refused::Overloaded | Refused::DiskFull))) => {
                tracing::debug!(shard = %group.shard, %refused, "retention is put off");
                return Ok(());
            }
            Ok(Err(refused)) => {
                tracing::warn!(shard = %group.shard, %refused, "retention is put off");
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(keep_ms: u64, device_expiry_ms: u64) -> RetentionSettings {
        RetentionSettings {
            keep: Duration::from_millis(keep_ms),
            device_expiry: Duration::from_millis(device_expiry_ms),
        }
    }

    #[test]
    fn looks_fit_the_times() {
        const DAY_MS: u64 = 24 * 3_600_000;
        let default = settings(7 * DAY_MS, 30 * DAY_MS);
        assert_eq!((default.look_every(), default.refresh_after()), (LOOK_EVERY_MAX, Duration::from_secs(24 * 3600)));
        assert_eq!(settings(0, DAY_MS).look_every(), LOOK_EVERY_MIN);
        assert_eq!(settings(DAY_MS, 60_000).look_every(), Duration::from_millis(600));
        let times = settings(1_000, 5_000).times(10_000);
        assert_eq!((times.trim_before.unix_ms(), times.devices_before.unix_ms()), (9_000, 5_000));
    }
}
