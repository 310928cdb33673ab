//! One file twice: what programs see of it, and what is on its disk; between the two the writes that no fsync has covered yet,
//! in order. Owns what an fsync, a failed fsync and a power cut make of them.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::Tear;
use super::pages::Pages;

/// What was done to a file and not synced.
#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, data: Vec<u8> },
    Length(u64),
    Room { at: u64, size: u64 },
}

impl Change {
    fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Write { at, data } => pages.write(*at, data),
            Self::Length(len) => pages.set_len(*len),
            Self::Room { at, size } => pages.allocate(*at, *size),
        }
    }

    fn bytes(&self) -> u64 {
        if let Self::Write { data, .. } = self { data.len() as u64 } else { 0 }
    }
}

/// A write of which a part survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// Bytes that survived.
    pub kept: u64,
    /// Bytes it had.
    pub of: u64,
}

/// What a cut took of one file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loss {
    pub(super) writes: u64,
    pub(super) bytes: u64,
    pub(super) torn: Option<Torn>,
}

/// A file's content.
#[derive(Debug, Default)]
pub(super) struct Content {
    seen: Pages,
    disk: Pages,
    /// Each with its number, which counts through all files.
    unsynced: Vec<(u64, Change)>,
}

impl Content {
    pub(super) fn seen(&self) -> &Pages {
        &self.seen
    }

    fn change(&mut self, number: u64, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push((number, change));
    }

    pub(super) fn write(&mut self, number: u64, at: u64, data: &[u8]) {
        self.change(number, Change::Write { at, data: data.to_vec() });
    }

    pub(super) fn set_len(&mut self, number: u64, len: u64) {
        self.change(number, Change::Length(len));
    }

    /// Gives it room it has not written to yet; `keep_len` if its length stays.
    pub(super) fn allocate(&mut self, number: u64, at: u64, size: u64, keep_len: bool) {
        self.change(number, Change::Room { at, size });
        if !keep_len && self.seen.len() < at + size {
            self.change(number, Change::Length(at + size));
        }
    }

    /// Rot: on the disk and in what programs see, at once.
    pub(super) fn flip(&mut self, at: u64, bit: u8) -> bool {
        self.disk.flip(at, bit);
        self.seen.flip(at, bit)
    }

    fn split_upto(&mut self, number: u64) -> Vec<(u64, Change)> {
        let covered = self.unsynced.partition_point(|(own, _)| *own <= number);
        let later = self.unsynced.split_off(covered);
        std::mem::replace(&mut self.unsynced, later)
    }

    /// The disk has everything up to this number.
    pub(super) fn sync(&mut self, number: u64) {
        for (_, change) in self.split_upto(number) {
            change.apply(&mut self.disk);
        }
    }

    /// What of its pages an fsync up to this number would have to write: where, and how much.
    pub(super) fn unsynced(&self, number: u64) -> Vec<(u64, u64)> {
        let covered = self.unsynced.iter().take_while(|(own, _)| *own <= number);
        covered
            .filter_map(|(_, change)| match change {
                Change::Write { at, data } => Some((*at, data.len() as u64)),
                _ => None,
            })
            .collect()
    }

    /// As Linux after an fsync that failed: what it should have written counts as written and is not. Who reads the file from
    /// the disk finds what was there before; its length is kept.
    pub(super) fn fail(&mut self, number: u64) {
        let len = self.seen.len();
        for (_, change) in self.split_upto(number) {
            if let Change::Write { at, data } = change {
                let mut old = self.disk.read(at, data.len() as u64);
                old.resize(data.len(), 0);
                self.seen.write(at, &old);
            }
        }
        // What came after the fsync is still to be seen.
        for (_, change) in &self.unsynced {
            change.apply(&mut self.seen);
        }
        self.seen.set_len(len);
        self.unsynced.insert(0, (number, Change::Length(len)));
    }

    /// Only the disk counts from here on. Of what was not on it survives what `tear` says, in order.
    pub(super) fn cut(&mut self, tear: Survives<'_>) -> Loss {
        let unsynced = std::mem::take(&mut self.unsynced);
        let last = unsynced.iter().rposition(|(_, change)| matches!(change, Change::Write { .. }));
        let (whole, part) = match tear {
            Survives::Nothing => (0, 0),
            Survives::BytesOfTheLast(bytes) => last.map_or((0, 0), |last| (last, bytes)),
            Survives::Random(rng) => {
                let whole = rng.random_range(0..=unsynced.len());
                let next = unsynced.get(whole).map_or(0, |(_, change)| change.bytes());
                (whole, rng.random_range(0..=next))
            }
        };
        let mut loss = Loss::default();
        for (place, (_, change)) in unsynced.into_iter().enumerate() {
            if place < whole {
                change.apply(&mut self.disk);
                continue;
            }
            let bytes = change.bytes();
            let kept = if place == whole { part.min(bytes) } else { 0 };
            if let Change::Write { at, data } = &change
                && kept > 0
            {
                self.disk.write(*at, data.get(..usize::try_from(kept).unwrap_or(usize::MAX)).unwrap_or(data));
                loss.torn = Some(Torn { kept, of: bytes });
            }
            loss.writes += 1;
            loss.bytes += bytes - kept;
        }
        self.seen = self.disk.clone();
        loss
    }
}

/// What of a file's unsynced writes a cut leaves.
pub(super) enum Survives<'a> {
    Nothing,
    /// All of them in order, and so many bytes of the last.
    BytesOfTheLast(u64),
    /// The first few, and some bytes of the next.
    Random(&'a mut rand::rngs::StdRng),
}

impl<'a> Survives<'a> {
    /// What `tear` means for a file.
    pub(super) fn of(tear: Tear, rng: &'a mut rand::rngs::StdRng) -> Self {
        match tear {
            Tear::Clean => Self::Nothing,
            Tear::At(bytes) => Self::BytesOfTheLast(bytes),
            Tear::Random(_) => Self::Random(rng),
        }
    }
}
