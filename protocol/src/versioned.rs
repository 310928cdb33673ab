//! The envelope of everything Iris writes to disk or sends to a peer: one version byte, then postcard. A type that changes
//! gets the next version and a reader for the one before.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A struct with a version of its own.
pub trait Versioned: Serialize + DeserializeOwned {
    /// Name for error messages.
    const NAME: &'static str;
    /// The version this code writes.
    const VERSION: u8;

    /// Reads an older version.
    ///
    /// # Errors
    /// By default every other version is refused.
    fn decode_previous(version: u8, _bytes: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::Version { name: Self::NAME, found: version, known: Self::VERSION })
    }
}

/// Why bytes were not taken for what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there, not even a version.
    #[error("{name}: empty")]
    Empty {
        /// What was being read.
        name: &'static str,
    },
    /// Written by another version of Iris.
    #[error("{name}: version {found}, this Iris reads {known}")]
    Version {
        /// What was being read.
        name: &'static str,
        /// The version found.
        found: u8,
        /// The version this code writes.
        known: u8,
    },
    /// Not a valid encoding.
    #[error("{name}: {why}")]
    Malformed {
        /// What was being read.
        name: &'static str,
        /// What was wrong.
        why: String,
    },
}

/// The version byte and the encoded value.
///
/// # Panics
/// Never: postcard fails only on types that can't be serialized at all, and ours are plain data.
#[must_use]
pub fn encode<T: Versioned>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![T::VERSION]).expect("plain data always serializes")
}

/// Reads what [`encode`] wrote; bytes left over are an error.
///
/// # Errors
/// Empty, unknown version, malformed.
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&version, rest) = bytes.split_first().ok_or(DecodeError::Empty { name: T::NAME })?;
    if version != T::VERSION {
        return T::decode_previous(version, rest);
    }
    let (value, rest) = postcard::take_from_bytes(rest)
        .map_err(|error| DecodeError::Malformed { name: T::NAME, why: error.to_string() })?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed { name: T::NAME, why: format!("{} bytes left over", rest.len()) });
    }
    Ok(value)
}
