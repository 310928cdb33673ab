//! The public name of a node: a newtype over libp2p's peer id. Owns its text form and order, not the secret behind it.

use std::fmt;
use std::str::FromStr;

use libp2p::PeerId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A node's public key in its short form, `12D3KooW…`.
///
/// Ordered by its bytes: the order decides which of two nodes settles their link, so both must compute the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(PeerId);

/// A text that is not a peer key.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a node key; copy it from `iris status` on that node, it starts with 12D3KooW")]
pub struct ParseKeyError {
    text: String,
}

/// Longer than any key: keeps a wrong paste from filling a log line.
const QUOTED_CHARS_MAX: usize = 64;

impl PeerKey {
    pub(crate) fn from_id(id: PeerId) -> PeerKey {
        PeerKey(id)
    }

    pub(crate) fn id(self) -> PeerId {
        self.0
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({})", self.0)
    }
}

impl FromStr for PeerKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<PeerKey, ParseKeyError> {
        let quoted = || ParseKeyError { text: text.chars().take(QUOTED_CHARS_MAX).collect() };
        PeerId::from_str(text.trim()).map(PeerKey).map_err(|_| quoted())
    }
}

impl Serialize for PeerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PeerKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;

    #[test]
    fn text_form_round_trips() {
        let key = PeerKey::from_id(Keypair::generate_ed25519().public().to_peer_id());
        let text = key.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<PeerKey>().unwrap(), key);
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        let error = "not a key".parse::<PeerKey>().unwrap_err().to_string();
        assert!(error.contains("iris status"), "{error}");
    }
}
