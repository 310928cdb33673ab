//! Making a join token: the secret from the crypto library, its hash to the cluster, the text to the operator and nowhere else.

use std::time::Duration;

use iris_protocol::admin::{IssuedJoinToken, JoinTokenRequest};

use super::token::{ADDRESSES_MAX, JoinSecret, JoinToken};
use crate::auth::pki;
use crate::calendar::utc;
use crate::cluster::meta::MetaOutcome;
use crate::cluster::meta::admission::{SecretHash, TOKEN_TTL_MS_MAX, TOKENS_MAX, TokenId};
use crate::cluster::{MetaCall, MetaState, Proposals};

/// Shorter than the admin API's own deadline, so that the operator hears why.
const ISSUE_DEADLINE: Duration = Duration::from_secs(6);

/// Of this node's own addresses, so many stand before the other members': that of the home network in IPv4 and IPv6. A machine
/// with many networks must not fill the token, or it opens nothing while that machine is off.
const OWN_FIRST: usize = 2;

/// Makes a token that names this member's `own` addresses and the `others'`, each best first, and has the cluster remember it.
///
/// # Errors
/// A sentence for the operator.
pub async fn issue(
    proposals: &Proposals,
    state: &MetaState,
    own: Vec<String>,
    others: Vec<String>,
    request: JoinTokenRequest,
    now_ms: u64,
) -> Result<IssuedJoinToken, String> {
    let ttl_ms = request.ttl_s.saturating_mul(1_000);
    if !(1_000..=TOKEN_TTL_MS_MAX).contains(&ttl_ms) {
        return Err(format!("a join token lives 1 second to 24 hours; {} s were asked for", request.ttl_s));
    }
    let token =
        make(state, best_first(own, others), now_ms.saturating_add(ttl_ms)).map_err(|error| format!("{error:#}"))?;
    let call = MetaCall::IssueToken { id: token.id, secret: SecretHash::of(token.secret.expose()), ttl_ms };
    match proposals.ask(call, ISSUE_DEADLINE).await.map_err(|undecided| undecided.to_string())? {
        MetaOutcome::Changed => {
            Ok(IssuedJoinToken { token: token.expose(), expires_unix_ms: token.expires_ms, addresses: token.addresses })
        }
        MetaOutcome::TokensFull { first_expires_ms } => Err(format!(
            "{TOKENS_MAX} join tokens are good already; use one of those, or wait until the first ends at {} UTC",
            utc(first_expires_ms)
        )),
        other => Err(format!("the token was not taken up: {other:?}; try again")),
    }
}

fn make(state: &MetaState, addresses: Vec<String>, expires_ms: u64) -> anyhow::Result<JoinToken> {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    for bytes in [&mut id[..], &mut secret[..]] {
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(bytes).map_err(|_| anyhow::anyhow!("the crypto library gives no random numbers"))?;
    }
    Ok(JoinToken {
        cluster: state.cluster.clone(),
        ca_sha256: pki::ca_sha256_bytes(&state.pki)?,
        addresses,
        id: TokenId(id),
        secret: JoinSecret::new(secret),
        expires_ms,
    })
}

/// Each once, those that mean something on another machine first; as many as a token holds.
fn best_first(mut own: Vec<String>, others: Vec<String>) -> Vec<String> {
    let rest = own.split_off(own.len().min(OWN_FIRST));
    let mut addresses = [own, others, rest].concat();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| super::is_address(address) && seen.insert(address.clone()));
    addresses.sort_by_key(|address| {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_something_elsewhere_come_first_and_are_few() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mixed = texts(&["127.0.0.1:1", "attic:1", "[::1]:1", "localhost:1", "attic:1", "nowhere", "[fd00::1]:1"]);
        let expect = texts(&["attic:1", "[fd00::1]:1", "127.0.0.1:1", "[::1]:1", "localhost:1"]);
        assert_eq!(best_first(mixed, Vec::new()), expect);
        let many: Vec<String> = (1..20).map(|at| format!("n{at}:1")).collect();
        let told = best_first(many.clone(), texts(&["attic:1", "nas:1"]));
        assert_eq!(told[..5], texts(&["n1:1", "n2:1", "attic:1", "nas:1", "n3:1"]), "others are named too");
        assert_eq!(told.len(), ADDRESSES_MAX);
    }
}
