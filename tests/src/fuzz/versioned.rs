//! What is kept on disk as a value with a version: the meta group's state and commands, rows of the warm tier,
//! a node's place, its address book, checked files.
//! Must hold: any bytes are a value or an error; what is read and written again is the same; a state takes whatever command the log holds, and is
//! still one that can be kept; a checked file with one byte changed is refused.

use bytes::Bytes;
use iris_appliance::admission::Membership;
use iris_appliance::cluster::fuzzing::RAFT_VALUES;
use iris_appliance::cluster::meta::{Meta, MetaCommand};
use iris_p2p::AddressBook;
use iris_protocol::versioned::{self, Versioned};
use iris_store::SnapshotManifest;
use iris_store::fuzzing::{bounds, read_checked_file, read_warm_record, write_checked_file, write_warm_record};
use iris_store::warm::ShardRow;

use super::settles;

/// The target: the bytes as each of these in turn.
pub fn versioned(input: &[u8]) {
    value::<Meta>(input);
    value::<MetaCommand>(input);
    value::<ShardRow>(input);
    value::<Membership>(input);
    value::<AddressBook>(input);
    value::<SnapshotManifest>(input);
    settles("warm record", input, |bytes| {
        read_warm_record(&Bytes::copy_from_slice(bytes)).map(|record| write_warm_record(&record))
    });
    settles("log bounds", input, bounds);
    for (name, again) in RAFT_VALUES {
        settles(name, input, again);
    }
    commands(input);
    checked_file(input);
}

fn value<T: Versioned>(bytes: &[u8]) {
    settles(T::NAME, bytes, |bytes| versioned::decode::<T>(bytes).map(|value| versioned::encode(&value)));
}

/// The bytes as commands of the meta log, one after the other, each with its length before it.
fn commands(mut rest: &[u8]) {
    let mut meta = Meta::default();
    while let Some((&[high, low], behind)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(behind.len());
        let (command, behind) = behind.split_at(len);
        if let Ok(command) = versioned::decode::<MetaCommand>(command) {
            meta.apply(command);
        }
        rest = behind;
    }
    let kept = versioned::encode(&meta);
    assert_eq!(versioned::decode::<Meta>(&kept).as_ref(), Ok(&meta), "a state that can't be kept");
}

/// The bytes as a file, and as a file's version and content.
fn checked_file(bytes: &[u8]) {
    if let Ok((version, content)) = read_checked_file(bytes) {
        assert_eq!(write_checked_file(version, content), bytes);
    }
    let Some((&[high, low, at], content)) = bytes.split_first_chunk::<3>() else { return };
    let version = u16::from_be_bytes([high, low]);
    let mut file = write_checked_file(version, content);
    assert_eq!(read_checked_file(&file), Ok((version, content)));
    let at = usize::from(at) * file.len() / 256;
    file[at] ^= 1;
    assert!(read_checked_file(&file).is_err(), "byte {at} was changed and nobody noticed");
}
