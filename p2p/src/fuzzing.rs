//! What fuzz targets see of this crate's decoders: each function does with a stream what the product does with one from a
//! member.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::{DownCause, StreamKind, heartbeat, hello};

/// Takes the hello of a stream that a peer opened, and accepts it: what it is for, none being a heartbeat.
///
/// # Errors
/// It is refused.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Option<StreamKind>, String> {
    let purpose = hello::read(stream).await.map_err(|error| error.to_string())?;
    hello::answer(stream, hello::Verdict::Accepted).await.map_err(|error| error.to_string())?;
    Ok(match purpose {
        hello::Purpose::Heartbeat => None,
        hello::Purpose::Caller(kind) => Some(kind),
    })
}

/// Opens a stream, whatever the peer answers.
///
/// # Errors
/// It was refused.
pub async fn offer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, kind: StreamKind) -> Result<(), String> {
    hello::offer(stream, hello::Purpose::Caller(kind)).await.map_err(|error| error.to_string())
}

/// Beats with a peer until the link is lost; whether it ever came up, and why it ended.
pub async fn beat<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (bool, DownCause) {
    let timing = heartbeat::Timing { interval: Duration::from_millis(250), silent_after: Duration::from_secs(2) };
    let (up, mut is_up) = oneshot::channel();
    let cause = heartbeat::run(stream, timing, Arc::default(), up).await;
    (is_up.try_recv().is_ok(), cause)
}
