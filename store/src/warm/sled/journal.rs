//! The list of puts and removals that a checkpoint consists of, written down before it is carried out (see the module above).
//!
//! A chunk is a value of operations, each: tree u8, 1 for a put or 0, key length u32, value length u32, key, value. The commit
//! record: chunks u32, xxh3 of all chunks u64, the shard's new head.

use iris_protocol::ShardId;
use xxhash_rust::xxh3::Xxh3;

use super::layout::{self, Kind};
use super::{Inner, STEP_BYTES, STEP_OPS};
use crate::StoreError;

/// Bytes of a chunk, more or less: small against a batch.
const CHUNK_BYTES: usize = 64 * 1024;

/// One put or, without a value, removal.
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

impl Op {
    fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.push(u8::from(self.value.is_some()));
        let value = self.value.as_deref().unwrap_or_default();
        // Keys are names and numbers, values are entries: both far below 4 GiB.
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(value);
    }

    fn decode<'a>(bytes: &mut &'a [u8]) -> Result<Self, String> {
        let mut take = |len: usize| -> Result<&'a [u8], String> {
            let (head, rest) = bytes.split_at_checked(len).ok_or("an operation that ends early")?;
            *bytes = rest;
            Ok(head)
        };
        let kind = take(1)?[0];
        let kind = Kind::of(kind).ok_or_else(|| format!("an operation on tree {kind}"))?;
        let puts = take(1)?[0] == 1;
        let mut len = || Ok::<_, String>(u32::from_le_bytes(take(4)?.try_into().map_err(|_| "no length")?) as usize);
        let (key_len, value_len) = (len()?, len()?);
        let key = take(key_len)?.to_vec();
        let value = take(value_len)?.to_vec();
        Ok(Self { kind, key, value: puts.then_some(value) })
    }
}

impl Inner {
    /// Carries operations out, in batches.
    pub(super) fn apply(&self, ops: impl IntoIterator<Item = Op>) -> Result<(), StoreError> {
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            let (mut batches, mut count, mut bytes) = ([(); 5].map(|()| ::sled::Batch::default()), 0, 0);
            while count < STEP_OPS && bytes < STEP_BYTES {
                let Some(op) = ops.next() else { break };
                count += 1;
                bytes += op.len();
                let batch = &mut batches[op.kind as usize - 1];
                match op.value {
                    Some(value) => batch.insert(op.key, value),
                    None => batch.remove(op.key),
                }
            }
            for (kind, batch) in Kind::ALL.into_iter().zip(batches) {
                self.writing("writing", self.trees.of(kind).apply_batch(batch))?;
            }
        }
        Ok(())
    }

    /// Writes the list down and makes it count: from its return on, the checkpoint is durable.
    pub(super) fn commit(&self, shard: ShardId, ops: &[Op], head: &[u8]) -> Result<(), StoreError> {
        let (mut chunks, mut hash, mut chunk) = (0u32, Xxh3::new(), Vec::new());
        let mut write = |chunk: &mut Vec<u8>| {
            let key = layout::journal_key(shard, chunks);
            let value = layout::value(&key, |out| out.append(chunk));
            hash.update(&value);
            chunks += 1;
            self.writing("writing a checkpoint", self.trees.journal.insert(key, value)).map(drop)
        };
        for op in ops {
            op.encode(&mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                write(&mut chunk)?;
            }
        }
        write(&mut chunk)?;
        self.flush()?;
        let key = layout::commit_key(shard);
        let record = layout::value(&key, |out| {
            out.extend_from_slice(&chunks.to_le_bytes());
            out.extend_from_slice(&hash.digest().to_le_bytes());
            out.extend_from_slice(head);
        });
        self.writing("writing a checkpoint", self.trees.heads.insert(key, record))?;
        self.flush()
    }

    /// The operations were carried out: the new row counts, and nothing is left to do again.
    pub(super) fn conclude(&self, shard: ShardId, head: Vec<u8>, claimed: Option<u32>) -> Result<(), StoreError> {
        self.flush()?;
        let mut batch = ::sled::Batch::default();
        batch.insert(layout::head_key(shard), head);
        batch.remove(layout::commit_key(shard));
        if let Some(slot) = claimed {
            batch.remove(layout::garbage_key(slot));
        }
        self.durable_step("writing a checkpoint", batch)?;
        self.clear_journal(&shard.0.to_be_bytes())
    }

    /// Finishes what a crash cut short, and removes lists that never counted.
    pub(super) fn redo_all(&self) -> Result<(), StoreError> {
        for found in self.trees.heads.scan_prefix(layout::COMMIT_PREFIX) {
            let (key, record) = self.told("opening the store", found)?;
            let shard = layout::number(&key).map(|n| ShardId(u16::from_be_bytes(n)));
            let shard = shard.ok_or_else(|| self.damaged("a journal", "its key"))?;
            let what = || format!("the journal of shard {shard}");
            tracing::info!(%shard, path = %self.path.display(), "finishing a checkpoint that was cut short");
            let record = layout::check(&key, &record).map_err(|why| self.damaged(what(), why))?;
            let (chunks, rest) = record.split_first_chunk::<4>().ok_or_else(|| self.damaged(what(), "its length"))?;
            let (sum, head) = rest.split_first_chunk::<8>().ok_or_else(|| self.damaged(what(), "its length"))?;
            let slot = layout::decode_head(shard, head).map_err(|why| self.damaged(what(), why))?.slot;
            self.redo(shard, u32::from_le_bytes(*chunks), u64::from_le_bytes(*sum))?;
            self.conclude(shard, head.to_vec(), Some(slot))?;
        }
        self.clear_journal(b"")
    }

    fn redo(&self, shard: ShardId, chunks: u32, sum: u64) -> Result<(), StoreError> {
        let damaged = |why: String| self.damaged(format!("the journal of shard {shard}"), why);
        // Twice, because half a list must not be carried out: once to check it, once to do it.
        let mut hash = Xxh3::new();
        for apply in [false, true] {
            for chunk in 0..chunks {
                let key = layout::journal_key(shard, chunk);
                let found = self.told("opening the store", self.trees.journal.get(&key))?;
                let value = found.ok_or_else(|| damaged(format!("chunk {chunk} of {chunks} is missing")))?;
                let mut content = layout::check(&key, &value).map_err(damaged)?;
                let mut ops = Vec::new();
                while !content.is_empty() {
                    ops.push(Op::decode(&mut content).map_err(damaged)?);
                }
                if apply {
                    self.apply(ops)?;
                } else {
                    hash.update(&value);
                }
            }
            if hash.digest() != sum {
                return Err(damaged("its checksum is wrong".to_owned()));
            }
        }
        Ok(())
    }

    fn clear_journal(&self, prefix: &[u8]) -> Result<(), StoreError> {
        for found in self.trees.journal.scan_prefix(prefix).keys() {
            let key = self.told("clearing the journal", found)?;
            self.writing("clearing the journal", self.trees.journal.remove(key))?;
        }
        Ok(())
    }
}
