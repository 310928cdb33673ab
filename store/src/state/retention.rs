//! What goes from a shard, and when (A8, A9): devices that were not seen for long, and entries that are old enough and that
//! every known device has received. Owns the leader's look at what is to go, which reads only, and how that is applied.
//!
//! Apply knows no time: the look names inbox, device and id, and apply does less where things have changed since. An inbox
//! without a known device keeps everything: somebody may come for the first time.

use iris_protocol::hlc::LOGICAL_BITS;
use iris_protocol::vnode::VNODES;
use iris_protocol::{DeviceId, EntryId, UserId, VnodeId};

use super::cursors::Candidate;
use super::types::{PageLimits, RetentionLook, RetentionTimes};
use super::{ShardStore, State};
use crate::StoreError;
use crate::command::{Item, Outcome};

/// Entries of one inbox that one item trims at most, and their bytes: the look reads them, and a checkpoint removes them.
const TRIM_LIMITS: PageLimits = PageLimits { entries_max: 1_024, bytes_max: 1024 * 1024 };

/// Entries that one look finds at most, over all inboxes: a tenth of a second's work for the disk.
const LOOK_ENTRIES_MAX: usize = 8_192;

/// Inboxes that one look goes into at most: after a restart every inbox with a device is gone into once.
const LOOK_INBOXES_MAX: usize = 256;

/// The first entry of an inbox: mostly it says that nothing is to go.
const FIRST_ENTRY: PageLimits = PageLimits { entries_max: 1, bytes_max: 1 };

/// Items of one look at most: a small command, so that messages don't wait behind it.
const LOOK_ITEMS_MAX: usize = 256;

impl RetentionTimes {
    /// At `now`: entries sent more than `keep_ms` ago may go, devices not seen for `device_expiry_ms` are forgotten.
    #[must_use]
    pub fn at(now_unix_ms: u64, keep_ms: u64, device_expiry_ms: u64) -> Self {
        let before =
            |ms: u64| EntryId(now_unix_ms.saturating_sub(ms).min(u64::MAX >> (LOGICAL_BITS + 1)) << LOGICAL_BITS);
        Self { trim_before: before(keep_ms), devices_before: before(device_expiry_ms) }
    }

    /// The last id that is old enough.
    pub(super) fn last_to_trim(self) -> EntryId {
        EntryId(self.trim_before.0.saturating_sub(1))
    }
}

impl State {
    pub(super) fn trim(&mut self, user: &str, up_to: EntryId, entries: u32) -> Outcome {
        let Some((user, lowest)) = self.cursors.lowest(user) else { return Outcome::Done };
        let up_to = up_to.min(lowest);
        if up_to > EntryId::ZERO {
            self.active.trim(&user, up_to);
            self.stats.entries_trimmed += u64::from(entries);
        }
        Outcome::Done
    }

    pub(super) fn expire_device(&mut self, user: &str, device: &str, before: EntryId) -> Outcome {
        if let Some((user, device)) = self.cursors.expire(user, device, before) {
            self.active.remove_device(&user, &device);
            self.stats.devices_expired += 1;
        }
        Outcome::Done
    }
}

impl ShardStore {
    /// Whether a device is known and was seen since. One that is not should be said to be there, so that entries wait for it.
    #[must_use]
    pub fn was_seen_since(&self, user: &UserId, device: &DeviceId, since: EntryId) -> bool {
        self.state().cursors.get(user.as_str(), device.as_str()).is_some_and(|known| known.seen >= since)
    }

    /// Whether a device is known.
    #[must_use]
    pub fn knows(&self, user: &UserId, device: &DeviceId) -> bool {
        self.state().cursors.get(user.as_str(), device.as_str()).is_some()
    }

    /// Looks, from a vnode on, for what is to go; what it finds is to be proposed as it is. Changes nothing that lasts. May
    /// block on the disk. An inbox that is found idle costs no further disk until its devices move or time comes.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub fn retention_look(&self, from: VnodeId, times: RetentionTimes) -> Result<RetentionLook, StoreError> {
        let mut items = Vec::new();
        let (mut entries, mut inboxes) = (0, 0);
        for vnode in (from.0..VNODES).map(VnodeId) {
            let candidates = self.state().cursors.candidates(vnode, times);
            for candidate in candidates {
                let enough = items.len() >= LOOK_ITEMS_MAX || entries >= LOOK_ENTRIES_MAX;
                if enough || inboxes >= LOOK_INBOXES_MAX {
                    // Those that were found idle are no candidates in the next one.
                    return Ok(RetentionLook { items, next: Some(vnode) });
                }
                let trim = self.look_into(&candidate, times)?;
                inboxes += 1;
                entries += trim.as_ref().map_or(0, |trim| trim.1 as usize);
                let Candidate { user, expired, .. } = candidate;
                let expire = expired.into_iter().map(|device| Item::Expire {
                    user: user.clone(),
                    device,
                    before: times.devices_before,
                });
                items.extend(expire);
                items.extend(trim.map(|(up_to, entries)| Item::Trim { user, up_to, entries }));
            }
            // What was found in this vnode may not be all there is: the next look begins here again.
            if !items.is_empty() {
                return Ok(RetentionLook { items, next: Some(vnode) });
            }
        }
        Ok(RetentionLook { items, next: None })
    }

    /// What is to go of one inbox: up to where, and how many entries.
    fn look_into(&self, candidate: &Candidate, times: RetentionTimes) -> Result<Option<(EntryId, u32)>, StoreError> {
        let Some(lowest) = candidate.lowest else { return Ok(None) };
        let last = lowest.min(times.last_to_trim());
        if candidate.first_entry > last {
            return Ok(None);
        }
        let after = EntryId(candidate.first_entry.0.saturating_sub(1));
        let mut page = self.read(&candidate.user, after, FIRST_ENTRY)?;
        if page.more && page.entries.first().is_some_and(|first| first.id <= last) {
            page = self.read(&candidate.user, after, TRIM_LIMITS)?;
        }
        let going = page.entries.partition_point(|entry| entry.id <= last);
        if let Some(entry) = going.checked_sub(1).and_then(|at| page.entries.get(at)) {
            return Ok(Some((entry.id, going as u32)));
        }
        // Nothing lies before the first entry there, or, in an empty inbox, before what comes next.
        let first = page.entries.first().map_or(EntryId(page.scanned_to.0 + 1), |entry| entry.id);
        self.state().cursors.begins_at(&candidate.user, first);
        Ok(None)
    }
}
