//! skeleton
use std::path::Path;

use crate::StoreError;

/// A warm store.
pub trait WarmStore: Send + Sync {}
/// SQLite.
#[derive(Clone)]
pub struct Warm;
impl Warm {
    /// Opens.
    pub fn open(_path: &Path) -> Result<Warm, StoreError> {
        unimplemented!()
    }
}
impl WarmStore for Warm {}
