//! A layer of the hot tier: what changed since a checkpoint began. New entries, devices that moved, came or went, and what was
//! trimmed. Counts its bytes; doesn't know when it is written.

use std::collections::HashMap;

use iris_protocol::vnode::vnode_of;
use iris_protocol::{DeviceId, EntryId, UserId};

use super::hash::FastHash;
use super::types::Entry;
use crate::warm::{CursorRow, InboxChange, Trim};

/// Memory of an entry beside its body: the struct, growth of the vector, and its share of the command's buffer (names and
/// head), which lives as long as the body.
const ENTRY_OVERHEAD: usize = 160;
/// Memory of its dedup key, which stays until it is written even where the entry is trimmed.
const KEY_OVERHEAD: usize = 48;
/// Memory of an inbox without entries: the struct, its place in the map, a name.
const INBOX_OVERHEAD: usize = 192;
/// Memory of a device that changed, or of a trim.
const CHANGE_OVERHEAD: usize = 160;

#[derive(Debug, Default)]
pub(super) struct Layer {
    index: HashMap<UserId, u32, FastHash>,
    inboxes: Vec<Inbox>,
    devices: HashMap<UserId, Vec<DeviceChange>, FastHash>,
    trims: HashMap<UserId, EntryId, FastHash>,
    bytes: usize,
    entries_len: usize,
}

/// New entries of one user, ascending.
#[derive(Debug)]
struct Inbox {
    user: UserId,
    entries: Vec<Entry>,
    /// The last log index that appended here; names each touched user once per command.
    touched_by: Option<u64>,
}

/// What became of a device.
#[derive(Debug)]
struct DeviceChange {
    device: DeviceId,
    /// It was made unknown; if it has a row as well, it came back after that.
    removed: bool,
    /// Where it stands, and when it was seen.
    row: Option<(EntryId, EntryId)>,
}

impl Layer {
    /// The place of a user's inbox, if it has one here.
    pub(super) fn find(&self, user: &str) -> Option<u32> {
        self.index.get(user).copied()
    }

    pub(super) fn create(&mut self, user: UserId) -> u32 {
        let place = u32::try_from(self.inboxes.len()).expect("a layer is bounded to far less than 2^32 inboxes");
        self.inboxes.push(Inbox { user: user.clone(), entries: Vec::new(), touched_by: None });
        self.index.insert(user, place);
        self.bytes += INBOX_OVERHEAD;
        place
    }

    /// Appends; the user's name if this command hadn't touched the inbox yet.
    pub(super) fn push(&mut self, place: u32, entry: Entry, log_index: u64) -> Option<UserId> {
        self.bytes += entry.body.len() + ENTRY_OVERHEAD + KEY_OVERHEAD;
        self.entries_len += 1;
        let inbox = &mut self.inboxes[place as usize];
        inbox.entries.push(entry);
        (inbox.touched_by.replace(log_index) != Some(log_index)).then(|| inbox.user.clone())
    }

    /// A device stands here now.
    pub(super) fn set_device(&mut self, user: &UserId, device: &DeviceId, cursor: EntryId, seen: EntryId) {
        self.change(user, device).row = Some((cursor, seen));
    }

    /// A device is no longer known.
    pub(super) fn remove_device(&mut self, user: &UserId, device: &DeviceId) {
        let change = self.change(user, device);
        (change.removed, change.row) = (true, None);
    }

    fn change(&mut self, user: &UserId, device: &DeviceId) -> &mut DeviceChange {
        let changes = self.devices.entry(user.clone()).or_default();
        let at = changes.iter().position(|change| change.device == *device).unwrap_or_else(|| {
            changes.push(DeviceChange { device: device.clone(), removed: false, row: None });
            self.bytes += CHANGE_OVERHEAD;
            changes.len() - 1
        });
        &mut changes[at]
    }

    /// Lets entries up to `up_to` go, here and in the checkpoint to come.
    pub(super) fn trim(&mut self, user: &UserId, up_to: EntryId) {
        if let Some(&place) = self.index.get(user) {
            let entries = &mut self.inboxes[place as usize].entries;
            let gone = entries.drain(..entries.partition_point(|entry| entry.id <= up_to));
            for entry in gone {
                self.bytes -= entry.body.len() + ENTRY_OVERHEAD;
                self.entries_len -= 1;
            }
        }
        let bytes = &mut self.bytes;
        let trimmed = self.trims.entry(user.clone()).or_insert_with(|| {
            *bytes += CHANGE_OVERHEAD;
            EntryId::ZERO
        });
        *trimmed = up_to.max(*trimmed);
    }

    /// What was trimmed of an inbox here; zero if nothing was.
    pub(super) fn trimmed(&self, user: &UserId) -> EntryId {
        if self.trims.is_empty() { EntryId::ZERO } else { self.trims.get(user).copied().unwrap_or_default() }
    }

    pub(super) fn entries_after(&self, user: &UserId, after: EntryId) -> &[Entry] {
        let Some(&place) = self.index.get(user) else { return &[] };
        let entries = &self.inboxes[place as usize].entries;
        &entries[entries.partition_point(|entry| entry.id <= after)..]
    }

    /// Inboxes with new entries, in the order of the warm tier.
    pub(super) fn inboxes(&self) -> Vec<InboxChange<'_>> {
        let grown = self.inboxes.iter().filter(|inbox| !inbox.entries.is_empty());
        let mut inboxes: Vec<_> = grown
            .map(|inbox| InboxChange { vnode: vnode_of(&inbox.user), user: &inbox.user, entries: &inbox.entries })
            .collect();
        inboxes.sort_unstable_by(|a, b| (a.vnode, a.user).cmp(&(b.vnode, b.user)));
        inboxes
    }

    /// What was trimmed, in the same order.
    pub(super) fn trims(&self) -> Vec<Trim> {
        let trim =
            |(user, up_to): (&UserId, &EntryId)| Trim { vnode: vnode_of(user), user: user.clone(), up_to: *up_to };
        let mut trims: Vec<_> = self.trims.iter().map(trim).collect();
        trims.sort_unstable_by(|a, b| (a.vnode, &a.user).cmp(&(b.vnode, &b.user)));
        trims
    }

    /// Devices that stand somewhere else, in order of their names: a checkpoint writes the same bytes on every replica.
    pub(super) fn cursors(&self) -> Vec<CursorRow> {
        let mut rows: Vec<_> = self
            .devices
            .iter()
            .flat_map(|(user, changes)| changes.iter().map(move |change| (user, change)))
            .filter_map(|(user, change)| {
                let (cursor, seen) = change.row?;
                Some(CursorRow { user: user.clone(), device: change.device.clone(), cursor, seen })
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Devices that were made unknown, even if they came back since: their old rows go.
    pub(super) fn cursors_removed(&self) -> Vec<(UserId, DeviceId)> {
        let changes = self.devices.iter().flat_map(|(user, changes)| changes.iter().map(move |change| (user, change)));
        let removed = changes.filter(|(_, change)| change.removed);
        let mut names: Vec<_> = removed.map(|(user, change)| (user.clone(), change.device.clone())).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn entries_len(&self) -> usize {
        self.entries_len
    }
}
