//! Roughly how many bytes of a group's log lie behind an index: a mark for every so many bytes, not a number for every entry.
//! What was there before the process started is not counted, so up to as much again may be kept after a restart.

use std::collections::VecDeque;

/// Bytes between two marks: how exactly a purge can be asked for. A gigabyte of log has 16,000 marks of 16 bytes.
const MARK_BYTES: u64 = 64 * 1024;

#[derive(Default)]
pub(super) struct Weight {
    /// Ascending: an index, and the bytes from the mark before it up to there.
    marks: VecDeque<(u64, u64)>,
    /// Bytes behind the last mark.
    open: u64,
}

impl Weight {
    /// Entries up to `last` came, of so many bytes.
    pub(super) fn appended(&mut self, last: u64, bytes: u64) {
        self.open += bytes;
        if self.open >= MARK_BYTES {
            self.marks.push_back((last, std::mem::take(&mut self.open)));
        }
    }

    /// Everything up to `index` is gone.
    pub(super) fn purged(&mut self, index: u64) {
        while self.marks.front().is_some_and(|(mark, _)| *mark <= index) {
            self.marks.pop_front();
        }
    }

    /// Everything from `first` on is gone.
    pub(super) fn truncated(&mut self, first: u64) {
        while self.marks.back().is_some_and(|(mark, _)| *mark >= first) {
            self.marks.pop_back();
        }
        self.open = 0;
    }

    /// The last index with at least `bytes` behind it; `None` if there are fewer in all.
    pub(super) fn index_behind(&self, bytes: u64) -> Option<u64> {
        let mut behind = self.open;
        self.marks.iter().rev().find_map(|&(index, len)| {
            if behind >= bytes {
                return Some(index);
            }
            behind += len;
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_how_much_lies_behind_them() {
        let mut weight = Weight::default();
        for index in 1..=100 {
            weight.appended(index, MARK_BYTES / 2);
        }
        assert_eq!(weight.index_behind(0), Some(100));
        assert_eq!(weight.index_behind(1), Some(98));
        assert_eq!(weight.index_behind(10 * MARK_BYTES), Some(80));
        assert_eq!(weight.index_behind(50 * MARK_BYTES), None, "that much is not there");
        weight.truncated(91);
        assert_eq!(weight.index_behind(0), Some(90));
        weight.purged(88);
        assert_eq!((weight.index_behind(0), weight.index_behind(1)), (Some(90), None));
    }
}
