//! Tokens. Must hold: any text is a login or a refusal, a join token or a refusal; nothing is let in that the cluster's key did
//! not sign; what is let in says itself that it is for this cluster, for whom, and that it is valid now and for a day at most; a join token's
//! text has one form only, and one character changed is noticed.
//!
//! An input that begins with `S` is a header and, from the second line on, claims, signed here; one that begins with `J` is
//! what a join token consists of, given its checksum here; any other is a whole token.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iris_appliance::admission::token::{BadToken, JoinToken, PREFIX};
use iris_appliance::auth::token::{self, Login, TTL_S_MAX};
use iris_appliance::cluster::meta::admission::Admissions;
use iris_appliance::cluster::meta::{DedupSettings, Leaf, MetaState, Pki, Secret, TokenKey};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;

const NOW_MS: u64 = 1_795_000_000_000;
const NOW_S: u64 = NOW_MS / 1000;
/// What clocks may differ by.
const LEEWAY_S: u64 = 60;
/// The key's name, for headers of the corpus; the key itself is new in every process.
const KID: &str = "k";
const CLUSTER: &str = "c1";

/// The target.
pub fn tokens(input: &[u8]) {
    if let Some(content) = input.strip_prefix(b"J") {
        let checked = [content, &crc32fast::hash(content).to_be_bytes()].concat();
        join_token(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(checked)));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    join_token(text);
    match text.strip_prefix('S') {
        Some(parts) => {
            let (header, claims) = parts.split_once('\n').unwrap_or((parts, ""));
            if let Ok(login) = token::verify(state(), &sign(header, claims), NOW_MS) {
                is_deserved(header, claims, &login);
            }
        }
        None => assert_eq!(token::verify(state(), text, NOW_MS).ok(), None, "{text:?} was signed by nobody"),
    }
}

fn join_token(text: &str) {
    let Ok(token) = text.parse::<JoinToken>() else { return };
    let shown = token.expose();
    assert_eq!(shown.parse(), Ok(token));
    let at = PREFIX.len() + shown.len() % 7;
    let other = if shown.as_bytes()[at] == b'A' { "B" } else { "A" };
    let damaged = [&shown[..at], other, &shown[at + 1..]].concat();
    assert_eq!(damaged.parse::<JoinToken>(), Err(BadToken::Damaged), "{damaged}");
}

fn state() -> &'static MetaState {
    static STATE: OnceLock<MetaState> = OnceLock::new();
    STATE.get_or_init(|| MetaState {
        cluster: CLUSTER.to_owned(),
        pki: Pki {
            ca_cert_pem: String::new(),
            ca_key_pem: Secret::new(String::new()),
            ca_until_ms: 0,
            leaf: Leaf { cert_pem: String::new(), names: Vec::new(), until_ms: 0 },
            leaf_key_pem: Secret::new(String::new()),
        },
        token_keys: vec![TokenKey { kid: KID.to_owned(), ..token::new_key().expect("a key can be made") }],
        nodes: BTreeMap::new(),
        shards: Vec::new(),
        vnodes: Vec::new(),
        dedup: DedupSettings { window_ms: 1, keys_max: 1 },
        admissions: Admissions::default(),
    })
}

fn sign(header: &str, claims: &str) -> String {
    static KEY: OnceLock<EncodingKey> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        EncodingKey::from_ed_pem(state().token_keys[0].private_pem.expose().as_bytes()).expect("our own key is one")
    });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, Algorithm::EdDSA).expect("our own key signs");
    format!("{signed}.{signature}")
}

fn is_deserved(header: &str, claims: &str, login: &Login) {
    let header: Value = serde_json::from_str(header).expect("a header that was accepted is JSON");
    assert_eq!((&header["alg"], &header["kid"]), (&"EdDSA".into(), &KID.into()), "{header}");
    assert!(header.get("crit").is_none_or(Value::is_null), "{header}");
    let claims: Value = serde_json::from_str(claims).expect("claims that were accepted are JSON");
    assert_eq!((&claims["aud"], &claims["iss"]), (&"iris".into(), &CLUSTER.into()), "{claims}");
    assert_eq!(claims["sub"].as_str(), Some(login.user.as_str()), "{claims}");
    assert_eq!(claims["dev"].as_str(), login.device.as_ref().map(|device| device.as_str()), "{claims}");
    let (iat, exp) = (claims["iat"].as_u64().expect("a number"), claims["exp"].as_u64().expect("a number"));
    assert!(iat <= NOW_S + LEEWAY_S && NOW_S < exp.saturating_add(LEEWAY_S), "{claims}");
    assert!(claims["nbf"].as_u64().is_none_or(|nbf| nbf <= NOW_S + LEEWAY_S), "{claims}");
    assert!(iat <= exp && exp - iat <= TTL_S_MAX, "{claims}");
}
