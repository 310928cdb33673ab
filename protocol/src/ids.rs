//! The names of things: users, devices, messages, entries, nodes, shards. Newtypes, so that no bare integer crosses a
//! crate boundary. Owns their validation and text forms; knows nothing of frames or storage.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{DEVICE_LEN_MAX, USER_LEN_MAX};

/// Why a name from outside was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} can't be empty")]
    Empty {
        /// "user" or "device".
        what: &'static str,
    },
    /// Too many bytes.
    #[error("a {what} may have at most {max} bytes, this one has {len}")]
    TooLong {
        /// "user" or "device".
        what: &'static str,
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A control character or bytes that are not UTF-8.
    #[error("a {what} must be UTF-8 text without control characters")]
    NotText {
        /// "user" or "device".
        what: &'static str,
    },
}

fn check_name<'a>(what: &'static str, max: usize, bytes: &'a [u8]) -> Result<&'a str, NameError> {
    if bytes.is_empty() {
        return Err(NameError::Empty { what });
    }
    if bytes.len() > max {
        return Err(NameError::TooLong { what, len: bytes.len(), max });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NameError::NotText { what })?;
    if text.chars().any(char::is_control) {
        return Err(NameError::NotText { what });
    }
    Ok(text)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// Empty, too long, not UTF-8, or with a control character.
            pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
                check_name($what, $max, bytes.as_ref()).map(|text| Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as bytes, at most
            #[doc = concat!("`", stringify!($max), "` of them.")]
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(text.as_bytes()).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// An account messages are sent to: 1 to 256 bytes of UTF-8 without control characters (A16). Cheap to clone.
    UserId, "user", USER_LEN_MAX
);
name_type!(
    /// One of a user's devices: each has its own cursor (A8). 1 to 64 bytes. Cheap to clone.
    DeviceId, "device", DEVICE_LEN_MAX
);

/// The sender's idempotency key: a UUIDv7, 16 bytes (A3). Compared and stored as opaque bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey(pub [u8; 16]);

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageKey {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        uuid::Uuid::parse_str(text).map(|uuid| Self(uuid.into_bytes()))
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }
    };
}

number_type!(
    /// One machine running the appliance. Never reused: a disk that lost its data is a new node.
    NodeId, u64
);
number_type!(
    /// One Raft group holding the inbox logs of many users (C3).
    ShardId, u16
);
number_type!(
    /// One of the 256 slices of the user space that can be moved between shards (C3, C13).
    VnodeId, u16
);
number_type!(
    /// An entry's id in its inbox: a 63-bit hybrid logical clock value, strictly increasing per inbox (A2). `EntryId(0)` is
    /// never given to an entry, so a cursor of 0 means "from the beginning".
    EntryId, u64
);

impl EntryId {
    /// Before every entry.
    pub const ZERO: Self = Self(0);

    /// Wall-clock part: milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0 >> crate::hlc::LOGICAL_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(UserId::new("alice").is_ok());
        assert!(UserId::new("ünïcode ok").is_ok());
        assert_eq!(UserId::new(""), Err(NameError::Empty { what: "user" }));
        assert_eq!(UserId::new("a\nb"), Err(NameError::NotText { what: "user" }));
        assert_eq!(UserId::new([0xff, 0xfe]), Err(NameError::NotText { what: "user" }));
        assert!(UserId::new("x".repeat(256)).is_ok());
        assert_eq!(UserId::new("x".repeat(257)), Err(NameError::TooLong { what: "user", len: 257, max: 256 }));
    }

    #[test]
    fn deserializing_a_name_checks_it_too() {
        let bytes = postcard::to_allocvec("a\0b").unwrap();
        assert!(postcard::from_bytes::<UserId>(&bytes).is_err());
    }

    #[test]
    fn a_key_reads_back_from_its_text() {
        let key = MessageKey(uuid::Uuid::now_v7().into_bytes());
        assert_eq!(key.to_string().parse::<MessageKey>().unwrap(), key);
    }
}
