//! The sled adapter of the warm tier, pure Rust, for whoever can't or won't have SQLite. Limits, measured: writes 4 to 7 times
//! what it is given (SQLite 3 to 4), deletes 17,000 entries a second (SQLite 271,000), reads and inserts several times slower,
//! and takes some hundred MB of memory however small its cache is set, more with larger batches: hence steps of
//! [`STEP_OPS`]. It gives no space back to the system. It has no consistent view, so checkpoints of a shard are put off while a view of it lives.
//!
//! # Atomicity
//! sled makes a small batch on one tree atomic; a checkpoint is large and goes to several trees. So it is written twice: first
//! as a list of plain puts and removals into the tree `journal` (1), then one small record in the tree `heads` says that this
//! list counts (2), then the list is carried out (3), then one batch on `heads` puts the shard's new row and removes the record
//! (4). Each step is flushed before the next begins, so nothing is asked of the order in which sled writes within a step. A
//! crash before (2) is on disk leaves chunks of a list that nobody reads: the old state. One after it leaves the record: opening
//! carries the list out, again if need be, since puts and removals of fixed keys can be repeated, and nothing else was written
//! to the shard in between, because the record is there only while its checkpoint is under way. So it leaves the new state.
//! Readers of this process, who may see (3) half done, don't ask for what it brings before the checkpoint has returned.
//!
//! An install fills a slot that no row points to; one batch on `heads` then makes the row point to it and lists the old slot
//! for removal. What a crash leaves of it is a slot on that list.

mod apply;
mod gates;
mod journal;
mod layout;
mod read;
mod receipt;
mod sweep;
mod view;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iris_protocol::{EntryId, MessageKey, ShardId, UserId};

use super::turns::Turns;
use super::{BucketId, Changes, CursorRow, DedupKey, FirstAppend, ShardRow, Verified, WarmRecord, WarmStore, WarmView};
use crate::StoreError;
use crate::checked_file::{create_private_dir, io_error, sync_dir, sync_tree};
use crate::settle::settle;
use crate::state::{Entry, PageLimits};
use gates::Gates;
#[cfg(test)]
pub(crate) use layout::FORMAT as SLED_VERSION;
use layout::{FORMAT, Trees};

/// Puts and removals of one batch: sled keeps several times a batch's size in memory (12 GB with 20,000).
pub(super) const STEP_OPS: usize = 200;
/// Bytes of one batch.
pub(super) const STEP_BYTES: usize = 1024 * 1024;

/// sled's page cache. It takes several times that.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// How long opening waits for sled's lock, and how often it asks.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The warm tier in a folder of sled's. Cheap to clone.
#[derive(Clone)]
pub struct SledWarm {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    db: ::sled::Db,
    trees: Trees,
    /// One writer at a time; what it guards is `trees` as a whole.
    writer: Turns<()>,
    /// Views hold back what would change their shard.
    gates: Arc<Gates>,
    /// Slots that are being filled: on the list of those to remove, but not yet.
    installing: Mutex<HashSet<u32>>,
    /// A write failed: what is on disk is unknown until the folder is opened again.
    poisoned: AtomicBool,
}

impl SledWarm {
    /// Opens the folder, or creates it for this user only, and finishes a checkpoint that a crash cut short.
    ///
    /// # Errors
    /// The disk's, damage, a folder of another version, or one that another process holds.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private_dir(path).map_err(|source| io_error(path, "creating its folder", source))?;
        // No thread of its own that writes now and then: what needs to be durable is flushed, and what finds no room must be something
        // that was asked for, and looked for room first.
        let config = ::sled::Config::default().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let config = config.mode(::sled::Mode::LowSpace);
        settle(path).map_err(|source| io_error(path, "fsync of what is there", source))?;
        let db = open_db(path, &config)?;
        sync_dir(&path.join("db"))
            .and_then(|()| sync_dir(path))
            .map_err(|e| io_error(path, "fsync of its folder", e))?;
        let trees = Trees::open(&db).map_err(|error| sled_error(path, "opening the store", error))?;
        let inner = Inner {
            path: path.to_owned(),
            db,
            trees,
            writer: Turns::default(),
            gates: Arc::default(),
            installing: Mutex::default(),
            poisoned: AtomicBool::new(false),
        };
        inner.check_format()?;
        inner.check_receipt()?;
        inner.redo_all()?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// Opens sled, once whoever had it is gone: it lets go of its lock on a thread of its own, shortly after its last handle.
fn open_db(path: &Path, config: &::sled::Config) -> Result<::sled::Db, StoreError> {
    let begun = Instant::now();
    loop {
        // It asserts on some damage, which must come back as an error.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let opened = opened.map_err(|_| damaged(path, "the store", "sled gave up on it"))?;
        let told = |error| match error {
            // It takes a file whose head it can't read for another version's, of which we never had one.
            ::sled::Error::Unsupported(_) | ::sled::Error::ReportableBug(_) => damaged(path, "the store", error),
            error => sled_error(path, "opening the store", error),
        };
        match opened.map_err(told) {
            Err(StoreError::InUse { .. }) if begun.elapsed() < LOCK_DEADLINE => {
                std::thread::park_timeout(LOCK_AGAIN_AFTER)
            }
            opened => return opened,
        }
    }
}

impl std::fmt::Debug for SledWarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledWarm").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Inner {
    fn check_format(&self) -> Result<(), StoreError> {
        let found = self.told("opening the store", self.trees.heads.get(layout::FORMAT_KEY))?;
        let number = found.as_deref().map(|bytes| bytes.try_into().map_or(-1, i64::from_le_bytes));
        match number {
            Some(FORMAT) => Ok(()),
            None if !self.db.was_recovered() || self.trees.are_empty() => {
                self.told("creating the store", self.trees.heads.insert(layout::FORMAT_KEY, &FORMAT.to_le_bytes()))?;
                self.flush()
            }
            found => Err(StoreError::Version { path: self.path.clone(), found: found.unwrap_or(0), known: FORMAT }),
        }
    }

    fn check_poison(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::SeqCst) {
            return Err(StoreError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }

    /// A failed write leaves doubt: nothing is written after it.
    fn writing<T>(&self, action: &'static str, result: ::sled::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| {
            self.poisoned.store(true, Ordering::SeqCst);
            sled_error(&self.path, action, error)
        })
    }

    fn told<T>(&self, action: &'static str, result: ::sled::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| sled_error(&self.path, action, error))
    }

    /// Everything written so far is on disk when it returns. sled's own flush is not enough on Linux: it calls
    /// `sync_file_range`, which leaves out the file's length, where its blocks lie and the disk's cache, and it syncs no blob.
    fn flush(&self) -> Result<(), StoreError> {
        self.writing("fsync", self.db.flush())?;
        sync_tree(&self.path).map_err(|source| self.doubted(&self.path, "fsync", source))
    }

    /// As [`Self::writing`], of what is written beside sled.
    fn doubted(&self, path: &Path, action: &'static str, source: std::io::Error) -> StoreError {
        self.poisoned.store(true, Ordering::SeqCst);
        io_error(path, action, source)
    }

    fn damaged(&self, what: impl Into<String>, why: impl std::fmt::Display) -> StoreError {
        damaged(&self.path, what, why)
    }
}

fn damaged(path: &Path, what: impl Into<String>, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what: what.into(), why: why.to_string() }
}

fn sled_error(path: &Path, action: &'static str, error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Corruption { .. } => damaged(path, "the store", error),
        // sled has no other name for it.
        ::sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
            StoreError::InUse { path: path.to_owned() }
        }
        ::sled::Error::Io(io) => io_error(path, action, io),
        other => StoreError::Sled { path: path.to_owned(), action, why: other.to_string() },
    }
}

impl WarmStore for SledWarm {
    fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        self.inner.shards()
    }

    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        Ok(self.inner.head(shard)?.map(|head| head.row))
    }

    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError> {
        self.inner.cursors(shard)?.into_iter().for_each(each);
        Ok(())
    }

    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.inner.checkpoint(shard, changes)
    }

    fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError> {
        self.inner.scan(shard, user, after, up_to, limits)
    }

    fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError> {
        self.inner.dedup_find(shard, bucket, keys)
    }

    fn dedup_keys(&self, shard: ShardId, bucket: BucketId, each: &mut dyn FnMut(DedupKey)) -> Result<(), StoreError> {
        self.inner.dedup_keys(shard, bucket)?.into_iter().for_each(each);
        Ok(())
    }

    fn view(&self, shard: ShardId) -> Result<Option<Box<dyn WarmView>>, StoreError> {
        Ok(view::View::open(&self.inner, shard)?.map(|view| Box::new(view) as Box<dyn WarmView>))
    }

    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        self.inner.install(shard, row, records)
    }

    fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.inner.remove(shard)
    }

    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
        view::verify(&self.inner, each)
    }

    fn scrub(&self) -> Result<(), StoreError> {
        // sled checks a page when it reads it; its own check of a tree bears no writer beside it.
        for shard in self.shards()? {
            if let Some(mut view) = self.view(shard)? {
                view.each(&mut |_| Ok(()))?;
            }
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.inner.path
    }
}
