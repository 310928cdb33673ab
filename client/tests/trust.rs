//! Whom the client talks to (B1): only nodes under the cluster's CA, only TLS 1.3, only `iris/2`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use iris_client::{Client, ClientError, Trust};
use support::*;

/// What comes of connecting with `trust` to a node with this TLS.
async fn connect(trust: Trust, tls: rustls::ServerConfig) -> Result<(), ClientError> {
    let node = Node::with_tls(tls, 1).await;
    let client = Client::start(config(trust, &[&node])).unwrap();
    let serve = async {
        match node.accept().await {
            Ok(mut conn) => {
                // A client that trusts says HELLO; one that does not hangs up, and may have let the node finish its half first.
                if within("HELLO", conn.try_frame()).await.is_some() {
                    conn.say(&[node.welcome()]).await;
                }
                std::future::pending::<()>().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        connected = within("a login or a refusal", client.connected()) => connected.map(drop),
        () = serve => unreachable!("it serves for ever"),
    }
}

#[track_caller]
fn assert_untrusted(result: Result<(), ClientError>) {
    assert!(matches!(result, Err(ClientError::Untrusted(_))), "{result:?}");
}

#[tokio::test]
async fn the_clusters_own_nodes_are_trusted() {
    let ca = Ca::new();
    assert_eq!(connect(ca.pem(), ca.tls("iris.internal")).await, Ok(()));
    assert_eq!(connect(ca.fingerprint(), ca.tls("iris.internal")).await, Ok(()));
}

#[tokio::test]
async fn another_clusters_nodes_are_not() {
    let (ca, other) = (Ca::new(), Ca::new());
    assert_untrusted(connect(ca.pem(), other.tls("iris.internal")).await);
    assert_untrusted(connect(ca.fingerprint(), other.tls("iris.internal")).await);
}

#[tokio::test]
async fn showing_the_cas_certificate_proves_nothing() {
    let (ca, impostor) = (Ca::new(), Ca::new());
    let tls = impostor.tls_with("iris.internal", &rustls::version::TLS13, &ca);
    assert_untrusted(connect(ca.fingerprint(), tls).await);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::new();
    assert_untrusted(connect(ca.pem(), ca.tls("example.org")).await);
    assert_untrusted(connect(ca.fingerprint(), ca.tls("example.org")).await);
}

#[tokio::test]
async fn tls_below_1_3_is_refused() {
    let ca = Ca::new();
    let old = || ca.tls_with("iris.internal", &rustls::version::TLS12, &ca);
    assert_untrusted(connect(ca.pem(), old()).await);
    assert_untrusted(connect(ca.fingerprint(), old()).await);
}

#[tokio::test]
async fn a_server_that_does_not_name_the_protocol_is_refused() {
    let ca = Ca::new();
    let mut tls = ca.tls("iris.internal");
    tls.alpn_protocols.clear();
    assert_untrusted(connect(ca.pem(), tls).await);
}

#[tokio::test]
async fn one_stranger_among_the_addresses_does_not_matter() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (stranger, node) = (Node::start(&other, 1).await, Node::start(&ca, 2).await);
    let client = Client::start(config(ca.pem(), &[&stranger, &node])).unwrap();
    let (refused, _conn) = tokio::join!(stranger.accept(), node.login());
    assert!(refused.is_err());
    assert_eq!(within("login", client.connected()).await.unwrap().node.0, 2);
}
