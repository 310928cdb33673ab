//! Roughly how many bytes of a group's log lie behind an index: a mark for every so many bytes, not a number for every entry.
//! What was there before the process started is estimated from a few of its entries: a machine that restarts often would
//! otherwise never have enough of its own to purge.

use std::collections::VecDeque;

use super::read::Reader;

/// Bytes between two marks: how exactly a purge can be asked for. A gigabyte of log has 16,000 marks of 16 bytes.
const MARK_BYTES: u64 = 64 * 1024;

/// Entries of a group that are looked at to know how long they are. Opening has read all of the log's headers before.
const SAMPLES: u64 = 16;

/// About how long a group's entries are. Ones that can't be read are left out here: whoever needs them is told.
pub(super) fn entry_len(reader: &Reader, group: u64, (first, last): (u64, u64)) -> u64 {
    let step = ((last - first) / SAMPLES).max(1) as usize;
    let samples = (first..=last).step_by(step).filter_map(|index| reader.read(group, index, index + 1, 1).ok());
    let (count, bytes) =
        samples.flatten().fold((0, 0), |(count, sum), entry| (count + 1, sum + entry.bytes.len() as u64));
    if count == 0 { 0 } else { bytes.div_ceil(count) }
}

#[derive(Default)]
pub(super) struct Weight {
    /// Ascending: an index, and the bytes from the mark before it up to there.
    marks: VecDeque<(u64, u64)>,
    /// Bytes behind the last mark.
    open: u64,
}

impl Weight {
    /// Of entries that are there already, each about so long.
    pub(super) fn estimated((first, last): (u64, u64), entry_len: u64) -> Self {
        let mut weight = Self::default();
        let per_mark = MARK_BYTES.div_ceil(entry_len.max(1));
        let mut before = first;
        while last - before >= per_mark {
            weight.appended(before + per_mark - 1, per_mark.saturating_mul(entry_len));
            before += per_mark;
        }
        weight.appended(last, (last - before + 1).saturating_mul(entry_len));
        weight
    }

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
        let estimated = Weight::estimated((1, 100), MARK_BYTES / 2);
        assert_eq!((&estimated.marks, estimated.open), (&weight.marks, weight.open), "as if they had come now");
        let last = |first, len| Weight::estimated((first, 100), len).index_behind(1);
        assert_eq!((last(100, 7), last(1, 0), last(1, MARK_BYTES * 3)), (None, None, Some(99)));
        weight.truncated(91);
        assert_eq!(weight.index_behind(0), Some(90));
        weight.purged(88);
        assert_eq!((weight.index_behind(0), weight.index_behind(1)), (Some(90), None));
    }
}
