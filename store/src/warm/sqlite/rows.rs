//! How values lie in SQLite's columns, and their checksums: SQLite doesn't checksum its pages. Entries, of which there is one
//! for long, have 64 bits; the small rows have 32, against accidents only.

use bytes::Bytes;
use iris_protocol::versioned;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId, VnodeId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Fault;
use crate::state::Entry;
use crate::warm::{BucketId, CursorRow, DedupKey, FirstAppend, ShardRow};

/// The columns [`entry`] reads, in its order.
pub(super) const ENTRY: &str = "id, kind, sender, key, sum, body";
/// The columns [`cursor`] reads.
pub(super) const CURSOR: &str = "user, device, cursor, seen, sum";
/// The columns [`dedup`] reads.
pub(super) const DEDUP: &str = "bucket, key, sender, id, digest, sum";

pub(super) fn corrupt(what: String, why: impl std::fmt::Display) -> Fault {
    Fault::Corrupt { what, why: why.to_string() }
}

/// The slot of a shard that has one.
pub(super) fn slot(conn: &Connection, shard: ShardId) -> Result<Option<i64>, Fault> {
    let mut select = conn.prepare_cached("SELECT slot, slot_sum FROM shards WHERE shard = ?1")?;
    let found: Option<(i64, i64)> = select.query_row([shard.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((slot, sum)) = found else { return Ok(None) };
    if sum == slot_sum(shard, slot) { Ok(Some(slot)) } else { Err(corrupt(shard_name(shard), "checksum of its slot")) }
}

pub(super) fn shard_row(conn: &Connection, shard: ShardId) -> Result<Option<ShardRow>, Fault> {
    let mut select = conn.prepare_cached("SELECT row, sum FROM shards WHERE shard = ?1")?;
    let found: Option<(Vec<u8>, i64)> = select.query_row([shard.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((row, sum)) = found else { return Ok(None) };
    if sum != xxh3_64(&row).cast_signed() {
        return Err(corrupt(shard_name(shard), "checksum"));
    }
    versioned::decode(&row).map(Some).map_err(|error| corrupt(shard_name(shard), error))
}

fn shard_name(shard: ShardId) -> String {
    format!("the row of shard {shard}")
}

/// Writes the row, and with it which slot counts.
pub(super) fn put_shard(conn: &Connection, shard: ShardId, slot: i64, row: &ShardRow) -> Result<(), Fault> {
    let row = versioned::encode(row);
    let sql = "INSERT OR REPLACE INTO shards (shard, slot, slot_sum, row, sum) VALUES (?1, ?2, ?3, ?4, ?5)";
    let sum = xxh3_64(&row).cast_signed();
    conn.prepare_cached(sql)?.execute(params![shard.0, slot, slot_sum(shard, slot), row, sum])?;
    Ok(())
}

fn slot_sum(shard: ShardId, slot: i64) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(&shard.0.to_le_bytes());
    hash.update(&slot.to_le_bytes());
    short(&hash)
}

pub(super) fn put_entry(
    conn: &Connection,
    slot: i64,
    vnode: VnodeId,
    user: &UserId,
    entry: &Entry,
) -> Result<(), Fault> {
    let sql = "INSERT INTO entries (slot, vnode, user, id, kind, sender, key, sum, body)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    conn.prepare_cached(sql)?.execute(params![
        slot,
        vnode.0,
        user.as_str(),
        entry.id.0.cast_signed(),
        entry.kind,
        entry.sender.as_str(),
        &entry.key.0[..],
        entry_sum(user, entry),
        &entry.body[..],
    ])?;
    Ok(())
}

/// The entry in the columns from `at` on.
pub(super) fn entry(row: &Row<'_>, at: usize, user: &UserId) -> Result<Entry, Fault> {
    let id = id(row, at)?;
    let damaged = |why: &dyn std::fmt::Display| corrupt(format!("entry {id} of {user}"), why);
    let body = row.get_ref(at + 5)?.as_blob().map_err(rusqlite::Error::from)?;
    let entry = Entry {
        id,
        kind: row.get(at + 1)?,
        sender: UserId::new(text(row, at + 2)?).map_err(|error| damaged(&error))?,
        key: key(row, at + 3)?.ok_or_else(|| damaged(&"a key that isn't 16 bytes"))?,
        body: Bytes::copy_from_slice(body),
    };
    if row.get::<_, i64>(at + 4)? != entry_sum(user, &entry) {
        return Err(damaged(&"checksum"));
    }
    Ok(entry)
}

/// Over everything an entry says, its inbox included: a row in the wrong place is as bad as a wrong byte.
fn entry_sum(user: &UserId, entry: &Entry) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(user.as_bytes());
    hash.update(&[0]);
    hash.update(entry.sender.as_bytes());
    hash.update(&[0]);
    hash.update(&entry.id.0.to_le_bytes());
    hash.update(&entry.kind.to_le_bytes());
    hash.update(&entry.key.0);
    hash.update(&entry.body);
    hash.digest().cast_signed()
}

/// Writes a cursor; what stands there already counts where it is further.
pub(super) fn put_cursor(conn: &Connection, slot: i64, row: &CursorRow) -> Result<(), Fault> {
    let sql = format!("SELECT {CURSOR} FROM cursors WHERE slot = ?1 AND user = ?2 AND device = ?3");
    let mut select = conn.prepare_cached(&sql)?;
    let mut found = select.query(params![slot, row.user.as_str(), row.device.as_str()])?;
    let mut row = row.clone();
    if let Some(found) = found.next()? {
        let stands = cursor(found)?;
        row.cursor = row.cursor.max(stands.cursor);
        row.seen = row.seen.max(stands.seen);
    }
    drop(found);
    let sql = "INSERT OR REPLACE INTO cursors (slot, user, device, cursor, seen, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    conn.prepare_cached(sql)?.execute(params![
        slot,
        row.user.as_str(),
        row.device.as_str(),
        row.cursor.0.cast_signed(),
        row.seen.0.cast_signed(),
        cursor_sum(&row),
    ])?;
    Ok(())
}

pub(super) fn cursor(row: &Row<'_>) -> Result<CursorRow, Fault> {
    let damaged = |why: &dyn std::fmt::Display| corrupt("a cursor".to_owned(), why);
    let found = CursorRow {
        user: UserId::new(text(row, 0)?).map_err(|error| damaged(&error))?,
        device: DeviceId::new(text(row, 1)?).map_err(|error| damaged(&error))?,
        cursor: id(row, 2)?,
        seen: id(row, 3)?,
    };
    if row.get::<_, i64>(4)? != cursor_sum(&found) {
        return Err(damaged(&format!("checksum, of {} on {}", found.user, found.device)));
    }
    Ok(found)
}

fn cursor_sum(row: &CursorRow) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(row.user.as_bytes());
    hash.update(&[0]);
    hash.update(row.device.as_bytes());
    hash.update(&[0]);
    hash.update(&row.cursor.0.to_le_bytes());
    hash.update(&row.seen.0.to_le_bytes());
    short(&hash)
}

pub(super) fn put_dedup(conn: &Connection, slot: i64, bucket: BucketId, key: &DedupKey) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO dedup (slot, bucket, key, sender, id, digest, sum)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    conn.prepare_cached(sql)?.execute(params![
        slot,
        bucket.0,
        &key.key.0[..],
        key.sender.as_str(),
        key.id.0.cast_signed(),
        key.digest.cast_signed(),
        dedup_sum(bucket, key),
    ])?;
    Ok(())
}

pub(super) fn dedup(row: &Row<'_>) -> Result<(BucketId, DedupKey), Fault> {
    let bucket = BucketId(row.get(0)?);
    let damaged = |why: &dyn std::fmt::Display| corrupt(format!("a dedup key in bucket {bucket}"), why);
    let found = DedupKey {
        key: key(row, 1)?.ok_or_else(|| damaged(&"it isn't 16 bytes"))?,
        sender: UserId::new(text(row, 2)?).map_err(|error| damaged(&error))?,
        id: id(row, 3)?,
        digest: row.get::<_, i64>(4)?.cast_unsigned(),
    };
    if row.get::<_, i64>(5)? != dedup_sum(bucket, &found) {
        return Err(damaged(&format!("checksum, of the key of entry {}", found.id)));
    }
    Ok((bucket, found))
}

pub(super) fn find_dedup(
    conn: &Connection,
    slot: i64,
    bucket: BucketId,
    (key, sender): (MessageKey, &UserId),
) -> Result<Option<FirstAppend>, Fault> {
    let sql = format!("SELECT {DEDUP} FROM dedup WHERE slot = ?1 AND bucket = ?2 AND key = ?3 AND sender = ?4");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query(params![slot, bucket.0, &key.0[..], sender.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (_, found) = dedup(row)?;
    Ok(Some((found.id, found.digest)))
}

fn dedup_sum(bucket: BucketId, key: &DedupKey) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(&bucket.0.to_le_bytes());
    hash.update(&key.key.0);
    hash.update(&key.id.0.to_le_bytes());
    hash.update(&key.digest.to_le_bytes());
    hash.update(key.sender.as_bytes());
    short(&hash)
}

/// Up to where an inbox is trimmed; zero if it isn't.
pub(super) fn trimmed(conn: &Connection, slot: i64, vnode: VnodeId, user: &str) -> Result<EntryId, Fault> {
    let sql = "SELECT up_to, sum FROM trimmed WHERE slot = ?1 AND vnode = ?2 AND user = ?3";
    let mut select = conn.prepare_cached(sql)?;
    let found: Option<(i64, i64)> =
        select.query_row(params![slot, vnode.0, user], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((up_to, sum)) = found else { return Ok(EntryId::ZERO) };
    let up_to = EntryId(up_to.cast_unsigned());
    if sum == trim_sum(user, up_to) { Ok(up_to) } else { Err(corrupt(format!("a trim of {user}"), "checksum")) }
}

pub(super) fn put_trimmed(
    conn: &Connection,
    slot: i64,
    vnode: VnodeId,
    user: &UserId,
    up_to: EntryId,
) -> Result<(), Fault> {
    let up_to = up_to.max(trimmed(conn, slot, vnode, user.as_str())?);
    let sql = "INSERT OR REPLACE INTO trimmed (slot, vnode, user, up_to, sum) VALUES (?1, ?2, ?3, ?4, ?5)";
    let sum = trim_sum(user.as_str(), up_to);
    conn.prepare_cached(sql)?.execute(params![slot, vnode.0, user.as_str(), up_to.0.cast_signed(), sum])?;
    Ok(())
}

fn trim_sum(user: &str, up_to: EntryId) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(user.as_bytes());
    hash.update(&[0]);
    hash.update(&up_to.0.to_le_bytes());
    short(&hash)
}

/// Whether a bucket was removed and only waits to be deleted.
pub(super) fn dropped(conn: &Connection, slot: i64, bucket: BucketId) -> Result<bool, Fault> {
    let mut select = conn.prepare_cached("SELECT sum FROM dropped WHERE slot = ?1 AND bucket = ?2")?;
    let sum: Option<i64> = select.query_row(params![slot, bucket.0], |row| row.get(0)).optional()?;
    match sum {
        None => Ok(false),
        Some(sum) if sum == drop_sum(slot, bucket) => Ok(true),
        Some(_) => Err(corrupt(format!("the removal of bucket {bucket}"), "checksum")),
    }
}

pub(super) fn put_dropped(conn: &Connection, slot: i64, bucket: BucketId) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO dropped (slot, bucket, sum) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute(params![slot, bucket.0, drop_sum(slot, bucket)])?;
    Ok(())
}

fn drop_sum(slot: i64, bucket: BucketId) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(&slot.to_le_bytes());
    hash.update(&bucket.0.to_le_bytes());
    short(&hash)
}

pub(super) fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    row.get_ref(column)?.as_bytes().map_err(rusqlite::Error::from)
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<EntryId> {
    row.get::<_, i64>(column).map(|id| EntryId(id.cast_unsigned()))
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<MessageKey>> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(bytes.try_into().ok().map(MessageKey))
}

/// 32 bits of a hash: 4 bytes in a row instead of 8.
fn short(hash: &Xxh3) -> i64 {
    i64::from(hash.digest() as u32)
}
