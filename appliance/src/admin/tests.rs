//! The server over a real socket with a scripted node behind it, asked by the real client where it can ask, by hand where not.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use iris_client::{Admin, AdminClientError};
use iris_protocol::admin::{
    ConnectInfo, Counters, Health, HealthLevel, IssuedJoinToken, JoinTokenRequest, SOCKET_NAME, StatusReport,
    UserToken, UserTokenRequest,
};
use iris_protocol::{NodeId, UserId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{AdminSource, bind, serve};

struct Scripted;

impl AdminSource for Scripted {
    fn status(&self) -> BoxFuture<'_, StatusReport> {
        Box::pin(async {
            StatusReport {
                version: "9".into(),
                node: NodeId(3),
                pid: 1,
                cluster: "c".into(),
                ca_sha256: "00".into(),
                listen: "a:1".into(),
                p2p: Vec::new(),
                health: Health { level: HealthLevel::Safe, sentence: "Fine.".into() },
                nodes: Vec::new(),
                groups: Vec::new(),
                network: Default::default(),
                counters: Counters::default(),
                disk: None,
            }
        })
    }

    fn user_token(&self, request: UserTokenRequest) -> BoxFuture<'_, Result<UserToken, String>> {
        Box::pin(async move {
            match request.user.as_str() {
                "mallory" => Err("not for mallory".to_owned()),
                user => Ok(UserToken { token: format!("{user} for {} s", request.ttl_s) }),
            }
        })
    }

    fn join_token(&self, request: JoinTokenRequest) -> BoxFuture<'_, Result<IssuedJoinToken, String>> {
        Box::pin(async move {
            match request.ttl_s {
                0 => Err("for how long?".to_owned()),
                ttl_s => {
                    Ok(IssuedJoinToken { token: "t".into(), expires_unix_ms: ttl_s, addresses: vec!["a:1".into()] })
                }
            }
        })
    }

    fn connect_info(&self) -> BoxFuture<'_, Result<ConnectInfo, String>> {
        Box::pin(async { Err("not yet".to_owned()) })
    }
}

fn start(data: &Path) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let stop = CancellationToken::new();
    let listener = bind(data).unwrap();
    (stop.clone(), tokio::spawn(serve(listener, Arc::new(Scripted), stop)))
}

fn request(user: &str) -> UserTokenRequest {
    UserTokenRequest { user: UserId::new(user).unwrap(), device: None, ttl_s: 60 }
}

/// Sends bytes, returns everything that comes back.
async fn by_hand(data: &Path, text: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(data.join(SOCKET_NAME)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn every_question_is_answered_and_every_refusal_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (stop, served) = start(dir.path());
    let admin = Admin::at(dir.path());
    assert_eq!(admin.status().await.unwrap().node, NodeId(3));
    assert_eq!(admin.user_token(&request("alice")).await.unwrap().token, "alice for 60 s");
    assert_eq!(admin.join_token(&JoinTokenRequest { ttl_s: 60 }).await.unwrap().expires_unix_ms, 60);
    for (refused, why) in [
        (admin.join_token(&JoinTokenRequest { ttl_s: 0 }).await.map(drop), "for how long?"),
        (admin.user_token(&request("mallory")).await.map(drop), "not for mallory"),
        (admin.connect_info().await.map(drop), "not yet"),
    ] {
        assert!(matches!(&refused, Err(AdminClientError::Refused(said)) if said == why), "{refused:?}");
    }
    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(!dir.path().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn what_is_not_ours_is_refused_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let (_stop, _served) = start(dir.path());
    let head = "host: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    for (first, body, status, part) in [
        ("GET /nothing", "", "404", "no /nothing"),
        ("DELETE /v1/status", "", "405", "does not take DELETE"),
        ("POST /v1/tokens/user", "{", "400", "JSON"),
        ("POST /v1/tokens/user", r#"{"user":"","ttl_s":1}"#, "422", "can't be empty"),
    ] {
        let text = format!("{first} HTTP/1.1\r\n{head}content-length: {}\r\n\r\n{body}", body.len());
        let answer = by_hand(dir.path(), &text).await;
        let (_, json) = answer.split_once("\r\n\r\n").unwrap();
        let error: iris_protocol::admin::AdminError = serde_json::from_str(json).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(error.error.contains(part), "{answer}");
    }
    let huge = iris_protocol::admin::ADMIN_BODY_LEN_MAX + 1;
    let text = format!("POST /v1/tokens/user HTTP/1.1\r\n{head}content-length: {huge}\r\n\r\n");
    assert!(by_hand(dir.path(), &text).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn only_the_owner_may_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = bind(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_dead_nodes_socket_gives_way_and_a_live_ones_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed node leaves its socket");
    let first = bind(dir.path()).unwrap();
    let refused = bind(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("another node runs"), "{refused}");
    assert!(path.exists(), "the refused one must not take the socket away");
    drop(first);

    let _older = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let refused = bind(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("another node answers"), "{refused}");
}

#[tokio::test]
async fn files_in_the_way_and_folders_too_deep_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SOCKET_NAME), "precious").unwrap();
    assert!(bind(dir.path()).unwrap_err().to_string().contains("no socket"));
    assert!(bind(&dir.path().join("absent")).unwrap_err().to_string().contains("is the data folder there"));
    let deep = dir.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    assert!(bind(&deep).unwrap_err().to_string().contains("shorter --data"));
}
