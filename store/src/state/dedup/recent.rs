//! The recent keys of a shard in memory: a queue in order of first append, an index into it, and the senders' numbers. Owns
//! what is in memory; which keys count is `buckets`' and the window's business.
//!
//! Memory: 40 bytes a key in the queue and 5 to 10 in the index.

use std::collections::{HashMap, VecDeque};

use hashbrown::HashTable;
use iris_protocol::{EntryId, MessageKey, UserId};

use crate::state::hash::FastHash;

/// A key and its first append.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) id: EntryId,
    pub(super) digest: u64,
    pub(super) key: MessageKey,
    pub(super) sender: u32,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    senders: Senders,
    keys: VecDeque<Key>,
    /// Number of the front key; numbers run on and wrap, and memory keeps them distinct.
    front: u32,
    index: HashTable<u32>,
    hash: FastHash,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn front(&self) -> Option<&Key> {
        self.keys.front()
    }

    /// The key at a place, counted from the oldest.
    pub(super) fn at(&self, place: usize) -> Option<&Key> {
        self.keys.get(place)
    }

    /// Keys with `after < id <= up_to`, at most so many.
    pub(super) fn between(&self, after: EntryId, up_to: EntryId, len_max: usize) -> impl Iterator<Item = &Key> {
        let begin = self.keys.partition_point(|key| key.id <= after);
        self.keys.range(begin..).take_while(move |key| key.id <= up_to).take(len_max)
    }

    /// A sender's number while any of its keys is here.
    pub(super) fn sender(&self, name: &str) -> Option<u32> {
        self.senders.numbers.get(name).copied()
    }

    pub(super) fn name(&self, sender: u32) -> UserId {
        self.senders.slots[sender as usize].name.clone()
    }

    /// A number for a new sender; [`Self::push`] must follow.
    pub(super) fn intern(&mut self, name: UserId) -> u32 {
        self.senders.intern(name)
    }

    /// The place and the first append of a key.
    pub(super) fn find(&self, sender: u32, key: MessageKey) -> Option<(usize, &Key)> {
        let found = self.index.find(hash_of(self.hash, sender, key), |&number| {
            let known = self.numbered(number);
            known.key == key && known.sender == sender
        });
        found.map(|&number| (self.place(number), self.numbered(number)))
    }

    /// Takes a key in, with an id above all others. One that is here already has been forgotten and is no longer found.
    pub(super) fn push(&mut self, key: Key) {
        self.senders.slots[key.sender as usize].keys += 1;
        let hash = hash_of(self.hash, key.sender, key.key);
        let (keys, front, hasher) = (&self.keys, self.front, self.hash);
        let known = |number: u32| &keys[number.wrapping_sub(front) as usize];
        if let Ok(forgotten) =
            self.index.find_entry(hash, |&number| known(number).key == key.key && known(number).sender == key.sender)
        {
            forgotten.remove();
        }
        let number = front.wrapping_add(keys.len() as u32);
        self.keys.push_back(key);
        let keys = &self.keys;
        self.index.insert_unique(hash, number, |&number| {
            let known = &keys[number.wrapping_sub(front) as usize];
            hash_of(hasher, known.sender, known.key)
        });
    }

    /// Lets the oldest key go.
    pub(super) fn pop(&mut self) {
        let Some(key) = self.keys.pop_front() else { return };
        let first = self.front;
        if let Ok(found) = self.index.find_entry(hash_of(self.hash, key.sender, key.key), |&number| number == first) {
            found.remove();
        }
        self.front = self.front.wrapping_add(1);
        self.senders.release(key.sender);
    }

    /// Gives memory back that a burst left behind.
    pub(super) fn shrink(&mut self, len_min: usize) {
        let (keys, front, hasher) = (&self.keys, self.front, self.hash);
        self.index.shrink_to(len_min, |&number| {
            let known = &keys[number.wrapping_sub(front) as usize];
            hash_of(hasher, known.sender, known.key)
        });
        self.keys.shrink_to(len_min);
    }

    /// Bytes held, allocations as they are.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<Key>() + self.index.allocation_size() + self.senders.bytes()
    }

    fn place(&self, number: u32) -> usize {
        number.wrapping_sub(self.front) as usize
    }

    fn numbered(&self, number: u32) -> &Key {
        &self.keys[self.place(number)]
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

    fn bytes(&self) -> usize {
        let names: usize = self.numbers.keys().map(|name| name.as_bytes().len() + 2 * size_of::<usize>()).sum();
        names
            + self.numbers.capacity() * (size_of::<(UserId, u32)>() + 1)
            + self.slots.capacity() * size_of::<Sender>()
            + self.free.capacity() * size_of::<u32>()
    }
}
