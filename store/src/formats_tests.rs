//! The formats on this node's disks, as fixtures (`iris_protocol::testing`): what an update must go on reading.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use iris_protocol::testing::{check_file, check_value};
use iris_protocol::versioned;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use protobuf::Message;

use crate::log::{Bounds, Record};
use crate::warm::{ShardRow, SledWarm, WarmStore};
use crate::*;

const SHARD: ShardId = ShardId(3);
const KEYS: KeysSeen = KeysSeen(5);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn message(key: u8) -> NewMessage {
    NewMessage {
        sender: user("älice"),
        key: MessageKey([key; 16]),
        recipient: user("bob"),
        kind: 7,
        stamp: EntryId(1_795_000_000_000 << 16 | u64::from(key)),
        body: Bytes::from_static(b"hello"),
    }
}

fn items() -> Vec<Item> {
    let (id, device) = (message(1).stamp, DeviceId::new("phone").unwrap());
    vec![
        Item::Message(message(1)),
        Item::Message(message(2)),
        Item::Cursor { user: user("bob"), device: device.clone(), cursor: id, seen: message(9).stamp },
        Item::Known { first: EntryId(77), conflict: true },
        Item::Trim { user: user("carol"), up_to: EntryId(88), entries: 3 },
        Item::Expire { user: user("carol"), device, before: EntryId(99) },
    ]
}

#[test]
fn commands_and_log_records() {
    check_value(
        "command",
        &items(),
        |items| encode_command(items, KEYS).into(),
        |bytes| decode_batch(&Bytes::copy_from_slice(bytes)),
    );
    let record = Record::new(12, Bytes::from_static(b"an entry"));
    check_value("log_record", &record, |record| record.write_to_bytes().unwrap(), Record::parse_from_bytes);
}

#[test]
fn bounds_of_a_log() {
    let bounds = versioned::decode::<Bounds>(&[1, 1, 40, 1, 50]).unwrap();
    check_value("log_bounds", &bounds, versioned::encode, versioned::decode);
}

#[test]
fn checked_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write_checked(&path, 9, b"content").unwrap();
    let today = std::fs::read(&path).unwrap();
    let version = u32::from(today[7] - b'0');
    let newest = check_file("checked_file", version, &today, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_checked(&path).unwrap(), Some((9, b"content".to_vec())));
    });
    assert_eq!(newest, today);
}

#[test]
fn the_name_of_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    drop(warm::open(warm::Engine::Sqlite, dir.path()).unwrap());
    let path = dir.path().join("engine");
    let today = std::fs::read(&path).unwrap();
    // Behind the magic of a checked file.
    let version = u16::from_le_bytes([today[8], today[9]]);
    let newest = check_file("engine", version.into(), &today, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(warm::made_with(dir.path()).unwrap(), Some(warm::Engine::Sqlite));
    });
    assert_eq!(newest, today);
}

/// A shard that took the items in and wrote them down.
fn fill(warm: Arc<dyn WarmStore>) -> (ShardStore, ShardRow) {
    let store = ShardStore::open(warm.clone(), SHARD, StoreOptions::default()).unwrap();
    store.apply_membership(1, Bytes::from_static(b"id 1"), Bytes::from_static(b"members"));
    store.apply(2, Bytes::from_static(b"id 2"), &encode_command(&items(), KEYS)).unwrap();
    store.checkpoint().unwrap();
    let row = warm.shard(SHARD).unwrap().unwrap();
    (store, row)
}

/// What is in a store that was filled so.
fn check_filled(warm: Arc<dyn WarmStore>) {
    let store = ShardStore::open(warm, SHARD, StoreOptions::default()).unwrap();
    let mark = store.applied();
    assert_eq!((mark.index, &mark.log_id[..], &mark.membership[..]), (2, &b"id 2"[..], &b"members"[..]));
    let page = store.read(&user("bob"), EntryId::ZERO, PageLimits { entries_max: 9, bytes_max: 999 }).unwrap();
    let sent = [message(1), message(2)].map(|NewMessage { sender, key, kind, stamp, body, .. }| Entry {
        id: stamp,
        sender,
        kind,
        key,
        body,
    });
    assert_eq!(page.entries, sent);
    assert_eq!(store.cursor(&user("bob"), &DeviceId::new("phone").unwrap()).unwrap(), sent[0].id);
    let again = encode_command(&[Item::Message(message(1))], KEYS);
    let reply = store.apply(3, Bytes::from_static(b"id 3"), &again).unwrap();
    assert_eq!(reply.outcomes, [Outcome::Duplicate(sent[0].id)]);
}

#[test]
fn a_shards_row_and_its_sqlite_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inboxes.db");
    let (store, row) = fill(Arc::new(Warm::open(&path).unwrap()));
    drop(store);
    check_value("shard_row", &row, versioned::encode, versioned::decode);
    let today = std::fs::read(&path).unwrap();
    // Where SQLite keeps `user_version`.
    let version = u32::from_be_bytes(today[60..64].try_into().unwrap());
    check_file("sqlite", version, &today, |bytes| {
        let path = dir.path().join("old.db");
        std::fs::write(&path, bytes).unwrap();
        check_filled(Arc::new(Warm::open(&path).unwrap()));
    });
}

/// A folder's files in one: name and content, each with its length before it.
fn pack(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        let name = path.file_name().unwrap().to_str().unwrap().as_bytes().to_vec();
        for piece in [name, std::fs::read(&path).unwrap()] {
            out.extend_from_slice(&(piece.len() as u32).to_le_bytes());
            out.extend_from_slice(&piece);
        }
    }
    out
}

fn unpack(mut bytes: &[u8], dir: &Path) {
    let mut piece = || {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (piece, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        bytes = rest;
        Some(piece)
    };
    std::fs::create_dir_all(dir.join("blobs")).unwrap();
    while let (Some(name), Some(content)) = (piece(), piece()) {
        std::fs::write(dir.join(std::str::from_utf8(name).unwrap()), content).unwrap();
    }
}

#[test]
fn a_sled_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inboxes.sled");
    drop(fill(Arc::new(SledWarm::open(&path).unwrap())));
    check_file("sled", crate::warm::SLED_VERSION as u32, &pack(&path), |bytes| {
        let path = dir.path().join("old.sled");
        unpack(bytes, &path);
        check_filled(Arc::new(SledWarm::open(&path).unwrap()));
    });
}

#[test]
fn a_snapshot() {
    const MAGIC_AND_LEN: usize = 8 + 4;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = fill(Arc::new(Warm::open(&dir.path().join("inboxes.db")).unwrap()));
    let file = store.snapshot().unwrap().unwrap().export(dir.path()).unwrap();
    let manifest = SnapshotManifest { id: SnapshotId([8; 16]), ..file.manifest().clone() };
    check_value("snapshot_manifest", &manifest, versioned::encode, versioned::decode);
    let today = std::fs::read(file.path()).unwrap();
    let version = u32::from(today[MAGIC_AND_LEN]);
    check_file("snapshot", version, &today, |bytes| {
        let path = dir.path().join("old.snap");
        std::fs::write(&path, bytes).unwrap();
        let warm = Arc::new(Warm::open(&dir.path().join("other.db")).unwrap());
        let other = ShardStore::open(warm.clone(), SHARD, StoreOptions::default()).unwrap();
        other.install(&SnapshotFile::open(&path).unwrap()).unwrap();
        drop(other);
        check_filled(warm);
    });
}
