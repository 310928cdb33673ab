//! One way to cut a page: shared by memory and disk, so that both stop at the same entry.

use super::types::{Entry, PageLimits};

/// A page being filled.
#[derive(Debug)]
pub(crate) struct PageFill {
    limits: PageLimits,
    bytes: usize,
    pub(crate) entries: Vec<Entry>,
}

impl PageFill {
    pub(crate) fn new(limits: PageLimits) -> Self {
        Self { limits, bytes: 0, entries: Vec::new() }
    }

    /// Goes on where another page ended.
    pub(crate) fn after(limits: PageLimits, entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(|entry| entry.body.len()).sum();
        Self { limits, bytes, entries }
    }

    /// Whether an entry with a body this long still fits; the first always does.
    pub(crate) fn fits(&self, body_len: usize) -> bool {
        self.entries.is_empty()
            || self.entries.len() < self.limits.entries_max && self.bytes + body_len <= self.limits.bytes_max
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.body.len();
        self.entries.push(entry);
    }

    /// Takes what fits; whether something was left.
    pub(crate) fn extend<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) -> bool {
        for entry in entries {
            if !self.fits(entry.body.len()) {
                return true;
            }
            self.push(entry.clone());
        }
        false
    }
}
