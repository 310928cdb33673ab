//! Small checked files that hold one versioned value: read whole at a start, written whole and durably.

use std::path::Path;

use anyhow::Context;
use iris_protocol::versioned::{self, Versioned};
use iris_store::{read_checked, write_checked};

/// Reads one; `None` if it is not there.
///
/// # Errors
/// The file is damaged, or of another version. Nothing is overwritten then.
pub(crate) fn load<T: Versioned>(path: &Path, file_version: u16) -> anyhow::Result<Option<T>> {
    match read_checked(path)? {
        None => Ok(None),
        Some((found, bytes)) if found == file_version => {
            Ok(Some(versioned::decode(&bytes).with_context(|| format!("{} can't be read", path.display()))?))
        }
        Some((other, _)) => anyhow::bail!(
            "{} has version {other}, this Iris reads {file_version}: was it written by a newer one?",
            path.display()
        ),
    }
}

/// Writes one; durable when it returns.
///
/// # Errors
/// The system's.
pub(crate) fn save<T: Versioned>(path: &Path, file_version: u16, value: &T) -> anyhow::Result<()> {
    Ok(write_checked(path, file_version, &versioned::encode(value))?)
}
