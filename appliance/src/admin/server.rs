//! The admin API's HTTP: routes, limits, and refusals as JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::BoxFuture;
use iris_protocol::admin::{
    ADMIN_BODY_LEN_MAX, AdminError, CONNECT_PATH, ConnectInfo, IssuedJoinToken, JOIN_TOKEN_PATH, JoinTokenRequest,
    STATUS_PATH, StatusReport, USER_TOKEN_PATH, UserToken, UserTokenRequest,
};
use tokio_util::sync::CancellationToken;

use super::listener::AdminListener;

/// Longest time for a request, its body included; a little less than a client waits, so that it hears why.
const REQUEST_WITHIN: Duration = Duration::from_secs(8);

/// How long requests under way may take when the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// What an operator can ask of a node.
pub trait AdminSource: Send + Sync + 'static {
    /// How things stand.
    fn status(&self) -> BoxFuture<'_, StatusReport>;

    /// A token for a user; the error is a sentence for the operator.
    fn user_token(&self, request: UserTokenRequest) -> BoxFuture<'_, Result<UserToken, String>>;

    /// A token that lets one new node in; the error is a sentence for the operator.
    fn join_token(&self, request: JoinTokenRequest) -> BoxFuture<'_, Result<IssuedJoinToken, String>>;

    /// What a client needs besides a token; the error is a sentence for the operator.
    fn connect_info(&self) -> BoxFuture<'_, Result<ConnectInfo, String>>;
}

type Source = State<Arc<dyn AdminSource>>;

/// Answers until `stop`. The socket's file is gone when it returns.
///
/// # Errors
/// The socket failed.
pub async fn serve(
    listener: AdminListener,
    source: Arc<dyn AdminSource>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let serving = axum::serve(listener, router(source)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        ended = serving => Ok(ended?),
        () = late => Ok(()),
    }
}

fn router(source: Arc<dyn AdminSource>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(USER_TOKEN_PATH, post(user_token))
        .route(JOIN_TOKEN_PATH, post(join_token))
        .route(CONNECT_PATH, get(connect_info))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(within_bounds))
        .layer(DefaultBodyLimit::max(ADMIN_BODY_LEN_MAX))
        .with_state(source)
}

async fn status(State(source): Source) -> Json<StatusReport> {
    Json(source.status().await)
}

async fn user_token(
    State(source): Source,
    request: Result<Json<UserTokenRequest>, JsonRejection>,
) -> Result<Json<UserToken>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal(rejection.status(), rejection.body_text()))?;
    let issued = source.user_token(request).await;
    issued.map(Json).map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))
}

async fn join_token(
    State(source): Source,
    request: Result<Json<JoinTokenRequest>, JsonRejection>,
) -> Result<Json<IssuedJoinToken>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal(rejection.status(), rejection.body_text()))?;
    let issued = source.join_token(request).await;
    issued.map(Json).map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))
}

async fn connect_info(State(source): Source) -> Result<Json<ConnectInfo>, Refusal> {
    let info = source.connect_info().await;
    info.map(Json).map_err(|why| Refusal(StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn unknown_path(uri: Uri) -> Refusal {
    let why = format!("this node (version {}) has no {} in its admin API", env!("CARGO_PKG_VERSION"), uri.path());
    Refusal(StatusCode::NOT_FOUND, why)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

async fn within_bounds(request: Request, next: Next) -> Response {
    // Said at once instead of after reading it; a body that does not say its length is cut at the same bound.
    if request.body().size_hint().lower() > ADMIN_BODY_LEN_MAX as u64 {
        let why = format!("a request may have {ADMIN_BODY_LEN_MAX} bytes");
        return Refusal(StatusCode::PAYLOAD_TOO_LARGE, why).into_response();
    }
    tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await.unwrap_or_else(|_| {
        let why = format!("the node took more than {} s; is its disk slow?", REQUEST_WITHIN.as_secs());
        Refusal(StatusCode::GATEWAY_TIMEOUT, why).into_response()
    })
}

/// Any answer but the one asked for.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(AdminError { error: self.1 })).into_response()
    }
}
