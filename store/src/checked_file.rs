//! placeholder
use std::path::Path;

use crate::StoreError;

/// Writes.
pub fn write_checked(_path: &Path, _version: u16, _bytes: &[u8]) -> Result<(), StoreError> {
    unimplemented!()
}

/// Reads.
pub fn read_checked(_path: &Path) -> Result<Option<(u16, Vec<u8>)>, StoreError> {
    unimplemented!()
}
