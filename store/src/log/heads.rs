//! A look at the heads of raft-engine's files before it opens them. A head says how records are aligned, without a checksum; ours
//! never are, and where a flipped bit says otherwise, recovery asks for as much memory as the bit is worth, and the process is
//! gone before anyone could say why.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::LogError;

/// Behind 53 bytes of magic and the version, u64: the alignment, u64.
const ALIGNMENT_AT: u64 = 61;

/// Whether no file claims that its records are aligned.
pub(super) fn check(dir: &Path) -> Result<(), LogError> {
    let failed = |error: std::io::Error| LogError::io(dir, "looking at the heads of its files", &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !path.extension().is_some_and(|is| is == "raftlog" || is == "rewrite") {
            continue;
        }
        let mut alignment = [0; 8];
        match File::open(&path).and_then(|file| file.read_exact_at(&mut alignment, ALIGNMENT_AT)) {
            // One that ends before was never synced, and holds nothing.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            read => read.map_err(failed)?,
        }
        if alignment != [0; 8] {
            return Err(LogError::corrupt(dir, &format!("the head of {} is not as it was written", path.display())));
        }
    }
    Ok(())
}
