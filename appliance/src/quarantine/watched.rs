//! A warm store that tells of the damage it meets. Its callers are told as well, but what openraft is told becomes text, and a
//! reader's edge only tries elsewhere.

use std::sync::Arc;

use iris_protocol::{EntryId, MessageKey, ShardId, UserId};
use iris_store::warm::{BucketId, Changes, CursorRow, DedupKey, FirstAppend, ShardRow, Verified, WarmRecord, WarmView};
use iris_store::{Entry, PageLimits, StoreError, WarmStore};

use super::DamageWatch;

pub(super) struct WatchedWarm {
    warm: Arc<dyn WarmStore>,
    watch: DamageWatch,
}

impl WatchedWarm {
    pub(super) fn new(warm: Arc<dyn WarmStore>, watch: DamageWatch) -> Self {
        Self { warm, watch }
    }

    fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.watch.note(error))
    }
}

impl WarmStore for WatchedWarm {
    fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        self.told(self.warm.shards())
    }

    fn shard(&self, shard: ShardId) -> Result<Option<ShardRow>, StoreError> {
        self.told(self.warm.shard(shard))
    }

    fn cursors(&self, shard: ShardId, each: &mut dyn FnMut(CursorRow)) -> Result<(), StoreError> {
        self.told(self.warm.cursors(shard, each))
    }

    fn checkpoint(&self, shard: ShardId, changes: &Changes<'_>) -> Result<(), StoreError> {
        self.told(self.warm.checkpoint(shard, changes))
    }

    fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError> {
        self.told(self.warm.scan(shard, user, after, up_to, limits))
    }

    fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError> {
        self.told(self.warm.dedup_find(shard, bucket, keys))
    }

    fn dedup_keys(&self, shard: ShardId, bucket: BucketId, each: &mut dyn FnMut(DedupKey)) -> Result<(), StoreError> {
        self.told(self.warm.dedup_keys(shard, bucket, each))
    }

    fn view(&self, shard: ShardId) -> Result<Option<Box<dyn WarmView>>, StoreError> {
        let view = self.told(self.warm.view(shard))?;
        Ok(view.map(|view| Box::new(WatchedView { view, watch: self.watch.clone() }) as Box<dyn WarmView>))
    }

    fn install(
        &self,
        shard: ShardId,
        row: &ShardRow,
        records: &mut dyn Iterator<Item = Result<WarmRecord, StoreError>>,
    ) -> Result<(), StoreError> {
        // A damaged record is the snapshot's, which is asked for again, and none of this store's.
        let mut foreign = false;
        let mut records = records.inspect(|record| foreign |= record.is_err());
        let installed = self.warm.install(shard, row, &mut records);
        if foreign { installed } else { self.told(installed) }
    }

    fn remove(&self, shard: ShardId) -> Result<(), StoreError> {
        self.told(self.warm.remove(shard))
    }

    fn verify(&self, each: &mut dyn FnMut(Verified)) -> Result<(), StoreError> {
        self.told(self.warm.verify(each))
    }

    fn scrub(&self) -> Result<(), StoreError> {
        self.told(self.warm.scrub())
    }

    fn path(&self) -> &std::path::Path {
        self.warm.path()
    }
}

struct WatchedView {
    view: Box<dyn WarmView>,
    watch: DamageWatch,
}

impl WarmView for WatchedView {
    fn row(&self) -> &ShardRow {
        self.view.row()
    }

    fn each(&mut self, each: &mut dyn FnMut(WarmRecord) -> Result<(), StoreError>) -> Result<(), StoreError> {
        // What `each` answers is of the file that is written.
        let mut foreign = false;
        let read = self.view.each(&mut |record| each(record).inspect_err(|_| foreign = true));
        if foreign { read } else { read.inspect_err(|error| self.watch.note(error)) }
    }
}
