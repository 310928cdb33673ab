//! Users' tokens (B3): JWTs signed with Ed25519 by a key in the meta state. The clock is passed in; the library's own time
//! checks are off and made here, so that a test can hold the clock and so that both bounds of a lifetime are checked.

use iris_protocol::limits::TOKEN_LEN_MAX;
use iris_protocol::{DeviceId, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::pki;
use crate::cluster::meta::{MetaState, Secret, TokenKey};

/// Whom tokens are for.
const AUDIENCE: &str = "iris";

/// Longest life of a user's token (B3).
pub const TTL_S_MAX: u64 = 24 * 60 * 60;

/// Clocks of nodes and of whoever issued the token may differ by this much.
const LEEWAY_S: u64 = 60;

/// A login that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: UserId,
    /// The device the token is bound to, if any.
    pub device: Option<DeviceId>,
}

/// Why a token was refused: for the node's log, never for the stranger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// Longer than any token of ours.
    #[error("it has {0} bytes")]
    TooLong(usize),
    /// No token, or nothing like one.
    #[error("it is no token: {0}")]
    Malformed(String),
    /// Signed by another method than ours: `none`, HS256, RS256.
    #[error("its algorithm is {0:?}, only EdDSA is taken")]
    Algorithm(Algorithm),
    /// Signed by a key this cluster does not have.
    #[error("its key is not this cluster's")]
    UnknownKey,
    /// Signature, audience, issuer or a missing claim.
    #[error("{0}")]
    Invalid(String),
    /// `exp` has passed.
    #[error("it expired {0} s ago")]
    Expired(u64),
    /// `nbf` or `iat` lies in the future.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Lives longer than allowed.
    #[error("it lives {0} s, at most {TTL_S_MAX} are allowed")]
    LivesTooLong(u64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    aud: String,
    iss: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<DeviceId>,
    /// SHA-256 of the CA's certificate, so that a client given the token by a trusted hand can verify the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
}

/// A new signing key.
///
/// # Errors
/// The crypto library failed.
pub fn new_key() -> anyhow::Result<TokenKey> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    Ok(TokenKey {
        kid: uuid::Uuid::new_v4().to_string(),
        private_pem: Secret::new(pair.serialize_pem()),
        public_pem: pair.public_key_pem(),
    })
}

/// Issues a token for a user, bound to a device if one is given.
///
/// # Errors
/// A lifetime of 0 or over [`TTL_S_MAX`], or a damaged key: the sentence is for the operator.
pub fn issue(
    state: &MetaState,
    user: UserId,
    device: Option<DeviceId>,
    ttl_s: u64,
    now_unix_ms: u64,
) -> anyhow::Result<String> {
    anyhow::ensure!(
        (1..=TTL_S_MAX).contains(&ttl_s),
        "a user's token lives 1 second to 24 hours; {ttl_s} s were asked for"
    );
    let key = state.token_keys.last().ok_or_else(|| anyhow::anyhow!("the cluster has no key to sign tokens with"))?;
    let now_s = now_unix_ms / 1000;
    let claims = Claims {
        sub: user,
        aud: AUDIENCE.to_owned(),
        iss: state.cluster.clone(),
        iat: now_s,
        exp: now_s + ttl_s,
        nbf: None,
        jti: Some(uuid::Uuid::new_v4().to_string()),
        dev: device,
        ca: Some(pki::ca_sha256(&state.pki)?),
    };
    let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
    let signer = EncodingKey::from_ed_pem(key.private_pem.expose().as_bytes())?;
    Ok(jsonwebtoken::encode(&header, &claims, &signer)?)
}

/// Checks a token.
///
/// # Errors
/// Why it is refused.
pub fn verify(state: &MetaState, token: &str, now_unix_ms: u64) -> Result<Login, TokenRefused> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenRefused::TooLong(token.len()));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| TokenRefused::Malformed(error.to_string()))?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenRefused::Algorithm(header.alg));
    }
    // RFC 7515, 4.1.11: extensions that must be understood, of which we know none.
    if let Some(extensions) = header.crit {
        return Err(TokenRefused::Invalid(format!("it demands extensions this server does not know: {extensions:?}")));
    }
    let key =
        state.token_keys.iter().find(|key| Some(&key.kid) == header.kid.as_ref()).ok_or(TokenRefused::UnknownKey)?;
    let verifier = DecodingKey::from_ed_pem(key.public_pem.as_bytes()).map_err(|_| TokenRefused::UnknownKey)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[&state.cluster]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    // Checked below, against the clock passed in.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let claims = jsonwebtoken::decode::<Claims>(token, &verifier, &validation)
        .map_err(|error| TokenRefused::Invalid(error.to_string()))?
        .claims;
    check_times(&claims, now_unix_ms / 1000)?;
    Ok(Login { user: claims.sub, device: claims.dev })
}

fn check_times(claims: &Claims, now_s: u64) -> Result<(), TokenRefused> {
    let starts = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
    if starts > now_s.saturating_add(LEEWAY_S) {
        return Err(TokenRefused::NotYetValid);
    }
    if claims.exp.saturating_add(LEEWAY_S) <= now_s {
        return Err(TokenRefused::Expired(now_s - claims.exp));
    }
    match claims.exp.checked_sub(claims.iat) {
        Some(ttl_s) if ttl_s <= TTL_S_MAX => Ok(()),
        Some(ttl_s) => Err(TokenRefused::LivesTooLong(ttl_s)),
        None => Err(TokenRefused::Invalid("it expires before it was issued".to_owned())),
    }
}

#[cfg(test)]
mod tests;
