//! Snapshot files: round trips, damage, transfers that break off anywhere, and what is left in the folder.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use iris_protocol::ShardId;
use iris_store::snapshot::{CHUNK_LEN_MAX, RECORD_LEN_MAX, clear_old};
use iris_store::{AppliedMark, SnapshotFile, SnapshotManifest, SnapshotReceiver, SnapshotWriter, StoreError, Subject};
use proptest::prelude::*;

const SHARD: Subject = Subject::Shard(ShardId(1));

fn mark() -> AppliedMark {
    AppliedMark { index: 7, log_id: Bytes::from_static(b"log id"), membership: Bytes::from_static(b"members") }
}

fn write(dir: &Path, subject: Subject, records: &[Vec<u8>]) -> SnapshotFile {
    let mut writer = SnapshotWriter::create(dir, subject, mark()).unwrap();
    records.iter().for_each(|record| writer.record(record).unwrap());
    writer.finish().unwrap()
}

fn records(file: &SnapshotFile) -> Result<Vec<Vec<u8>>, StoreError> {
    file.records().map(|record| record.map(|bytes| bytes.to_vec())).collect()
}

/// `len` records of some 40 KB, so that they lie across chunks.
fn large(len: usize) -> Vec<Vec<u8>> {
    (0..len).map(|n| (0..40_000 + n).map(|at| (at * 31 + n) as u8).collect()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let full = CHUNK_LEN_MAX - 20;
    let cases: [Vec<Vec<u8>>; 6] = [
        vec![],
        vec![vec![]],
        vec![vec![1; 10], vec![], vec![2; 300_000], vec![3]],
        vec![vec![4; full - 4]],
        vec![vec![5; full - 3]],
        large(9),
    ];
    for case in cases {
        let file = write(dir.path(), SHARD, &case);
        assert_eq!(records(&file).unwrap(), case);
        let manifest = file.manifest().clone();
        assert_eq!((manifest.subject, &manifest.mark), (SHARD, &mark()));
        let bytes: u64 = case.iter().map(|record| record.len() as u64 + 4).sum();
        assert_eq!((manifest.bytes, manifest.chunks), (bytes, bytes.div_ceil(full as u64)));
        assert!((0..manifest.chunks).all(|n| file.chunk(n).unwrap().len() <= CHUNK_LEN_MAX));
        assert!(file.chunk(manifest.chunks).is_err());
        let again = SnapshotFile::open(file.path()).unwrap();
        assert_eq!((again.manifest(), records(&again).unwrap()), (&manifest, case));
        drop(again);
        assert_eq!(names(dir.path()).len(), 1);
    }
    assert!(names(dir.path()).is_empty(), "each went with the handle of whoever wrote it");
    let mut writer = SnapshotWriter::create(dir.path(), Subject::Meta, mark()).unwrap();
    assert!(writer.record(&vec![0; RECORD_LEN_MAX + 1]).is_err());
    drop(writer);
    assert!(names(dir.path()).is_empty(), "an unfinished one is gone");
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), SHARD, &[b"some content".to_vec(), vec![7; 100]]);
    let good = std::fs::read(file.path()).unwrap();
    let path = dir.path().join("bad");
    for len in 0..good.len() {
        std::fs::write(&path, &good[..len]).unwrap();
        let error = SnapshotFile::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{len}: {error}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        let error = SnapshotFile::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{bit}: {error}");
        assert!(error.to_string().contains("bad"), "{error}");
    }
    std::fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    assert!(SnapshotFile::open(&path).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn damage_in_a_large_one_is_refused_wherever_it_is(place in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), SHARD, &large(5));
        let mut bytes = std::fs::read(file.path()).unwrap();
        let at = place.index(bytes.len());
        bytes[at] ^= flip;
        std::fs::write(file.path(), bytes).unwrap();
        prop_assert!(SnapshotFile::open(file.path()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_as_a_chunk(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = write(source.path(), SHARD, &[vec![1; 50]]);
        let mut receiver = SnapshotReceiver::begin_or_resume(target.path(), file.manifest().clone()).unwrap();
        prop_assert!(receiver.chunk(&bytes).is_err());
    }
}

fn begin(dir: &Path, file: &SnapshotFile) -> SnapshotReceiver {
    SnapshotReceiver::begin_or_resume(dir, file.manifest().clone()).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let names = names(dir);
    assert_eq!(names.len(), 1, "{names:?}");
    dir.join(&names[0])
}

#[test]
fn a_transfer_goes_on_wherever_it_broke_off() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content = large(9);
    let file = write(source.path(), SHARD, &content);
    let chunks = file.manifest().chunks;
    assert!(chunks > 4);
    // How the part of the file behind the last whole chunk may look after a crash.
    type Left = fn(&mut Vec<u8>);
    let left: [Left; 4] = [
        |_| {},
        |bytes| bytes.extend(vec![0; 100_000]),
        |bytes| bytes.extend(b"half a chunk"),
        |bytes| *bytes.last_mut().unwrap() ^= 1,
    ];
    for (case, damage) in left.into_iter().enumerate() {
        for stop in 0..=chunks {
            let mut receiver = begin(target.path(), &file);
            assert_eq!(receiver.next_chunk(), 0);
            (0..stop).for_each(|n| receiver.chunk(&file.chunk(n).unwrap()).unwrap());
            drop(receiver);
            let path = only_file(target.path());
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let mut receiver = begin(target.path(), &file);
            let kept = if case == 3 { stop.saturating_sub(1) } else { stop };
            assert_eq!(receiver.next_chunk(), kept, "case {case}, {stop} chunks");
            (kept..chunks).for_each(|n| receiver.chunk(&file.chunk(n).unwrap()).unwrap());
            let received = receiver.finish().unwrap();
            assert_eq!((received.manifest(), records(&received).unwrap()), (file.manifest(), content.clone()));
            assert_eq!(std::fs::read(received.path()).unwrap(), std::fs::read(file.path()).unwrap());
            // Received, and the process died before it was installed.
            let receiver = begin(target.path(), &file);
            assert_eq!(receiver.next_chunk(), chunks);
            std::fs::remove_file(receiver.finish().unwrap().path()).unwrap();
        }
    }
}

#[test]
fn what_is_not_the_next_chunk_is_refused_and_changes_nothing() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = write(source.path(), SHARD, &large(4));
    let other = write(&source.path().join("other"), SHARD, &large(4));
    let mut receiver = begin(target.path(), &file);
    let first = file.chunk(0).unwrap();
    let mut damaged = first.to_vec();
    damaged[500] ^= 1;
    let wrong = [file.chunk(1).unwrap(), other.chunk(0).unwrap(), first.slice(1..), Bytes::from(damaged), Bytes::new()];
    for bytes in wrong {
        let error = receiver.chunk(&bytes).unwrap_err();
        assert!(matches!(error, StoreError::Transfer { .. }), "{error}");
    }
    receiver.chunk(&first).unwrap();
    assert!(receiver.chunk(&first).is_err(), "twice");
    assert!(matches!(receiver.finish(), Err(StoreError::Transfer { .. })), "not all came");
    let mut receiver = begin(target.path(), &file);
    (1..file.manifest().chunks).for_each(|n| receiver.chunk(&file.chunk(n).unwrap()).unwrap());
    assert!(receiver.chunk(&[]).is_err(), "one too many");
    assert_eq!(records(&receiver.finish().unwrap()).unwrap(), large(4));
    // Totals that don't fit each other, before anything is set aside for them.
    for (chunks, bytes) in [(0, 1), (1, 0), (1, u64::MAX), (u64::MAX, u64::MAX), (3, 70_000)] {
        let manifest = SnapshotManifest { chunks, bytes, ..file.manifest().clone() };
        let begun = SnapshotReceiver::begin_or_resume(target.path(), manifest);
        assert!(matches!(begun, Err(StoreError::Transfer { .. })), "{chunks} {bytes}");
    }
}

#[test]
fn the_folder_holds_one_of_each_subject() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, target) = (dir.path(), target.path());
    let twelve = write(dir, Subject::Shard(ShardId(12)), &[vec![1]]);
    let meta = write(dir, Subject::Meta, &[vec![1]]);
    let old = write(dir, SHARD, &large(3));
    let new = write(dir, SHARD, &large(4));
    assert_eq!(names(dir).len(), 3, "{:?}", names(dir));
    assert_eq!(records(&old).unwrap(), large(3), "whoever sends the old one goes on");
    // A new one from a peer takes the place of one that was half received.
    begin(target, &old).chunk(&old.chunk(0).unwrap()).unwrap();
    let mut receiver = begin(target, &new);
    assert_eq!((receiver.next_chunk(), names(target).len()), (0, 1));
    receiver.chunk(&new.chunk(0).unwrap()).unwrap();
    drop(receiver);
    drop(begin(target, &meta));
    std::fs::write(dir.join("shard-1-00.tmp"), "").unwrap();
    std::fs::write(dir.join("someone's file"), "").unwrap();
    clear_old(dir, &[meta.id()]).unwrap();
    assert_eq!(names(dir).len(), 2, "{:?}", names(dir));
    assert!(SnapshotFile::open(meta.path()).is_ok() && SnapshotFile::open(twelve.path()).is_err());
    clear_old(target, &[new.id()]).unwrap();
    assert_eq!(begin(target, &new).next_chunk(), 1, "a reception that is kept goes on");
    clear_old(target, &[]).unwrap();
    assert_eq!(names(target), Vec::<String>::new());
    clear_old(&dir.join("not there"), &[]).unwrap();
}
