//! Warm records as bytes, in a hand-written encoding (postcard would copy every body): what snapshots carry and what sled
//! keeps. Whoever keeps it gives it a version and a checksum.
//!
//! Layout, little endian. Entry: tag 1, id u64, kind u16, key 16 bytes, user length u16, sender length u16, user, sender,
//! body to the end. Cursor: tag 2, cursor u64, seen u64, user length u16, user, device to the end. Dedup key: tag 3, bucket
//! u32, key 16 bytes, id u64, digest u64, sender to the end.

use bytes::{Buf, BufMut, Bytes};
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::limits::BODY_LEN_MAX;
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};

use super::{BucketId, CursorRow, DedupKey, WarmRecord};
use crate::state::Entry;

const TAG_ENTRY: u8 = 1;
const TAG_CURSOR: u8 = 2;
const TAG_DEDUP: u8 = 3;

/// Appends a record's bytes.
pub(crate) fn encode_record(record: &WarmRecord, out: &mut Vec<u8>) {
    match record {
        WarmRecord::Entry { user, entry } => encode_entry(user, entry, out),
        WarmRecord::Cursor(row) => {
            out.put_u8(TAG_CURSOR);
            out.put_u64_le(row.cursor.0);
            out.put_u64_le(row.seen.0);
            put_name_len(out, row.user.as_bytes());
            out.put_slice(row.user.as_bytes());
            out.put_slice(row.device.as_bytes());
        }
        WarmRecord::Dedup { bucket, key } => {
            out.put_u8(TAG_DEDUP);
            out.put_u32_le(bucket.0);
            out.put_slice(&key.key.0);
            out.put_u64_le(key.id.0);
            out.put_u64_le(key.digest);
            out.put_slice(key.sender.as_bytes());
        }
    }
}

/// As [`encode_record`], of an entry that is borrowed.
pub(crate) fn encode_entry(user: &UserId, entry: &Entry, out: &mut Vec<u8>) {
    out.put_u8(TAG_ENTRY);
    out.put_u64_le(entry.id.0);
    out.put_u16_le(entry.kind);
    out.put_slice(&entry.key.0);
    put_name_len(out, user.as_bytes());
    put_name_len(out, entry.sender.as_bytes());
    out.put_slice(user.as_bytes());
    out.put_slice(entry.sender.as_bytes());
    out.put_slice(&entry.body);
}

fn put_name_len(out: &mut Vec<u8>, name: &[u8]) {
    out.put_u16_le(u16::try_from(name.len()).expect("a name has at most USER_LEN_MAX bytes"));
}

/// Reads one record; an entry's body shares the bytes.
pub(crate) fn decode_record(bytes: &Bytes) -> Result<WarmRecord, String> {
    let mut rest = bytes.clone();
    match rest.try_get_u8().map_err(|_| "an empty record")? {
        TAG_ENTRY => decode_entry(rest),
        TAG_CURSOR => {
            let (cursor, seen) = (id(&mut rest)?, id(&mut rest)?);
            let user_len = rest.try_get_u16_le().map_err(early)?.into();
            let user = UserId::new(&take(&mut rest, user_len)?[..]).map_err(|error| error.to_string())?;
            let device = DeviceId::new(&rest[..]).map_err(|error| error.to_string())?;
            Ok(WarmRecord::Cursor(CursorRow { user, device, cursor, seen }))
        }
        TAG_DEDUP => {
            let bucket = BucketId(rest.try_get_u32_le().map_err(early)?);
            let (key, id) = (key(&mut rest)?, id(&mut rest)?);
            let digest = rest.try_get_u64_le().map_err(early)?;
            let sender = UserId::new(&rest[..]).map_err(|error| error.to_string())?;
            Ok(WarmRecord::Dedup { bucket, key: DedupKey { key, sender, id, digest } })
        }
        tag => Err(format!("a record of kind {tag}")),
    }
}

fn decode_entry(mut rest: Bytes) -> Result<WarmRecord, String> {
    let id = id(&mut rest)?;
    let kind = rest.try_get_u16_le().map_err(early)?;
    let key = key(&mut rest)?;
    let user_len = rest.try_get_u16_le().map_err(early)?.into();
    let sender_len = rest.try_get_u16_le().map_err(early)?.into();
    let user = UserId::new(&take(&mut rest, user_len)?[..]).map_err(|error| error.to_string())?;
    let sender = UserId::new(&take(&mut rest, sender_len)?[..]).map_err(|error| error.to_string())?;
    if rest.len() > BODY_LEN_MAX {
        return Err(format!("a body of {} bytes", rest.len()));
    }
    Ok(WarmRecord::Entry { user, entry: Entry { id, sender, kind, key, body: rest } })
}

fn id(rest: &mut Bytes) -> Result<EntryId, String> {
    let id = EntryId(rest.try_get_u64_le().map_err(early)?);
    if id > ENTRY_ID_MAX { Err("an id of 64 bits".to_owned()) } else { Ok(id) }
}

fn key(rest: &mut Bytes) -> Result<MessageKey, String> {
    let key = take(rest, 16)?;
    key[..].try_into().map(MessageKey).map_err(|_| "a key that ends early".to_owned())
}

fn take(rest: &mut Bytes, len: usize) -> Result<Bytes, String> {
    if len > rest.len() { Err("a record that ends early".to_owned()) } else { Ok(rest.split_to(len)) }
}

fn early(_: bytes::TryGetError) -> String {
    "a record that ends early".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<WarmRecord> {
        let (user, sender) = (UserId::new("u").unwrap(), UserId::new("ünï").unwrap());
        let key = MessageKey([7; 16]);
        let body = Bytes::from_static(b"body");
        let entry = Entry { id: EntryId(99), sender: sender.clone(), kind: 3, key, body };
        vec![
            WarmRecord::Entry { user: user.clone(), entry },
            WarmRecord::Cursor(CursorRow {
                user,
                device: DeviceId::new("phone").unwrap(),
                cursor: EntryId(5),
                seen: EntryId(6),
            }),
            WarmRecord::Dedup { bucket: BucketId(1), key: DedupKey { key, sender, id: EntryId(2), digest: 3 } },
        ]
    }

    fn encoded(record: &WarmRecord) -> Bytes {
        let mut out = Vec::new();
        encode_record(record, &mut out);
        Bytes::from(out)
    }

    // What a snapshot or a sled store carries is read by other versions: this pins it.
    #[test]
    fn the_layout_is_pinned() {
        let [entry, cursor, dedup] = samples().iter().map(encoded).collect::<Vec<_>>().try_into().unwrap();
        let key = "\x07".repeat(16);
        assert_eq!(entry, format!("\x01\x63\0\0\0\0\0\0\0\x03\0{key}\x01\0\x05\0uünïbody"));
        assert_eq!(cursor, "\x02\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x01\0uphone");
        assert_eq!(dedup, format!("\x03\x01\0\0\0{key}\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0ünï"));
    }

    #[test]
    fn records_read_back_and_heads_cut_short_are_refused() {
        for record in samples() {
            let bytes = encoded(&record);
            assert_eq!(decode_record(&bytes), Ok(record));
            for len in 0..30 {
                let _ = decode_record(&bytes.slice(..len.min(bytes.len())));
            }
            assert!(decode_record(&bytes.slice(..12)).is_err());
        }
        assert!(decode_record(&Bytes::from_static(b"\x04rest")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(tag in 0..5u8, rest in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = vec![tag];
            bytes.extend(rest);
            if let Ok(record) = decode_record(&Bytes::from(bytes.clone())) {
                prop_assert_eq!(encoded(&record), bytes);
            }
        }
    }
}
