//! Fixtures of the formats on disk and between nodes: one small file for each format and version, `NAME.vN.bin`, in
//! tests/fixtures/formats. Today's code must write the newest as it stands there and read all of them, so that a layout can't
//! change by accident, nor a version without leaving a file that the next one must read. Files are added and never changed:
//! with `IRIS_WRITE_FIXTURES=1`, tests write those that are missing.
#![allow(clippy::panic)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Set, missing fixtures are written.
const WRITE: &str = "IRIS_WRITE_FIXTURES";

/// The folder of all crates' fixtures.
#[must_use]
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats")
}

/// A format whose encoding begins with its version and is always the same for the same value. What older versions say must be
/// this value, too.
///
/// # Panics
/// A fixture is missing, is read as something else, or would be written otherwise.
#[track_caller]
pub fn check_value<T, E: Debug>(
    name: &str,
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    let today = encode(value);
    let version = today.first().copied().unwrap_or_default().into();
    let newest = check_file(name, version, &today, |bytes| match decode(bytes) {
        Ok(read) => assert_eq!(encode(&read), today, "{name}: a fixture is read as something else"),
        Err(error) => panic!("{name} can't be read: {error:?}"),
    });
    assert_eq!(newest, today, "{name}: its layout has changed, so its version must, too");
}

/// A format whose bytes are not always the same, or whose version is not their first: `read` judges each fixture there is.
/// Gives back the newest.
///
/// # Panics
/// A fixture is missing, or `read` panics.
#[track_caller]
pub fn check_file(name: &str, version: u32, today: &[u8], read: impl FnMut(&[u8])) -> Vec<u8> {
    check_in(&fixtures(), std::env::var_os(WRITE).is_some(), name, version, today, read)
}

#[track_caller]
fn check_in(
    folder: &Path,
    write: bool,
    name: &str,
    version: u32,
    today: &[u8],
    mut read: impl FnMut(&[u8]),
) -> Vec<u8> {
    let path = |version: u32| folder.join(format!("{name}.v{version}.bin"));
    if write && !path(version).exists() {
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path(version), today));
        written.unwrap_or_else(|error| panic!("{}: {error}", path(version).display()));
    }
    assert!(!path(version + 1).exists(), "{name} has a fixture of a version after {version}");
    // Versions before the first fixture were never released.
    let first = (1..version).find(|version| path(*version).exists()).unwrap_or(version);
    let mut newest = Vec::new();
    for version in first..=version {
        newest = std::fs::read(path(version)).unwrap_or_else(|error| {
            panic!("{name} has no fixture of version {version} ({error}): run its test once with {WRITE}=1")
        });
        read(&newest);
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which versions were read, or what was said instead.
    fn check(folder: &Path, write: bool, version: u8) -> Result<Vec<u8>, String> {
        let checking = std::panic::AssertUnwindSafe(|| {
            let mut read = Vec::new();
            check_in(folder, write, "x", version.into(), &[version], |bytes| read.push(bytes[0]));
            read
        });
        std::panic::catch_unwind(checking).map_err(|panic| *panic.downcast::<String>().unwrap())
    }

    #[test]
    fn a_version_needs_its_fixture_and_those_between() {
        let dir = tempfile::tempdir().unwrap();
        let check = |write, version| check(dir.path(), write, version);
        assert!(check(false, 3).unwrap_err().contains("no fixture of version 3"));
        assert_eq!(check(true, 3), Ok(vec![3]));
        assert!(check(false, 4).unwrap_err().contains("no fixture of version 4"));
        assert_eq!(check(true, 4), Ok(vec![3, 4]));
        assert!(check(false, 3).unwrap_err().contains("after 3"));
        assert_eq!(check(true, 5), Ok(vec![3, 4, 5]));
        std::fs::remove_file(dir.path().join("x.v4.bin")).unwrap();
        assert!(check(true, 5).unwrap_err().contains("no fixture of version 4"));
    }

    #[test]
    fn what_is_there_is_never_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let write = |today: &[u8]| check_in(dir.path(), true, "x", 1, today, |_| {});
        assert_eq!((write(b"first"), write(b"second")), (b"first".to_vec(), b"first".to_vec()));
    }
}
