//! The answering side: reads requests off a peer's stream, runs each in a task of its own, gathers answers into writes.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use iris_protocol::NodeId;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{Method, QUEUE_LEN_MAX, WRITE_DEADLINE, WRITE_GATHER_MAX, put_frame, read_frame};
use crate::cluster::transport::{Channel, PeerStream};

/// What answers requests.
pub trait RpcHandler: Send + Sync + 'static {
    /// Answers one request. An error becomes a refusal whose text the caller logs.
    fn handle(&self, from: NodeId, method: Method, group: u16, payload: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// Serves one inbound stream until it ends. Requests under way are dropped with it: their callers can't be answered any more.
///
/// # Errors
/// The stream broke, or the peer sent something that is no request.
pub async fn serve(
    node: NodeId,
    channel: Channel,
    stream: PeerStream,
    handler: Arc<dyn RpcHandler>,
) -> std::io::Result<()> {
    let (mut reader, writer) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel::<(u64, Result<Bytes, String>)>(QUEUE_LEN_MAX);
    let room = Arc::new(Semaphore::new(channel.calls_max()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = write_answers(writer, queue).await {
            tracing::debug!(%node, %error, "could not answer a peer");
        }
    });
    let mut buf = BytesMut::new();
    while let Some(mut frame) = read_frame(&mut reader, &mut buf).await? {
        if frame.len() < 11 {
            return Err(std::io::Error::other("a request shorter than its head"));
        }
        let (id, method, group) = (frame.get_u64(), frame.get_u8(), frame.get_u16());
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let (handler, answers) = (handler.clone(), answers.clone());
        tasks.spawn(async move {
            let answer = match Method::from_byte(method) {
                Some(method) => handler.handle(node, method, group, frame).await,
                None => Err(format!("method {method} is unknown to this version")),
            };
            // The writer has ended: so has the stream.
            let _ = answers.send((id, answer)).await;
            drop(permit);
        });
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

async fn write_answers(
    mut writer: WriteHalf<PeerStream>,
    mut queue: mpsc::Receiver<(u64, Result<Bytes, String>)>,
) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    while let Some(first) = queue.recv().await {
        let mut taken = Some(first);
        while let Some((id, answer)) = taken {
            let (status, payload) = match &answer {
                Ok(payload) => (0, &payload[..]),
                Err(why) => (1, why.as_bytes()),
            };
            put_frame(
                &mut out,
                |out| {
                    out.put_u64(id);
                    out.put_u8(status);
                },
                payload,
            );
            taken = if out.len() < WRITE_GATHER_MAX { queue.try_recv().ok() } else { None };
        }
        tokio::time::timeout(WRITE_DEADLINE, async {
            writer.write_all_buf(&mut out).await?;
            writer.flush().await
        })
        .await??;
    }
    Ok(())
}
