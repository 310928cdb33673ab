//! Exact deduplication by (sender, key) over a window of entry-id time (A3). Owns the keys in memory, in order of first
//! append, an index into them, the senders' numbers, and which bucket a checkpoint's keys go to. Never probabilistic.
//!
//! Memory: 40 bytes a key in a queue and 5 to 10 in the index. Keys leave at the front only: by age, or, at the bound, early,
//! which is counted. Both depend on the log alone, so every replica forgets the same keys at the same entry.

use std::collections::{HashMap, VecDeque};

use hashbrown::HashTable;
use iris_protocol::{EntryId, MessageKey, UserId};

use super::hash::FastHash;
use super::layer::Layer;
use super::types::StoreOptions;
use crate::warm::{BucketId, BucketRow, DedupKey};

/// Keys in one bucket of the warm tier, a checkpoint's more or less.
const BUCKET_KEYS_MAX: u32 = 65_536;

#[derive(Debug)]
pub(super) struct Dedup {
    senders: Senders,
    keys: VecDeque<Key>,
    /// Number of the front key; numbers run on and wrap, and the bound keeps them distinct.
    front: u32,
    index: HashTable<u32>,
    hash: FastHash,
    window_ms: u64,
    keys_max: usize,
    dropped_early: u64,
}

/// A key and its first append.
#[derive(Debug, Clone, Copy)]
struct Key {
    id: EntryId,
    digest: u64,
    key: MessageKey,
    sender: u32,
}

impl Dedup {
    pub(super) fn new(options: &StoreOptions) -> Self {
        Self {
            senders: Senders::default(),
            keys: VecDeque::new(),
            front: 0,
            index: HashTable::new(),
            hash: FastHash::default(),
            window_ms: u64::try_from(options.dedup_window.as_millis()).unwrap_or(u64::MAX),
            keys_max: options.dedup_keys_max.clamp(1, u32::MAX as usize),
            dropped_early: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn dropped_early(&self) -> u64 {
        self.dropped_early
    }

    /// Id of the oldest key's entry.
    pub(super) fn first_id(&self) -> Option<EntryId> {
        self.keys.front().map(|key| key.id)
    }

    /// Forgets keys older than the window at `now`, a time of the log.
    pub(super) fn expire(&mut self, now: EntryId) {
        while self.keys.front().is_some_and(|key| now.unix_ms() > key.id.unix_ms().saturating_add(self.window_ms)) {
            self.forget_first();
        }
    }

    /// A sender's number while any of its keys is remembered.
    pub(super) fn sender(&self, name: &str) -> Option<u32> {
        self.senders.numbers.get(name).copied()
    }

    pub(super) fn name(&self, sender: u32) -> UserId {
        self.senders.slots[sender as usize].name.clone()
    }

    /// A number for a new sender; [`Dedup::insert`] must follow.
    pub(super) fn intern(&mut self, name: UserId) -> u32 {
        self.senders.intern(name)
    }

    /// The first append of a key: its entry and digest.
    pub(super) fn find(&self, sender: u32, key: MessageKey) -> Option<(EntryId, u64)> {
        let found = self.index.find(self.hash_of(sender, key), |&number| {
            let known = self.key(number);
            known.key == key && known.sender == sender
        });
        found.map(|&number| (self.key(number).id, self.key(number).digest))
    }

    /// Remembers a key that is not known, with an id above all others.
    pub(super) fn insert(&mut self, sender: u32, key: MessageKey, id: EntryId, digest: u64) {
        self.senders.slots[sender as usize].keys += 1;
        if self.keys.len() >= self.keys_max {
            self.dropped_early += 1;
            self.forget_first();
        }
        let number = self.front.wrapping_add(self.keys.len() as u32);
        self.keys.push_back(Key { id, digest, key, sender });
        let hash = self.hash_of(sender, key);
        let (keys, front, hasher) = (&self.keys, self.front, self.hash);
        self.index.insert_unique(hash, number, |&number| {
            let known = &keys[number.wrapping_sub(front) as usize];
            hash_of(hasher, known.sender, known.key)
        });
    }

    fn forget_first(&mut self) {
        let Some(key) = self.keys.pop_front() else { return };
        let first = self.front;
        if let Ok(found) = self.index.find_entry(self.hash_of(key.sender, key.key), |&number| number == first) {
            found.remove();
        }
        self.front = self.front.wrapping_add(1);
        self.senders.release(key.sender);
    }

    fn key(&self, number: u32) -> &Key {
        &self.keys[number.wrapping_sub(self.front) as usize]
    }

    fn hash_of(&self, sender: u32, key: MessageKey) -> u64 {
        hash_of(self.hash, sender, key)
    }

    /// Takes the keys of a bucket, those from before `from` excepted.
    pub(super) fn load(&mut self, mut keys: Vec<DedupKey>, from: EntryId) -> Result<(), String> {
        keys.sort_unstable_by_key(|key| key.id);
        for key in keys.into_iter().filter(|key| key.id >= from) {
            if self.keys.back().is_some_and(|last| last.id >= key.id) {
                return Err(format!("id {} is out of order", key.id));
            }
            let sender = match self.sender(key.sender.as_str()) {
                Some(sender) => sender,
                None => self.intern(key.sender),
            };
            self.insert(sender, key.key, key.id, key.digest);
        }
        Ok(())
    }
}

fn hash_of(hash: FastHash, sender: u32, key: MessageKey) -> u64 {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..].copy_from_slice(&sender.to_le_bytes());
    hash.bytes(&bytes)
}

/// Senders by number, counted by their keys; a number is used again once its sender has none.
#[derive(Debug, Default)]
struct Senders {
    numbers: HashMap<UserId, u32, FastHash>,
    slots: Vec<Sender>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Sender {
    name: UserId,
    keys: u32,
}

impl Senders {
    fn intern(&mut self, name: UserId) -> u32 {
        let slot = Sender { name: name.clone(), keys: 0 };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("there are no more senders than keys, fewer than 2^32")
            }
        };
        self.numbers.insert(name, number);
        number
    }

    fn release(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.keys -= 1;
        if slot.keys == 0 {
            self.numbers.remove(&slot.name);
            self.free.push(number);
        }
    }
}

/// The buckets after a layer's keys went into the last or a new one, and those that ended before `from`.
pub(super) fn buckets(
    before: &[BucketRow],
    layer: &Layer,
    last: EntryId,
    from: EntryId,
) -> (Vec<BucketRow>, Vec<BucketId>) {
    let mut after = before.to_vec();
    let first = layer.inboxes().filter_map(|inbox| inbox.entries.first()).map(|entry| entry.id).min();
    if let Some(first) = first {
        let new = u32::try_from(layer.entries_len()).unwrap_or(u32::MAX);
        match after.last_mut().filter(|bucket| bucket.keys.saturating_add(new) <= BUCKET_KEYS_MAX) {
            Some(bucket) => {
                bucket.keys += new;
                bucket.last = last;
            }
            None => after.push(BucketRow {
                id: BucketId(after.last().map_or(0, |bucket| bucket.id.0 + 1)),
                first,
                last,
                keys: new,
                uuid_ms_max: u64::MAX,
                ..BucketRow::default()
            }),
        }
    }
    // The last one stays, for its number: none is used again.
    let ended = after.len().saturating_sub(1).min(after.partition_point(|bucket| bucket.last < from));
    let removed = after.drain(..ended).map(|bucket| bucket.id).collect();
    (after, removed)
}

/// The keys of a layer's entries.
pub(super) fn keys(layer: &Layer) -> Vec<DedupKey> {
    let mut all = Vec::with_capacity(layer.entries_len());
    for inbox in layer.inboxes() {
        all.extend(inbox.entries.iter().zip(&inbox.digests).map(|(entry, digest)| DedupKey {
            key: entry.key,
            sender: entry.sender.clone(),
            id: entry.id,
            digest: *digest,
        }));
    }
    // In the order of the table; of a key that was forgotten and used again the later counts.
    all.sort_unstable_by(|a, b| (a.key, &a.sender, a.id).cmp(&(b.key, &b.sender, b.id)));
    all
}
