//! Snapshots on their way in. Must hold: whatever chunks come, damaged, cut, out of order, again, over breaks and crashes, only
//! the right next one is taken, and what is whole at the end is what was sent; whatever a peer announces, and whatever lies in a file, is a snapshot
//! or an error.
//!
//! The first byte says which: a file, a peer's own manifest and chunks, or a transfer with its disturbances.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use iris_protocol::versioned;
use iris_store::{AppliedMark, SnapshotFile, SnapshotManifest, SnapshotReceiver, SnapshotWriter, Subject};

/// Records of a transfer, and what they may have together: three chunks.
const RECORDS_MAX: usize = 8;
const CONTENT_MAX: usize = 160 * 1024;

/// Steps of a transfer: more would only repeat.
const STEPS_MAX: usize = 24;

/// The target.
pub fn snapshot_chunks(input: &[u8]) {
    let Some((&which, rest)) = input.split_first() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    match which % 3 {
        0 => file(dir.path(), rest),
        1 => announced(dir.path(), rest),
        _ => transfer(dir.path(), rest),
    }
}

/// Whatever lies in a file.
fn file(dir: &Path, bytes: &[u8]) {
    let path = dir.join("any.snap");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(file) = SnapshotFile::open(&path) {
        read(&file);
    }
}

/// Whatever a peer announces: its manifest's length, the manifest, then chunks, each with its length.
fn announced(dir: &Path, mut bytes: &[u8]) {
    let mut pieces = std::iter::from_fn(|| {
        let (&[high, low], rest) = bytes.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
        bytes = rest;
        Some(piece)
    });
    let Some(Ok(manifest)) = pieces.next().map(versioned::decode::<SnapshotManifest>) else { return };
    let Ok(mut receiver) = SnapshotReceiver::begin_or_resume(dir, manifest.clone()) else { return };
    for piece in pieces {
        let before = receiver.next_chunk();
        let taken = receiver.chunk(piece).is_ok();
        assert_eq!(receiver.next_chunk(), before + u64::from(taken));
        assert!(receiver.next_chunk() <= manifest.chunks);
    }
    let is_whole = receiver.next_chunk() == manifest.chunks;
    let finished = receiver.finish();
    assert_eq!(finished.is_ok(), is_whole, "{finished:?}");
    if let Ok(file) = finished {
        assert_eq!(file.manifest(), &manifest);
        read(&file);
    }
}

/// Everything in it; records are checked by whoever installs them.
fn read(file: &SnapshotFile) {
    (0..file.manifest().chunks).for_each(|number| assert!(file.chunk(number).is_ok(), "{number} was right before"));
    let bytes: u64 = file.records().map_while(Result::ok).map(|record| 4 + record.len() as u64).sum();
    assert!(bytes <= file.manifest().bytes);
}

/// A snapshot of some records, and how its transfer goes.
fn transfer(dir: &Path, recipe: &[u8]) {
    let Some((&count, recipe)) = recipe.split_first() else { return };
    let (lens, script) = recipe.split_at((2 * (usize::from(count) % RECORDS_MAX)).min(recipe.len()));
    let mut room = CONTENT_MAX;
    let records: Vec<Vec<u8>> = lens
        .chunks_exact(2)
        .map(|len| {
            let len = usize::from(u16::from_be_bytes([len[0], len[1]])).min(room);
            room -= len;
            vec![len as u8; len]
        })
        .collect();
    let mark = AppliedMark { index: 9, log_id: Bytes::from_static(b"id"), membership: Bytes::from_static(b"members") };
    let mut writer = SnapshotWriter::create(&dir.join("out"), Subject::Meta, mark).expect("a temporary folder");
    records.iter().for_each(|record| writer.record(record).expect("room in a temporary folder"));
    let mut transfer = Transfer::begin(writer.finish().expect("a whole file"), dir.join("in"));
    for step in script.iter().take(STEPS_MAX) {
        transfer.step(*step);
    }
    let file = transfer.finish();
    let arrived: Vec<Vec<u8>> = file.records().map(|record| record.expect("it is whole").to_vec()).collect();
    assert_eq!(arrived, records);
}

struct Transfer {
    from: SnapshotFile,
    into: PathBuf,
    receiver: Option<SnapshotReceiver>,
}

impl Transfer {
    fn begin(from: SnapshotFile, into: PathBuf) -> Self {
        let mut transfer = Self { from, into, receiver: None };
        transfer.resume();
        transfer
    }

    fn resume(&mut self) {
        let begun = SnapshotReceiver::begin_or_resume(&self.into, self.from.manifest().clone());
        self.receiver = Some(begun.expect("what its own writer made can be announced"));
    }

    fn next(&self) -> u64 {
        self.receiver.as_ref().map_or(0, SnapshotReceiver::next_chunk)
    }

    /// Offers a chunk; whether it was taken, which must show.
    fn offer(&mut self, chunk: &[u8]) -> bool {
        let before = self.next();
        let taken = self.receiver.as_mut().is_some_and(|receiver| receiver.chunk(chunk).is_ok());
        assert_eq!(self.next(), before + u64::from(taken));
        taken
    }

    /// One step: what happens in the low bits, where in the high ones.
    fn step(&mut self, step: u8) {
        let place = usize::from(step >> 3);
        let next = self.from.chunk(self.next()).ok();
        match (step & 0x07, next) {
            (0 | 1, Some(chunk)) => assert!(self.offer(&chunk), "the right chunk"),
            (2, Some(chunk)) => {
                let mut damaged = chunk.to_vec();
                let at = place * damaged.len() / 32;
                damaged[at] ^= 1 << (place % 8);
                assert!(!self.offer(&damaged), "a damaged chunk, at {at}");
            }
            (3, Some(chunk)) => assert!(!self.offer(&chunk[..place * chunk.len() / 32]), "a part of a chunk"),
            (4, next) => {
                let other = self.from.chunk(place as u64 % self.from.manifest().chunks.max(1));
                if let Ok(other) = other {
                    assert_eq!(self.offer(&other), next.is_some_and(|next| next == other), "another chunk");
                }
            }
            (5, _) => {
                let before = self.next();
                self.receiver = None;
                self.resume();
                assert_eq!(self.next(), before, "what came before a break is still there");
            }
            (6, _) => self.crash(|file, len| file.set_len(len * place as u64 / 32)),
            (7, _) => self.crash(|file, len| {
                let at = len * place as u64 / 32;
                let mut byte = [0];
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut byte)?;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&[byte[0] ^ 1])
            }),
            _ => {}
        }
    }

    /// The process dies, and the disk has lost something of what was not yet fsynced.
    fn crash(&mut self, lose: impl Fn(&mut std::fs::File, u64) -> std::io::Result<()>) {
        let before = self.next();
        self.receiver = None;
        for entry in std::fs::read_dir(&self.into).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            let file = OpenOptions::new().read(true).write(true).open(path);
            let mut file = file.expect("the file is there");
            let len = file.metadata().expect("a file").len();
            lose(&mut file, len).expect("a file can be changed");
        }
        self.resume();
        assert!(self.next() <= before, "a crash brought chunks");
    }

    fn finish(mut self) -> SnapshotFile {
        while let Ok(chunk) = self.from.chunk(self.next()) {
            assert!(self.offer(&chunk), "the right chunk");
        }
        let receiver = self.receiver.expect("there is always one");
        receiver.finish().expect("all chunks were taken")
    }
}
