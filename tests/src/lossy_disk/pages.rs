//! The bytes of a file as pages that two contents can share: what programs see of a file and what its disk has are mostly the
//! same. Owns no history.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a page, as the kernel's.
pub(super) const PAGE: u64 = 4096;

type Page = [u8; PAGE as usize];

/// A file's bytes. Cheap to clone; pages that were never written read as zeros and take no room.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that its pages take.
    pub(super) fn room(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// The bytes at `at`, fewer at its end.
    pub(super) fn read(&self, at: u64, size: u64) -> Vec<u8> {
        let end = at.saturating_add(size).min(self.len);
        let mut bytes = Vec::with_capacity(index(end.saturating_sub(at)));
        let mut next = at;
        while next < end {
            let (page, from) = (next / PAGE, index(next % PAGE));
            let upto = index((end - page * PAGE).min(PAGE));
            match self.pages.get(&page) {
                Some(page) => bytes.extend_from_slice(&page[from..upto]),
                None => bytes.resize(bytes.len() + upto - from, 0),
            }
            next = page * PAGE + upto as u64;
        }
        bytes
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let (mut next, mut rest) = (at, data);
        while !rest.is_empty() {
            let (page, from) = (next / PAGE, index(next % PAGE));
            let (part, later) = rest.split_at(rest.len().min(index(PAGE) - from));
            let page = self.pages.entry(page).or_insert_with(zeros);
            Arc::make_mut(page)[from..from + part.len()].copy_from_slice(part);
            next += part.len() as u64;
            rest = later;
        }
        self.len = self.len.max(next);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let first = len.div_ceil(PAGE);
            self.pages.split_off(&first);
            // What grows over it later must read as zeros.
            if let Some(last) = self.pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(last)[index(len % PAGE)..].fill(0);
            }
        }
        self.len = len;
    }

    /// Gives every page from `at` on for `size` bytes its room; the length stays.
    pub(super) fn allocate(&mut self, at: u64, size: u64) {
        let shared = zeros();
        for page in at / PAGE..at.saturating_add(size).div_ceil(PAGE) {
            self.pages.entry(page).or_insert_with(|| shared.clone());
        }
    }

    /// How much room [`Self::write`] or [`Self::allocate`] would take.
    pub(super) fn room_for(&self, at: u64, size: u64) -> u64 {
        let touched = at / PAGE..at.saturating_add(size).div_ceil(PAGE);
        let there = self.pages.range(touched.clone()).count() as u64;
        (touched.end.saturating_sub(touched.start) - there) * PAGE
    }

    /// Flips one bit; false beyond its end.
    pub(super) fn flip(&mut self, at: u64, bit: u8) -> bool {
        if at < self.len {
            let page = self.pages.entry(at / PAGE).or_insert_with(zeros);
            Arc::make_mut(page)[index(at % PAGE)] ^= 1 << (bit % 8);
        }
        at < self.len
    }
}

fn zeros() -> Arc<Page> {
    Arc::new([0; PAGE as usize])
}

/// Within memory, so within a `usize`.
fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::seed::Seed;

    #[test]
    fn reads_what_a_plain_vector_would() {
        let seed = Seed::pick();
        let mut rng = seed.rng("pages");
        let (mut pages, mut model) = (Pages::default(), Vec::<u8>::new());
        for _ in 0..2_000 {
            let at = rng.random_range(0..20_000_u64);
            let size = rng.random_range(1..6_000_u64);
            match rng.random_range(0..10) {
                0 => {
                    pages.set_len(at);
                    model.resize(index(at), 0);
                }
                1 => pages.allocate(at, size),
                2..=5 => {
                    let before = pages.room();
                    let needs = pages.room_for(at, size);
                    let data: Vec<u8> = (0..size).map(|_| rng.random()).collect();
                    pages.write(at, &data);
                    assert_eq!(pages.room(), before + needs);
                    model.resize(model.len().max(index(at + size)), 0);
                    model[index(at)..index(at + size)].copy_from_slice(&data);
                }
                _ => {
                    let from = index(at).min(model.len());
                    let upto = index(at + size).min(model.len());
                    assert_eq!(pages.read(at, size), model[from..upto]);
                }
            }
            assert_eq!(pages.len(), model.len() as u64);
        }
    }
}
