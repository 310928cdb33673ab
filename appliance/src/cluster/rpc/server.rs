//! The answering side: reads requests off a peer's stream, runs each in a task of its own, gathers answers into writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use iris_protocol::NodeId;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{Method, QUEUE_LEN_MAX, VERSION, WRITE_GATHER_MAX, put_frame, read_frame, write_out};
use crate::cluster::transport::{Channel, PeerStream};

/// Longest a request may take: its caller has given up long before, save for reads that wait for news, which wait half of it.
const HANDLE_DEADLINE: Duration = Duration::from_secs(60);

/// The same for Raft's own: while a group installs a snapshot it answers none, its leader asks ten times a second, and the
/// other groups of the stream need the room.
const RAFT_DEADLINE: Duration = Duration::from_secs(5);

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
    let (reader, writer) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel(QUEUE_LEN_MAX);
    // Whichever half ends first ends the stream: one that still took requests but answered none would look alive for ever.
    tokio::select! {
        ended = read_requests(node, channel, reader, handler, answers) => ended,
        ended = write_answers(writer, queue) => ended,
    }
}

type Answer = (u64, Result<Bytes, String>);

async fn read_requests(
    node: NodeId,
    channel: Channel,
    mut reader: ReadHalf<PeerStream>,
    handler: Arc<dyn RpcHandler>,
    answers: mpsc::Sender<Answer>,
) -> std::io::Result<()> {
    let version = reader.read_u8().await?;
    if version != VERSION {
        return Err(std::io::Error::other(format!(
            "node {node} speaks version {version} of calls, this node {VERSION}: upgrade the older of the two"
        )));
    }
    let room = Arc::new(Semaphore::new(channel.calls_max()));
    let mut tasks = JoinSet::new();
    let mut buf = BytesMut::new();
    while let Some(mut frame) = read_frame(&mut reader, &mut buf).await? {
        if frame.len() < 11 {
            return Err(std::io::Error::other("a request shorter than its head"));
        }
        let (id, method, group) = (frame.get_u64(), frame.get_u8(), frame.get_u16());
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(()) };
        let (handler, answers) = (handler.clone(), answers.clone());
        let deadline = if channel == Channel::Raft { RAFT_DEADLINE } else { HANDLE_DEADLINE };
        tasks.spawn(async move {
            let answer = match Method::from_byte(method) {
                Some(method) => tokio::time::timeout(deadline, handler.handle(node, method, group, frame))
                    .await
                    .unwrap_or_else(|_| Err("it took too long".to_owned())),
                None => Err(format!("method {method} is unknown to this version")),
            };
            // The stream has ended: nobody is left to answer.
            let _ = answers.send((id, answer)).await;
            drop(permit);
        });
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

async fn write_answers(mut writer: WriteHalf<PeerStream>, mut queue: mpsc::Receiver<Answer>) -> std::io::Result<()> {
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
        write_out(&mut writer, &mut out).await?;
    }
    Ok(())
}
