//! The text of a join token (C2): all that a second machine needs, in one word that can be pasted. It carries where the cluster
//! is, by which hash its CA is known, and a secret that works once. Pure.
//!
//! `iris-join-` and base64url (RFC 4648, section 5, without padding) of: version u8, postcard of the fields, CRC-32 (IEEE) of all
//! before it, big-endian. The checksum is for mistyped tokens, not against forgers: those lack the secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iris_protocol::versioned::{self, DecodeError, Versioned};
use serde::{Deserialize, Serialize};

use super::{ADDRESS_LEN_MAX, CLUSTER_LEN_MAX, is_address};
use crate::cluster::meta::admission::TokenId;

/// How every token begins, so that people and searches for leaked secrets know one when they see it.
pub const PREFIX: &str = "iris-join-";

/// Addresses in a token: enough to find one node that is up, few enough to be pasted.
pub const ADDRESSES_MAX: usize = 8;

/// Characters of a token: eight addresses of the greatest length, and some.
pub const TEXT_LEN_MAX: usize = 4_096;

const CRC_LEN: usize = 4;

/// The secret half of a token. Its Debug form says nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// Takes a secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// A join token. It has no `Display`: its text is a secret, see [`JoinToken::expose`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The cluster it is for.
    pub cluster: String,
    /// SHA-256 of the CA's certificate (its DER): whom the new node believes.
    pub ca_sha256: [u8; 32],
    /// Where clients reach the members, `host:port`; one to eight.
    pub addresses: Vec<String>,
    /// Which token.
    pub id: TokenId,
    /// What proves that its bearer was given it.
    pub secret: JoinSecret,
    /// When it ends, by the clock of the node that issued it. The cluster decides; this is for explanations.
    pub expires_ms: u64,
}

impl Versioned for JoinToken {
    const NAME: &'static str = "join token";
    const VERSION: u8 = 1;
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Nothing like one.
    #[error(
        "this is no join token: one begins with {PREFIX} and is printed by `iris join-token` on a machine of the cluster"
    )]
    NotAToken,
    /// Cut short or mistyped.
    #[error("the join token is damaged: a character is missing or was changed. Copy it again, as one word")]
    Damaged,
    /// Made by another Iris.
    #[error(
        "the join token has format {found}, this Iris reads {known}: run the same version of Iris on both machines"
    )]
    Version {
        /// Its format.
        found: u8,
        /// Ours.
        known: u8,
    },
}

impl JoinToken {
    /// The token's text: a secret.
    #[must_use]
    pub fn expose(&self) -> String {
        let mut bytes = versioned::encode(self);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn is_sound(&self) -> bool {
        (1..=ADDRESSES_MAX).contains(&self.addresses.len())
            && self.addresses.iter().all(|address| address.len() <= ADDRESS_LEN_MAX && is_address(address))
            && (1..=CLUSTER_LEN_MAX).contains(&self.cluster.len())
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.len() > TEXT_LEN_MAX {
            return Err(BadToken::NotAToken);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(BadToken::NotAToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadToken::Damaged)?;
        let (content, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(BadToken::Damaged)?;
        if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
            return Err(BadToken::Damaged);
        }
        let token: Self = versioned::decode(content).map_err(|error| match error {
            DecodeError::Version { found, known, .. } => BadToken::Version { found, known },
            DecodeError::Empty { .. } | DecodeError::Malformed { .. } => BadToken::Damaged,
        })?;
        if token.is_sound() { Ok(token) } else { Err(BadToken::Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            cluster: "9b2f5f0e-3f0e-4d0b-8f4c-0d6a2f6a1b11".to_owned(),
            ca_sha256: [0xca; 32],
            addresses: vec!["attic.lan:8443".to_owned(), "[fd00::1]:8443".to_owned()],
            id: TokenId([1, 2, 3, 4, 5, 6, 7, 8]),
            secret: JoinSecret::new([0x5e; 32]),
            expires_ms: 1_795_000_000_000,
        }
    }

    #[test]
    fn a_token_reads_back_with_the_blanks_of_a_paste_around_it() {
        let text = token().expose();
        assert!(text.len() < 300, "{} characters are no longer pasted by hand", text.len());
        assert_eq!(format!(" \t{text}\n").parse::<JoinToken>(), Ok(token()));
    }

    /// Kept, and made by another program: a token printed by one version is read by the next.
    #[test]
    fn the_text_of_version_1_is_what_it_was() {
        let kept = concat!(
            "iris-join-ASQ5YjJmNWYwZS0zZjBlLTRkMGItOGY0Yy0wZDZhMmY2YTFiMTHKysrKysrKysrKysrKys",
            "rKysrKysrKysrKysrKysrKygIOYXR0aWMubGFuOjg0NDMOW2ZkMDA6OjFdOjg0NDMBAgMEBQYHCF5eXl",
            "5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5eXl5egLzZ8p403X_8Ag",
            ""
        );
        assert_eq!(kept.parse::<JoinToken>(), Ok(token()));
        assert_eq!(token().expose(), kept);
    }

    #[test]
    fn every_single_changed_or_missing_character_is_noticed() {
        let text = token().expose();
        for at in 0..text.len() {
            let cut = format!("{}{}", &text[..at], &text[at + 1..]);
            assert!(cut.parse::<JoinToken>().is_err(), "without character {at}");
            for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= é".chars() {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                if changed == text {
                    continue;
                }
                let expected = if at < PREFIX.len() { BadToken::NotAToken } else { BadToken::Damaged };
                assert_eq!(changed.parse::<JoinToken>(), Err(expected), "character {at} as {other:?}");
            }
        }
    }

    #[test]
    fn what_is_none_is_told_from_what_is_damaged_and_from_another_version() {
        let long = format!("{PREFIX}{}", "A".repeat(TEXT_LEN_MAX));
        for text in ["", "garbage", "eyJhbGciOiJFZERTQSJ9.e30.AA", long.as_str()] {
            assert_eq!(text.parse::<JoinToken>(), Err(BadToken::NotAToken), "{text}");
        }
        assert_eq!(PREFIX.parse::<JoinToken>(), Err(BadToken::Damaged));
        let mut newer = versioned::encode(&token());
        newer[0] = 9;
        newer.extend_from_slice(&crc32fast::hash(&newer).to_be_bytes());
        let newer = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(newer));
        assert_eq!(newer.parse::<JoinToken>(), Err(BadToken::Version { found: 9, known: 1 }));
    }

    #[test]
    fn a_token_without_a_usable_address_is_none() {
        let long = format!("{}:1", "a".repeat(ADDRESS_LEN_MAX));
        for addresses in [vec![], vec!["nowhere".to_owned()], vec![long], vec!["a:1".to_owned(); ADDRESSES_MAX + 1]] {
            let text = JoinToken { addresses, ..token() }.expose();
            assert_eq!(text.parse::<JoinToken>(), Err(BadToken::Damaged));
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", token());
        assert!(shown.contains("JoinSecret(..)") && !shown.contains("94"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_token_reads_back(
            cluster in "[a-z0-9-]{1,64}",
            addresses in proptest::collection::vec("[a-z]{1,40}\\.lan:[1-9][0-9]{0,3}", 1..9),
            (ca_sha256, id, secret, expires_ms) in any::<([u8; 32], [u8; 8], [u8; 32], u64)>(),
        ) {
            let id = TokenId(id);
            let token = JoinToken { cluster, ca_sha256, addresses, id, secret: JoinSecret::new(secret), expires_ms };
            let text = token.expose();
            prop_assert!(text.len() <= TEXT_LEN_MAX);
            prop_assert_eq!(text.parse::<JoinToken>(), Ok(token));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*", bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = text.parse::<JoinToken>();
            let mut checked = bytes.clone();
            checked.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
            let _ = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(checked)).parse::<JoinToken>();
        }
    }
}
