//! Reading. A slot may be swapped and removed while someone reads in it: then the read is done again in the new one.

use iris_protocol::vnode::vnode_of;
use iris_protocol::{EntryId, MessageKey, ShardId, UserId};

use super::Inner;
use super::layout::{self, Head, Kind};
use crate::StoreError;
use crate::state::{Entry, PageFill, PageLimits};
use crate::warm::{BucketId, CursorRow, DedupKey, FirstAppend, WarmRecord};

/// Installs of one shard that may overtake one read: they come minutes apart.
const ATTEMPTS: usize = 8;

impl Inner {
    pub(super) fn head(&self, shard: ShardId) -> Result<Option<Head>, StoreError> {
        let found = self.told("reading a shard's row", self.trees.heads.get(layout::head_key(shard)))?;
        let Some(value) = found else { return Ok(None) };
        let head = layout::decode_head(shard, &value);
        head.map(Some).map_err(|why| self.damaged(format!("the row of shard {shard}"), why))
    }

    pub(super) fn shards(&self) -> Result<Vec<ShardId>, StoreError> {
        let mut shards = Vec::new();
        for found in self.trees.heads.scan_prefix(layout::HEAD_PREFIX).keys() {
            let key = self.told("reading the shards", found)?;
            shards.extend(layout::number(&key).map(|n| ShardId(u16::from_be_bytes(n))));
        }
        Ok(shards)
    }

    /// Reads in the shard's slot, again if it was swapped meanwhile. `None` if there is no such shard.
    fn stable<T>(
        &self,
        shard: ShardId,
        mut read: impl FnMut(u32) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(mut head) = self.head(shard)? else { return Ok(None) };
        for _ in 0..ATTEMPTS {
            let found = read(head.slot);
            match self.head(shard)? {
                Some(now) if now.slot == head.slot => return found.map(Some),
                Some(now) => head = now,
                None => return Ok(None),
            }
        }
        Err(StoreError::InUse { path: self.path.clone() })
    }

    pub(super) fn cursors(&self, shard: ShardId) -> Result<Vec<CursorRow>, StoreError> {
        let found = self.stable(shard, |slot| {
            let mut found = Vec::new();
            for row in self.trees.of(Kind::Cursors).scan_prefix(slot.to_be_bytes()) {
                let (key, value) = self.told("reading cursors", row)?;
                match layout::check_record(&key, &value) {
                    Ok(WarmRecord::Cursor(row)) => found.push(row),
                    Ok(_) => return Err(self.damaged("a cursor", "it is none")),
                    Err(why) => return Err(self.damaged(format!("a cursor of shard {shard}"), why)),
                }
            }
            Ok(found)
        })?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn scan(
        &self,
        shard: ShardId,
        user: &UserId,
        after: EntryId,
        up_to: EntryId,
        limits: PageLimits,
    ) -> Result<(Vec<Entry>, bool), StoreError> {
        let vnode = vnode_of(user);
        let found = self.stable(shard, |slot| {
            let after = after.max(self.trimmed(&layout::inbox_key(slot, vnode, user), user)?);
            let mut page = PageFill::new(limits);
            if after >= up_to {
                return Ok((page.entries, false));
            }
            let begin = layout::entry_key(slot, vnode, user, EntryId(after.0 + 1));
            let end = layout::entry_key(slot, vnode, user, up_to);
            for row in self.trees.of(Kind::Entries).range(begin..=end) {
                let (key, value) = self.told("reading an inbox", row)?;
                let entry = self.entry(&key, &value, user)?;
                if !page.fits(entry.body.len()) {
                    return Ok((page.entries, true));
                }
                page.push(entry);
            }
            Ok((page.entries, false))
        })?;
        Ok(found.unwrap_or_default())
    }

    fn entry(&self, key: &[u8], value: &[u8], user: &UserId) -> Result<Entry, StoreError> {
        match layout::check_record(key, value) {
            Ok(WarmRecord::Entry { entry, .. }) => Ok(entry),
            Ok(_) => Err(self.damaged(format!("an entry of {user}"), "it is none")),
            Err(why) => Err(self.damaged(format!("an entry of {user}"), why)),
        }
    }

    /// Up to where the inbox with this key is trimmed; zero if it isn't.
    pub(super) fn trimmed(&self, inbox: &[u8], user: &UserId) -> Result<EntryId, StoreError> {
        match self.told("reading an inbox", self.trees.of(Kind::Trimmed).get(inbox))? {
            None => Ok(EntryId::ZERO),
            Some(value) => {
                layout::check_id(inbox, &value).map_err(|why| self.damaged(format!("a trim of {user}"), why))
            }
        }
    }

    pub(super) fn dropped(&self, slot: u32, bucket: BucketId) -> Result<bool, StoreError> {
        let key = layout::bucket_key(slot, bucket);
        match self.told("reading dedup keys", self.trees.of(Kind::Dropped).get(&key))? {
            None => Ok(false),
            Some(value) => {
                let checked = layout::check(&key, &value);
                checked.map_err(|why| self.damaged(format!("the removal of bucket {bucket}"), why)).map(|_| true)
            }
        }
    }

    pub(super) fn dedup_find(
        &self,
        shard: ShardId,
        bucket: BucketId,
        keys: &[(MessageKey, &UserId)],
    ) -> Result<Vec<Option<FirstAppend>>, StoreError> {
        let found = self.stable(shard, |slot| {
            if self.dropped(slot, bucket)? {
                return Ok(vec![None; keys.len()]);
            }
            let find = |(key, sender): &(MessageKey, &UserId)| {
                let key = layout::dedup_key(slot, bucket, *key, sender);
                let value = self.told("looking up dedup keys", self.trees.of(Kind::Dedup).get(&key))?;
                value.map(|value| self.dedup(&key, &value).map(|key| (key.id, key.digest))).transpose()
            };
            keys.iter().map(find).collect()
        })?;
        Ok(found.unwrap_or_else(|| vec![None; keys.len()]))
    }

    pub(super) fn dedup_keys(&self, shard: ShardId, bucket: BucketId) -> Result<Vec<DedupKey>, StoreError> {
        let found = self.stable(shard, |slot| {
            if self.dropped(slot, bucket)? {
                return Ok(Vec::new());
            }
            let rows = self.trees.of(Kind::Dedup).scan_prefix(layout::bucket_key(slot, bucket));
            rows.map(|row| {
                let (key, value) = self.told("reading dedup keys", row)?;
                self.dedup(&key, &value)
            })
            .collect()
        })?;
        Ok(found.unwrap_or_default())
    }

    fn dedup(&self, key: &[u8], value: &[u8]) -> Result<DedupKey, StoreError> {
        match layout::check_record(key, value) {
            Ok(WarmRecord::Dedup { key, .. }) => Ok(key),
            Ok(_) => Err(self.damaged("a dedup key", "it is none")),
            Err(why) => Err(self.damaged("a dedup key", why)),
        }
    }
}
