//! Exact deduplication by (sender, key) over a window of entry-id time (A3). Owns the keys in memory, in order of first
//! append, an index into them, the senders' numbers, and the encoding of keys for a checkpoint. Never probabilistic.
//!
//! Memory: 40 bytes a key in a queue and 5 to 10 in the index. Keys leave at the front only: by age, or, at the bound, early,
//! which is counted. Both depend on the log alone, so every replica forgets the same keys at the same entry.

use std::collections::{HashMap, VecDeque};

use bytes::BufMut;
use hashbrown::HashTable;
use iris_protocol::{EntryId, MessageKey, UserId};
use xxhash_rust::xxh3::xxh3_64;

use super::hash::FastHash;
use super::layer::Layer;
use super::types::StoreOptions;
use crate::warm::DedupBlock;

/// Keys in one block of a checkpoint: some 2.5 MB, read and written in one piece.
const BLOCK_KEYS_MAX: usize = 65_536;
const BLOCK_VERSION: u8 = 1;
const BLOCK_HEAD_LEN: usize = 1 + 4 + 4;
const BLOCK_KEY_LEN: usize = 4 + 16 + 8 + 8;
const BLOCK_SUM_LEN: usize = 8;

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

    /// Takes the keys of a block, those from before `from` excepted.
    pub(super) fn load(&mut self, block: &[u8], from: EntryId) -> Result<(), String> {
        let (names, keys) = decode_block(block)?;
        for (key, name) in keys.into_iter().filter(|(key, _)| key.id >= from) {
            if self.keys.back().is_some_and(|last| last.id >= key.id) {
                return Err(format!("id {} is out of order", key.id));
            }
            let name = names.get(name).ok_or("a sender that isn't in its table")?;
            let sender = match self.sender(name.as_str()) {
                Some(sender) => sender,
                None => self.intern(name.clone()),
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

/// The keys of a layer's entries, in blocks, ascending. Layout, little endian: version u8, sender count u32, key count u32,
/// senders (length u16, name), keys (sender u32, key 16, id u64, digest u64), xxh3 of all that u64.
pub(super) fn blocks(layer: &Layer) -> Vec<DedupBlock> {
    let mut all = Vec::with_capacity(layer.entries_len());
    for inbox in layer.inboxes() {
        all.extend(inbox.entries.iter().zip(&inbox.digests));
    }
    all.sort_unstable_by_key(|(entry, _)| entry.id);
    let chunks = all.chunks(BLOCK_KEYS_MAX);
    chunks
        .filter_map(|chunk| {
            let (first, last) = (chunk.first()?.0.id, chunk.last()?.0.id);
            let mut numbers: HashMap<&UserId, u32, FastHash> = HashMap::default();
            let (mut names, mut keys) = (Vec::new(), Vec::with_capacity(chunk.len() * BLOCK_KEY_LEN));
            for (entry, digest) in chunk {
                let next = numbers.len() as u32;
                let number = *numbers.entry(&entry.sender).or_insert_with(|| {
                    let name = entry.sender.as_bytes();
                    names.put_u16_le(name.len() as u16);
                    names.put_slice(name);
                    next
                });
                keys.put_u32_le(number);
                keys.put_slice(&entry.key.0);
                keys.put_u64_le(entry.id.0);
                keys.put_u64_le(**digest);
            }
            let mut bytes = Vec::with_capacity(BLOCK_HEAD_LEN + names.len() + keys.len() + BLOCK_SUM_LEN);
            bytes.put_u8(BLOCK_VERSION);
            bytes.put_u32_le(numbers.len() as u32);
            bytes.put_u32_le(chunk.len() as u32);
            bytes.put_slice(&names);
            bytes.put_slice(&keys);
            let sum = xxh3_64(&bytes);
            bytes.put_u64_le(sum);
            Some(DedupBlock { first, last, bytes })
        })
        .collect()
}

/// Senders, and keys with their place in the senders.
type DecodedBlock = (Vec<UserId>, Vec<(Key, usize)>);

fn decode_block(block: &[u8]) -> Result<DecodedBlock, String> {
    let (content, sum) = block.split_last_chunk::<BLOCK_SUM_LEN>().ok_or("too short")?;
    if xxh3_64(content) != u64::from_le_bytes(*sum) {
        return Err("its checksum is wrong".to_owned());
    }
    let mut reader = BlockReader(content);
    let [version] = reader.array()?;
    if version != BLOCK_VERSION {
        return Err(format!("version {version}, this Iris reads {BLOCK_VERSION}"));
    }
    let senders_len = u32::from_le_bytes(reader.array()?);
    let keys_len = u32::from_le_bytes(reader.array()?) as usize;
    let mut senders = Vec::new();
    for _ in 0..senders_len {
        let len = usize::from(u16::from_le_bytes(reader.array()?));
        senders.push(UserId::new(reader.take(len)?).map_err(|error| error.to_string())?);
    }
    if reader.0.len() != keys_len.saturating_mul(BLOCK_KEY_LEN) {
        return Err("its length is wrong".to_owned());
    }
    let mut keys = Vec::with_capacity(keys_len);
    for _ in 0..keys_len {
        let sender = u32::from_le_bytes(reader.array()?);
        let key = MessageKey(reader.array()?);
        let id = EntryId(u64::from_le_bytes(reader.array()?));
        let digest = u64::from_le_bytes(reader.array()?);
        // The sender's number is the block's own; the caller gives it one of this process.
        keys.push((Key { id, digest, key, sender }, sender as usize));
    }
    Ok((senders, keys))
}

struct BlockReader<'a>(&'a [u8]);

impl<'a> BlockReader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("it ends early")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("it ends early")?;
        self.0 = rest;
        Ok(*head)
    }
}
