//! The admin client (D2) against a socket that answers by script.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![cfg(unix)]

use iris_client::{Admin, AdminClientError, UserId};
use iris_protocol::admin::{ADMIN_BODY_LEN_MAX, SOCKET_NAME, UserTokenRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// Answers one request and returns it.
async fn answer_once(listener: &UnixListener, status: &str, body: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    // A GET ends with its header, a POST here with a JSON object.
    while !request.ends_with(if request.starts_with(b"POST") { &b"}"[..] } else { b"\r\n\r\n" }) {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn questions_are_asked_and_answers_read() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let admin = Admin::at(dir.path());
    let request = UserTokenRequest { user: UserId::new("alice").unwrap(), device: None, ttl_s: 60 };
    let (token, asked) =
        tokio::join!(admin.user_token(&request), answer_once(&listener, "200 OK", r#"{"token":"a.b.c"}"#));
    assert_eq!(token.unwrap().token, "a.b.c");
    assert!(asked.starts_with("POST /v1/tokens/user HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"user":"alice","ttl_s":60}"#), "{asked}");
    let (info, asked) =
        tokio::join!(admin.connect_info(), answer_once(&listener, "200 OK", r#"{"addresses":["a:1"],"ca_pem":"PEM"}"#));
    assert_eq!(info.unwrap().addresses, ["a:1"]);
    assert!(asked.starts_with("GET /v1/connect HTTP/1.1\r\n"), "{asked}");
}

#[tokio::test]
async fn a_refusal_is_the_nodes_own_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let admin = Admin::at(dir.path());
    let (answer, _) =
        tokio::join!(admin.status(), answer_once(&listener, "409 Conflict", r#"{"error":"not yet: wait a second"}"#));
    let error = answer.unwrap_err();
    assert!(matches!(error, AdminClientError::Refused(_)));
    assert_eq!(error.to_string(), "not yet: wait a second");
}

#[tokio::test]
async fn an_answer_has_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let admin = Admin::at(dir.path());
    let long = format!("\"{}\"", "x".repeat(ADMIN_BODY_LEN_MAX));
    let (answer, _) = tokio::join!(admin.status(), answer_once(&listener, "200 OK", &long));
    assert!(matches!(answer, Err(AdminClientError::BadAnswer(_))));
}

#[tokio::test]
async fn no_node_is_said_in_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = Admin::at(dir.path()).status().await.unwrap_err();
    assert!(matches!(nobody, AdminClientError::Unreachable { .. }));
    let asks = format!("is a node running with --data {}?", dir.path().display());
    assert!(nobody.to_string().contains(&asks), "{nobody}");
    // A socket left behind by a node that was killed.
    drop(UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
    let dead = Admin::at(dir.path()).status().await.unwrap_err();
    assert!(matches!(dead, AdminClientError::Unreachable { .. }));
}
