//! B1 and B3 over the wire (faults 22 and 23): TLS below 1.3, a missing protocol name, a strange CA; tokens that are expired, not
//! yet valid, forged, unsigned, for somebody else, or signed with the public key as a secret. All refused, and counted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iris_client::{Client, ClientError, Code, Trust, UserId};
use iris_protocol::frame::{ALPN, ServerFrame};
use iris_tests::cluster::Cluster;
use iris_tests::raw::{RawConnection, TlsStyle};
use iris_tests::wait::within;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const TLS12_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

const DEADLINE: Duration = Duration::from_secs(20);

async fn one_node() -> Cluster {
    Cluster::start(1).await.unwrap()
}

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

/// Header and claims of a token.
fn parts(token: &str) -> (Value, Value) {
    let part = |at: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    (part(0), part(1))
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// How the node answers a HELLO with this token.
async fn answer(cluster: &Cluster, token: &str) -> Option<ServerFrame> {
    let mut connection = RawConnection::dial(&cluster.addresses()[0], cluster.ca_pem().unwrap()).await.unwrap();
    connection.hello(token, "raw").await.unwrap();
    connection.read().await.unwrap()
}

async fn assert_refused(cluster: &Cluster, what: &str, token: &str) {
    match answer(cluster, token).await {
        Some(ServerFrame::Error { code: Code::AuthFailed, reason, .. }) => {
            for word in ["expire", "signature", "audience", "alg"] {
                assert!(!reason.to_lowercase().contains(word), "{what}: the stranger is told why: {reason}");
            }
        }
        other => panic!("{what}: no auth_failed but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_are_refused_without_a_detail_and_counted() {
    let cluster = one_node().await;
    let good = cluster.token(&alice()).await.unwrap();
    assert!(matches!(answer(&cluster, &good).await, Some(ServerFrame::Welcome { .. })), "the good one is taken");
    let (header, claims) = parts(&good);
    let signature = good.rsplit('.').next().unwrap();
    let changed = |field: &str, value: Value| {
        let mut claims = claims.clone();
        claims[field] = value;
        format!("{}.{}.{signature}", encoded(&header), encoded(&claims))
    };
    let mut refused: Vec<(&str, String)> = vec![
        ("not a token", "nonsense".into()),
        ("another user under the same signature", changed("sub", json!("bob"))),
        ("a longer life under the same signature", changed("exp", json!(now_s() + 1_000_000))),
        ("another audience under the same signature", changed("aud", json!("elsewhere"))),
        ("a signature cut short", good[..good.len() - 4].to_owned()),
        ("no signature", format!("{}.{}.", encoded(&header), encoded(&claims))),
    ];
    let none_header = json!({"alg": "none", "typ": "JWT", "kid": header["kid"]});
    refused.push(("alg none", format!("{}.{}.", encoded(&none_header), encoded(&claims))));
    refused.push(("alg none with a signature", format!("{}.{}.{signature}", encoded(&none_header), encoded(&claims))));
    let hs = Header { kid: header["kid"].as_str().map(str::to_owned), ..Header::new(Algorithm::HS256) };
    // What an attacker has: the CA's certificate and the node's key id are public.
    for secret in [cluster.ca_pem().unwrap().as_bytes(), header["kid"].as_str().unwrap().as_bytes(), b"".as_slice()] {
        let token = jsonwebtoken::encode(&hs, &claims, &EncodingKey::from_secret(secret)).unwrap();
        refused.push(("HS256 with something public as the secret", token));
    }
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let stranger = EncodingKey::from_ed_pem(stranger.serialize_pem().as_bytes()).unwrap();
    let ed = Header { kid: hs.kid.clone(), ..Header::new(Algorithm::EdDSA) };
    refused.push(("a stranger's key", jsonwebtoken::encode(&ed, &claims, &stranger).unwrap()));
    for (what, token) in &refused {
        assert_refused(&cluster, what, token).await;
    }
    let counters = cluster.status(0).await.unwrap().counters;
    assert_eq!(counters.auth_failed, refused.len() as u64);
}

/// Every private key that lies in a node's folder in PEM: whoever has the folder has the keys, and so has this test.
fn private_keys(cluster: &Cluster) -> Vec<EncodingKey> {
    let bytes = std::fs::read(cluster.node(0).data.join("meta")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let pems = text.split("-----BEGIN PRIVATE KEY-----").skip(1).filter_map(|rest| rest.split("-----END").next());
    let pems = pems.map(|body| format!("-----BEGIN PRIVATE KEY-----{body}-----END PRIVATE KEY-----\n"));
    pems.filter_map(|pem| EncodingKey::from_ed_pem(pem.as_bytes()).ok()).collect()
}

/// The cluster's own key signs tokens that a cluster would never issue: only what they say is wrong with them.
/// Of a token that begins later than the node's clock shows.
const NOT_YET: &str = "not yet valid";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn well_signed_tokens_with_bad_claims_are_refused() {
    let cluster = one_node().await;
    let (header, claims) = parts(&cluster.token(&alice()).await.unwrap());
    let header = Header { kid: header["kid"].as_str().map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
    let mut signer = None;
    for key in private_keys(&cluster) {
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        if matches!(answer(&cluster, &token).await, Some(ServerFrame::Welcome { .. })) {
            signer = Some(key);
        }
    }
    let signer = signer.expect("the cluster's signing key is in the node's folder, and what it signs is taken");
    let (now, hour) = (now_s(), 3_600);
    let bad = [
        ("expired", json!({"iat": now - 2 * hour, "exp": now - hour})),
        (NOT_YET, json!({"nbf": now + hour, "exp": now + 2 * hour})),
        (NOT_YET, json!({"iat": now + hour, "exp": now + 2 * hour})),
        ("lives over a day", json!({"iat": now, "exp": now + 25 * hour})),
        ("expires before it was issued", json!({"iat": now + 30, "exp": now + 10})),
        ("another audience", json!({"aud": "elsewhere"})),
        ("no audience", json!({"aud": null})),
        ("no expiry", json!({"exp": null})),
        ("no issue time", json!({"iat": null})),
        ("no user", json!({"sub": null})),
        ("an empty user", json!({"sub": ""})),
        ("a user that is no name", json!({"sub": "a\nb"})),
        ("another cluster", json!({"iss": "another"})),
    ];
    for (what, changes) in bad {
        let mut claims = claims.clone();
        for (field, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(field)),
                value => claims[field] = value.clone(),
            }
        }
        let token = jsonwebtoken::encode(&header, &claims, &signer).unwrap();
        if what == NOT_YET {
            // Not let in either; but the clock may be what is wrong, so the client tries another node.
            let answered = answer(&cluster, &token).await;
            let put_off = matches!(answered, Some(ServerFrame::Error { code: Code::ShuttingDown, .. }));
            assert!(put_off, "{changes}: {answered:?}");
        } else {
            assert_refused(&cluster, what, &token).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_another_cluster_are_refused_here() {
    let (here, there) = (one_node().await, one_node().await);
    let token = there.token(&alice()).await.unwrap();
    assert_refused(&here, "another cluster's token", &token).await;
    let config =
        iris_client::ClientConfig::new(here.addresses(), Trust::CaPem(here.ca_pem().unwrap().to_owned()), token);
    let client = Client::start(config).unwrap();
    let refused = within("the client to be told", DEADLINE, client.connected()).await.unwrap();
    assert_eq!(refused, Err(ClientError::AuthFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_below_1_3_and_connections_without_the_protocol_name_are_refused() {
    let cluster = one_node().await;
    let (address, ca) = (&cluster.addresses()[0], cluster.ca_pem().unwrap());
    let old = TlsStyle { versions: TLS12_ONLY, ..TlsStyle::default() };
    assert!(RawConnection::dial_with(address, ca, old).await.is_err(), "TLS 1.2");
    for alpn in [vec![], vec![b"h2".to_vec()], vec![b"iris/1".to_vec()]] {
        let style = TlsStyle { alpn: alpn.clone(), ..TlsStyle::default() };
        // A client may finish its side of the handshake before it hears of the refusal: then it hears it now.
        let ended = match RawConnection::dial_with(address, ca, style).await {
            Ok(mut connection) => matches!(connection.read().await, Ok(None)),
            Err(_) => true,
        };
        assert!(ended, "ALPN {alpn:?} was served");
    }
    let both = TlsStyle { alpn: vec![b"h2".to_vec(), ALPN.to_vec()], versions: rustls::ALL_VERSIONS };
    assert!(RawConnection::dial_with(address, ca, both).await.is_ok(), "a client that offers more is served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_trusts_its_own_cluster_only() {
    let (here, there) = (one_node().await, one_node().await);
    let token = here.token(&alice()).await.unwrap();
    let with = |trust: Trust| iris_client::ClientConfig::new(here.addresses(), trust, token.clone());
    for trust in [Trust::CaPem(there.ca_pem().unwrap().to_owned()), Trust::CaSha256([7; 32])] {
        let client = Client::start(with(trust)).unwrap();
        let refused = within("the client to refuse", DEADLINE, client.connected()).await.unwrap();
        assert!(matches!(refused, Err(ClientError::Untrusted(_))), "{refused:?}");
    }
    let by_claim = Trust::from_token(&token).unwrap();
    let client = Client::start(with(by_claim)).unwrap();
    within("a login by the token's fingerprint", DEADLINE, client.connected()).await.unwrap().unwrap();
}
