//! A look at the heads of raft-engine's files before it opens them. A head says how records are aligned, without a checksum; ours
//! never are, and where a flipped bit says otherwise, recovery asks for as much memory as the bit is worth, and the process is
//! gone before anyone could say why.
//!
//! And one without a head: where a full disk has no room for a new file's, the engine goes on with the file before it and leaves
//! the new one empty. Recovery then takes what it goes on with for a finished file, in which nothing may be torn or given ahead.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;
use super::marked::place;
use crate::checked_file::sync_dir;

/// Behind 53 bytes of magic: the version, u64, and from the second version on the alignment, u64.
const VERSION_AT: u64 = 53;
const HEAD_LEN_MIN: u64 = VERSION_AT + 8;

/// What the engine begins a file anew with whose head was torn, whatever it is told to write otherwise: records follow at once.
const VERSION_WITHOUT_ALIGNMENT: [u8; 8] = 1u64.to_be_bytes();

/// Removes the newest file of each kind if it has not even a head: nothing was ever written to it.
pub(super) fn remove_unbegun(dir: &Path) -> Result<(), LogError> {
    let failed = |error: std::io::Error| LogError::io(dir, "removing a file that was never begun", &error);
    let mut newest: BTreeMap<usize, (u64, PathBuf)> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let Some((queue, file)) = place(&path)
            && newest.get(&queue).is_none_or(|(known, _)| *known < file)
        {
            newest.insert(queue, (file, path));
        }
    }
    for (_, path) in newest.into_values() {
        if std::fs::metadata(&path).map_err(failed)?.len() < HEAD_LEN_MIN {
            std::fs::remove_file(&path).and_then(|()| sync_dir(&path)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether no file claims that its records are aligned.
pub(super) fn check(dir: &Path) -> Result<(), LogError> {
    let failed = |error: std::io::Error| LogError::io(dir, "looking at the heads of its files", &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !path.extension().is_some_and(|is| is == "raftlog" || is == "rewrite") {
            continue;
        }
        let mut head = [0; 16];
        match File::open(&path).and_then(|file| file.read_exact_at(&mut head, VERSION_AT)) {
            // One that ends before was never synced, and holds nothing.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            read => read.map_err(failed)?,
        }
        let (version, alignment) = head.split_at(8);
        if version != VERSION_WITHOUT_ALIGNMENT && alignment != [0; 8] {
            return Err(LogError::corrupt(dir, &format!("the head of {} is not as it was written", path.display())));
        }
    }
    Ok(())
}
