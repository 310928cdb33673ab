//! Small files that are replaced as a whole: written beside, checksummed, fsynced, renamed, and the folder fsynced, so that a
//! crash leaves the old one or the new one. For the meta group's checkpoint and the like; not for anything large.
//!
//! Layout, little endian: magic 8 bytes, version u16, length u64, xxh3 u64 over version, length and content, content.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::StoreError;

const MAGIC: &[u8; 8] = b"iris-cf1";
const HEAD_LEN: usize = 8 + 2 + 8 + 8;

/// Replaces the file at `path`. Durable when it returns; readable by this user only. One writer at a time.
///
/// # Errors
/// The system's, naming the file. The old content is still there then.
pub fn write_checked(path: &Path, version: u16, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |action| move |source| io_error(path, action, source);
    let beside = beside(path);
    let mut file = private_file(&beside).map_err(failed("creating a file beside it"))?;
    file.write_all(&head(version, bytes)).and_then(|()| file.write_all(bytes)).map_err(failed("writing"))?;
    file.sync_all().map_err(failed("fsync"))?;
    drop(file);
    std::fs::rename(&beside, path).map_err(failed("renaming"))?;
    sync_dir(path).map_err(failed("fsync of its folder"))
}

/// Reads what [`write_checked`] wrote: version and content, or `None` if there is no such file.
///
/// # Errors
/// The system's, or the content is damaged.
pub fn read_checked(path: &Path) -> Result<Option<(u16, Vec<u8>)>, StoreError> {
    let mut content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "reading", error)),
    };
    let version = check(&content).map_err(|why| StoreError::Corrupt {
        path: path.to_owned(),
        what: "the file".to_owned(),
        why: why.to_owned(),
    })?;
    content.drain(..HEAD_LEN);
    Ok(Some((version, content)))
}

/// The version, if the content is whole.
pub(crate) fn check(content: &[u8]) -> Result<u16, &'static str> {
    let Some((head, body)) = content.split_first_chunk::<HEAD_LEN>() else { return Err("it is too short") };
    let (magic, head) = head.split_first_chunk::<8>().ok_or("no magic")?;
    let (version, head) = head.split_first_chunk::<2>().ok_or("no version")?;
    let (len, head) = head.split_first_chunk::<8>().ok_or("no length")?;
    let (sum, _) = head.split_first_chunk::<8>().ok_or("no checksum")?;
    if magic != MAGIC {
        return Err("it isn't a file of Iris");
    }
    if u64::from_le_bytes(*len) != body.len() as u64 {
        return Err("its length is wrong");
    }
    let version = u16::from_le_bytes(*version);
    if u64::from_le_bytes(*sum) != checksum(version, body) {
        return Err("its checksum is wrong");
    }
    Ok(version)
}

/// What stands before the content.
pub(crate) fn head(version: u16, bytes: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&version.to_le_bytes());
    head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    head.extend_from_slice(&checksum(version, bytes).to_le_bytes());
    head
}

fn checksum(version: u16, bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&version.to_le_bytes());
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
    hash.digest()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Creates or empties a file that only this user may read.
pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    // One left behind by a crash may have been made with other rights.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Opens a small file to be read and overwritten in place; makes it, for this user only, where there is none.
pub(crate) fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates a folder and its parents, for this user only; one that exists is left as it is. Its name is durable when it returns,
/// and those of the parents it made: what is fsynced in a folder without a durable name goes with the folder.
///
/// # Errors
/// The system's.
pub fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    let named = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty());
    let missing: Vec<&Path> = named.take_while(|dir| !dir.exists()).collect();
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    if missing.is_empty() {
        // Whoever made it may have ended before its name was durable. If somebody else did, in a place that is closed to this
        // user, it is theirs to care for.
        return sync_dir(dir).or_else(|e| if e.kind() == ErrorKind::PermissionDenied { Ok(()) } else { Err(e) });
    }
    missing.iter().rev().try_for_each(|made| sync_dir(made))
}

/// Makes a file's name durable.
pub(crate) fn sync_dir(path: &Path) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder can't be opened for that on Windows, nor need it be.
    if cfg!(windows) { Ok(()) } else { File::open(dir)?.sync_all() }
}

/// Makes everything below a folder durable: contents, lengths and names, the disk's own cache included. For files that somebody
/// else writes and that this process has not open.
///
/// File by file: Linux has one call for a whole file system, syncfs, but it waits for what everybody else writes there, and
/// some file systems (FUSE) are never told of it, so that it says yes and nothing is on the disk.
pub(crate) fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for found in std::fs::read_dir(dir)? {
        let path = found?.path();
        let synced = if path.is_dir() { sync_tree(&path) } else { File::open(&path).and_then(|file| file.sync_all()) };
        match synced {
            // Its owner removes files now and then.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    // After its files: their names are in it.
    File::open(dir)?.sync_all()
}

pub(crate) fn io_error(path: &Path, action: &'static str, source: std::io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), action, source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        assert_eq!(read_checked(&path).unwrap(), None);
        write_checked(&path, 1, b"one").unwrap();
        // A crash left half a file beside it.
        std::fs::write(beside(&path), b"half").unwrap();
        write_checked(&path, 2, b"two").unwrap();
        assert_eq!(read_checked(&path).unwrap(), Some((2, b"two".to_vec())));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_folder_is_synced_with_all_below_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("blobs")).unwrap();
        for name in ["db", "blobs/1", "blobs/2"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        sync_tree(dir.path()).unwrap();
        let missing = sync_tree(&dir.path().join("not there")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        write_checked(&path, 7, b"some content").unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(read_checked(&path).is_err(), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            let error = read_checked(&path).unwrap_err().to_string();
            assert!(error.contains("meta"), "{error}");
        }
    }
}
