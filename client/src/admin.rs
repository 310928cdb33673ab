//! The admin client (D2): JSON over HTTP/1.1 on the unix socket in a node's data folder. One connection per request: an
//! operator's questions are rare, and a node that restarts in between is no special case.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode};
use iris_protocol::admin::{
    ADMIN_BODY_LEN_MAX, AdminError, CONNECT_PATH, ConnectInfo, IssuedJoinToken, JOIN_TOKEN_PATH, JoinTokenRequest,
    SOCKET_NAME, STATUS_PATH, StatusReport, USER_TOKEN_PATH, UserToken, UserTokenRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A whole request: a node that is alive answers in milliseconds.
const REQUEST_SECS_MAX: u64 = 10;

/// Why an admin request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// Nobody listens at the socket.
    #[error("no node answers at {}: is a node running with --data {}? ({source})", socket.display(), data_dir.display())]
    Unreachable {
        /// The socket dialled.
        socket: PathBuf,
        /// The data folder given.
        data_dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node refused; its own sentence.
    #[error("{0}")]
    Refused(String),
    /// No answer within 10 s.
    #[error("the node did not answer within {REQUEST_SECS_MAX} s")]
    Deadline,
    /// The answer makes no sense, or broke off.
    #[error("the node's answer can't be read: {0}")]
    BadAnswer(String),
}

/// A node on this machine, seen by its operator. Cheap to make; holds no connection.
#[derive(Debug, Clone)]
pub struct Admin {
    data_dir: PathBuf,
}

impl Admin {
    /// The node whose data folder this is. Nothing is dialled yet.
    #[must_use]
    pub fn at(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// How things stand.
    ///
    /// # Errors
    /// No node there, or it refuses, or its answer can't be read.
    pub async fn status(&self) -> Result<StatusReport, AdminClientError> {
        self.ask::<(), _>(Method::GET, STATUS_PATH, None).await
    }

    /// A token for a user to log in with.
    ///
    /// # Errors
    /// No node there, or it refuses, or its answer can't be read.
    pub async fn user_token(&self, request: &UserTokenRequest) -> Result<UserToken, AdminClientError> {
        self.ask(Method::POST, USER_TOKEN_PATH, Some(request)).await
    }

    /// A token that lets one new node into the cluster.
    ///
    /// # Errors
    /// No node there, or it refuses, or its answer can't be read.
    pub async fn join_token(&self, request: &JoinTokenRequest) -> Result<IssuedJoinToken, AdminClientError> {
        self.ask(Method::POST, JOIN_TOKEN_PATH, Some(request)).await
    }

    /// What a client needs besides a token.
    ///
    /// # Errors
    /// No node there, or it refuses, or its answer can't be read.
    pub async fn connect_info(&self) -> Result<ConnectInfo, AdminClientError> {
        self.ask::<(), _>(Method::GET, CONNECT_PATH, None).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        question: Option<&Q>,
    ) -> Result<A, AdminClientError> {
        let body = match question {
            Some(question) => serde_json::to_vec(question).map_err(bad_answer)?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "iris.internal")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(bad_answer)?;
        let deadline = Duration::from_secs(REQUEST_SECS_MAX);
        let answer = tokio::time::timeout(deadline, self.exchange(request));
        let (status, body) = answer.await.map_err(|_| AdminClientError::Deadline)??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(bad_answer);
        }
        Err(AdminClientError::Refused(match serde_json::from_slice::<AdminError>(&body) {
            Ok(refusal) => refusal.error,
            Err(_) => format!("the node answered {status}"),
        }))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AdminClientError> {
        let stream = self.dial().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.map_err(bad_answer)?;
        let talk = async move {
            let response = sender.send_request(request).await.map_err(bad_answer)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ADMIN_BODY_LEN_MAX).collect().await.map_err(bad_answer)?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(connection, talk);
        // The connection only drives the talk. When it ends first, the talk finds out from hyper what is missing.
        tokio::select! {
            answer = &mut talk => answer,
            _ = &mut connection => talk.await,
        }
    }

    #[cfg(unix)]
    async fn dial(&self) -> Result<tokio::net::UnixStream, AdminClientError> {
        let socket = self.data_dir.join(SOCKET_NAME);
        tokio::net::UnixStream::connect(&socket).await.map_err(|source| AdminClientError::Unreachable {
            socket,
            data_dir: self.data_dir.clone(),
            source,
        })
    }

    #[cfg(not(unix))]
    async fn dial(&self) -> Result<tokio::net::TcpStream, AdminClientError> {
        Err(AdminClientError::Unreachable {
            socket: self.data_dir.join(SOCKET_NAME),
            data_dir: self.data_dir.clone(),
            source: std::io::Error::from(std::io::ErrorKind::Unsupported),
        })
    }
}

fn bad_answer(error: impl std::fmt::Display) -> AdminClientError {
    AdminClientError::BadAnswer(error.to_string())
}
