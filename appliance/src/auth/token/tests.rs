//! Every way a token can be wrong (B3), each forged with the real library where one can be.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::cluster::meta::DedupSettings;

const NOW_MS: u64 = 1_795_000_000_000;
const NOW_S: u64 = NOW_MS / 1000;

fn state() -> MetaState {
    MetaState {
        cluster: "c1".to_owned(),
        pki: pki::found("c1", &[], NOW_MS).unwrap(),
        token_keys: vec![new_key().unwrap()],
        nodes: BTreeMap::new(),
        shards: Vec::new(),
        vnodes: Vec::new(),
        dedup: DedupSettings { window_ms: 1, keys_max: 1 },
        admissions: Default::default(),
    }
}

fn good() -> Value {
    json!({"sub": "alice", "aud": "iris", "iss": "c1", "iat": NOW_S, "exp": NOW_S + 3600})
}

fn sign(state: &MetaState, claims: &Value) -> String {
    let key = &state.token_keys[0];
    let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_pem(key.private_pem.expose().as_bytes()).unwrap())
        .unwrap()
}

fn check(state: &MetaState, change: impl FnOnce(&mut Value)) -> Result<Login, TokenRefused> {
    let mut claims = good();
    change(&mut claims);
    verify(state, &sign(state, &claims), NOW_MS)
}

#[test]
fn what_is_issued_is_accepted_until_it_expires() {
    let state = state();
    let device = DeviceId::new("phone").unwrap();
    let token = issue(&state, UserId::new("alice").unwrap(), Some(device.clone()), 60, NOW_MS).unwrap();
    let login = verify(&state, &token, NOW_MS).unwrap();
    assert_eq!(login, Login { user: UserId::new("alice").unwrap(), device: Some(device) });
    assert!(verify(&state, &token, NOW_MS + 119_000).is_ok(), "within the leeway");
    assert_eq!(verify(&state, &token, NOW_MS + 120_000), Err(TokenRefused::Expired(60)));
    for ttl_s in [0, TTL_S_MAX + 1] {
        assert!(issue(&state, UserId::new("alice").unwrap(), None, ttl_s, NOW_MS).is_err());
    }
}

#[test]
fn wrong_claims_are_refused() {
    let state = state();
    assert!(check(&state, |_| ()).is_ok());
    assert!(matches!(check(&state, |c| c["aud"] = json!("other")), Err(TokenRefused::Invalid(_))));
    assert!(matches!(check(&state, |c| c["iss"] = json!("c2")), Err(TokenRefused::Invalid(_))));
    assert!(matches!(check(&state, |c| c["sub"] = json!("")), Err(TokenRefused::Invalid(_))));
    assert_eq!(check(&state, |c| c["exp"] = json!(NOW_S - 100)), Err(TokenRefused::Expired(100)));
    assert_eq!(check(&state, |c| c["nbf"] = json!(NOW_S + 100)), Err(TokenRefused::NotYetValid));
    assert_eq!(check(&state, |c| c["iat"] = json!(NOW_S + 100)), Err(TokenRefused::NotYetValid));
    assert_eq!(check(&state, |c| c["exp"] = json!(NOW_S + 90_000)), Err(TokenRefused::LivesTooLong(90_000)));
    assert!(matches!(
        check(&state, |c| {
            c["iat"] = json!(NOW_S + 30);
            c["exp"] = json!(NOW_S + 10);
        }),
        Err(TokenRefused::Invalid(_))
    ));
    for claim in ["sub", "aud", "iss", "iat", "exp"] {
        let refused = check(&state, |c| drop(c.as_object_mut().unwrap().remove(claim)));
        assert!(matches!(refused, Err(TokenRefused::Invalid(_))), "without {claim}: {refused:?}");
    }
}

#[test]
fn other_keys_and_other_algorithms_are_refused() {
    let ours = state();
    let mut theirs = state();
    assert_eq!(verify(&ours, &sign(&theirs, &good()), NOW_MS), Err(TokenRefused::UnknownKey));
    theirs.token_keys[0].kid = ours.token_keys[0].kid.clone();
    assert!(matches!(verify(&ours, &sign(&theirs, &good()), NOW_MS), Err(TokenRefused::Invalid(_))));

    // The classic confusion: HS256 with the public key as the secret.
    let header = Header { kid: Some(ours.token_keys[0].kid.clone()), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(ours.token_keys[0].public_pem.as_bytes());
    let confused = jsonwebtoken::encode(&header, &good(), &secret).unwrap();
    assert_eq!(verify(&ours, &confused, NOW_MS), Err(TokenRefused::Algorithm(Algorithm::HS256)));

    let key = &ours.token_keys[0];
    let header =
        Header { kid: Some(key.kid.clone()), crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::EdDSA) };
    let signer = EncodingKey::from_ed_pem(key.private_pem.expose().as_bytes()).unwrap();
    let critical = jsonwebtoken::encode(&header, &good(), &signer).unwrap();
    assert!(matches!(verify(&ours, &critical, NOW_MS), Err(TokenRefused::Invalid(_))));

    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": ours.token_keys[0].kid}).to_string()),
        URL_SAFE_NO_PAD.encode(good().to_string())
    );
    assert!(matches!(verify(&ours, &none, NOW_MS), Err(TokenRefused::Malformed(_))));
}

#[test]
fn altered_cut_and_absurd_tokens_are_refused() {
    let state = state();
    let token = sign(&state, &good());
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let mut claims = good();
    claims["sub"] = json!("mallory");
    let altered = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    assert!(matches!(verify(&state, &altered, NOW_MS), Err(TokenRefused::Invalid(_))));
    for broken in ["", ".", "..", "a.b.c", head, &token[..token.len() - 1], "\0\0\0", "🙂.🙂.🙂"] {
        assert!(verify(&state, broken, NOW_MS).is_err(), "{broken}");
    }
    assert_eq!(verify(&state, &"x".repeat(4097), NOW_MS), Err(TokenRefused::TooLong(4097)));
}
