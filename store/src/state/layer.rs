//! A layer of the hot tier: inboxes and cursor moves since a checkpoint began. Counts its bytes; doesn't know when it is
//! written.

use std::collections::HashMap;

use iris_protocol::{DeviceId, EntryId, UserId};

use super::cursors::Cursors;
use super::hash::FastHash;
use super::types::Entry;

/// Memory of an entry beside its body: the struct, its digest, growth of the vector, and its share of the command's buffer
/// (names and head), which lives as long as the body.
const ENTRY_OVERHEAD: usize = 208;
/// Memory of an inbox without entries: the struct, its place in the map, a name.
const INBOX_OVERHEAD: usize = 192;
/// Memory of a moved cursor.
const CURSOR_OVERHEAD: usize = 160;

#[derive(Debug, Default)]
pub(super) struct Layer {
    index: HashMap<UserId, u32, FastHash>,
    inboxes: Vec<Inbox>,
    pub(super) cursors: Cursors,
    bytes: usize,
    entries_len: usize,
}

/// New entries of one user, ascending, each with the digest that dedup compares.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) user: UserId,
    pub(super) entries: Vec<Entry>,
    pub(super) digests: Vec<u64>,
    /// The last log index that appended here; names each touched user once per command.
    touched_by: Option<u64>,
}

impl Layer {
    /// The place of a user's inbox, if it has one here.
    pub(super) fn find(&self, user: &str) -> Option<u32> {
        self.index.get(user).copied()
    }

    pub(super) fn create(&mut self, user: UserId) -> u32 {
        let place = u32::try_from(self.inboxes.len()).expect("a layer is bounded to far less than 2^32 inboxes");
        self.inboxes.push(Inbox { user: user.clone(), entries: Vec::new(), digests: Vec::new(), touched_by: None });
        self.index.insert(user, place);
        self.bytes += INBOX_OVERHEAD;
        place
    }

    /// Appends; the user's name if this command hadn't touched the inbox yet.
    pub(super) fn push(&mut self, place: u32, entry: Entry, digest: u64, log_index: u64) -> Option<UserId> {
        self.bytes += entry.body.len() + ENTRY_OVERHEAD;
        self.entries_len += 1;
        let inbox = &mut self.inboxes[place as usize];
        inbox.entries.push(entry);
        inbox.digests.push(digest);
        (inbox.touched_by.replace(log_index) != Some(log_index)).then(|| inbox.user.clone())
    }

    pub(super) fn move_cursor(&mut self, user: &UserId, device: &DeviceId, cursor: EntryId) {
        if self.cursors.raise(user, device, cursor) {
            self.bytes += CURSOR_OVERHEAD;
        }
    }

    pub(super) fn entries_after(&self, user: &UserId, after: EntryId) -> &[Entry] {
        let Some(&place) = self.index.get(user) else { return &[] };
        let entries = &self.inboxes[place as usize].entries;
        &entries[entries.partition_point(|entry| entry.id <= after)..]
    }

    pub(super) fn inboxes(&self) -> impl Iterator<Item = &Inbox> {
        self.inboxes.iter()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn entries_len(&self) -> usize {
        self.entries_len
    }
}
