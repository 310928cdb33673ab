//! The calling side: one task per peer and channel keeps a stream open, gathers requests into writes and hands answers back.
//! While there is no stream, calls fail at once, so that Raft and the routers can try somewhere else.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use iris_protocol::NodeId;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Method, QUEUE_LEN_MAX, VERSION, WRITE_GATHER_MAX, put_frame, read_frame, write_out};
use crate::cluster::breaker::Breaker;
use crate::cluster::transport::{Channel, PeerStream, PeerTransport};

/// Between attempts to open a stream: short, because the link below has its own backoff and says at once that it is down.
const REOPEN_AFTER: Duration = Duration::from_millis(50);

/// A call that was given less time than this and ran out of it says nothing against a peer: heartbeats have a tenth of a second,
/// which a busy machine or a slow disk needs now and then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No live stream, or it broke before the answer: whether the call was carried out is unknown.
    #[error("node {0} can't be reached")]
    Unreachable(NodeId),
    /// The last calls to it failed, and it is not asked for a while (`cluster::breaker`): this one was not sent.
    #[error("node {0} did not answer the last calls and is left alone for a while")]
    LeftAlone(NodeId),
    /// No answer in time; unknown as well.
    #[error("node {0} did not answer in time")]
    Deadline(NodeId),
    /// The handler refused; the text is for logs.
    #[error("node {0} refused: {1}")]
    Refused(NodeId, String),
}

type Answer = oneshot::Sender<Result<Bytes, RpcError>>;

struct Call {
    method: Method,
    group: u16,
    payload: Bytes,
    answer: Answer,
}

/// Calls to one peer on one channel.
pub struct RpcClient {
    node: NodeId,
    channel: Channel,
    calls: mpsc::Sender<Call>,
    connected: Arc<AtomicBool>,
    breaker: Arc<Breaker>,
}

impl RpcClient {
    /// Calls and waits for the answer.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn call(
        &self,
        method: Method,
        group: u16,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RpcError> {
        let made_ms = self.breaker.now_ms();
        if !self.connected.load(Ordering::Relaxed) {
            self.breaker.failed(made_ms, made_ms);
            return Err(RpcError::Unreachable(self.node));
        }
        if self.channel != Channel::Raft && !self.breaker.allows(made_ms) {
            return Err(RpcError::LeftAlone(self.node));
        }
        let result = self.send(method, group, payload, deadline).await;
        self.judge(&result, made_ms, deadline);
        result
    }

    fn judge(&self, result: &Result<Bytes, RpcError>, made_ms: u64, deadline: Duration) {
        let now_ms = self.breaker.now_ms();
        match result {
            Ok(_) | Err(RpcError::Refused(..)) => self.breaker.heard(now_ms),
            Err(RpcError::Deadline(_)) if deadline < PATIENCE => {}
            Err(_) if self.breaker.failed(made_ms, now_ms) => {
                tracing::warn!(node = %self.node, "a peer does not answer: calls to it fail at once until it is heard of, or for 30 s");
            }
            Err(_) => {}
        }
    }

    async fn send(&self, method: Method, group: u16, payload: Bytes, deadline: Duration) -> Result<Bytes, RpcError> {
        let (answer, answered) = oneshot::channel();
        let whole = async {
            let call = Call { method, group, payload, answer };
            self.calls.send(call).await.map_err(|_| RpcError::Unreachable(self.node))?;
            answered.await.map_err(|_| RpcError::Unreachable(self.node))?
        };
        tokio::time::timeout(deadline, whole).await.unwrap_or(Err(RpcError::Deadline(self.node)))
    }
}

/// The clients of all peers; follows the cluster's members.
#[derive(Default)]
pub struct RpcClients {
    by_peer: ArcSwap<HashMap<(NodeId, Channel), Arc<RpcClient>>>,
}

/// What keeps one peer's stream open: to be run by a supervised task.
pub struct ClientTask {
    node: NodeId,
    channel: Channel,
    calls: mpsc::Receiver<Call>,
    connected: Arc<AtomicBool>,
    breaker: Arc<Breaker>,
}

impl RpcClients {
    /// Makes these the peers. Returns the tasks that serve the new ones; those of peers that are gone end by themselves, and
    /// calls under way to them fail. One caller at a time.
    #[must_use]
    pub fn set_peers(&self, peers: &BTreeSet<NodeId>) -> Vec<ClientTask> {
        let mut by_peer = HashMap::clone(&self.by_peer.load());
        by_peer.retain(|(node, _), _| peers.contains(node));
        let mut tasks = Vec::new();
        for &node in peers {
            let known = by_peer.get(&(node, Channel::Raft)).map(|client| client.breaker.clone());
            let breaker = known.unwrap_or_else(|| Arc::new(Breaker::new()));
            for channel in Channel::CALLS {
                by_peer.entry((node, channel)).or_insert_with(|| {
                    let (sender, calls) = mpsc::channel(QUEUE_LEN_MAX);
                    let connected = Arc::new(AtomicBool::new(false));
                    let breaker = breaker.clone();
                    tasks.push(ClientTask {
                        node,
                        channel,
                        calls,
                        connected: connected.clone(),
                        breaker: breaker.clone(),
                    });
                    Arc::new(RpcClient { node, channel, calls: sender, connected, breaker })
                });
            }
        }
        self.by_peer.store(Arc::new(by_peer));
        tasks
    }

    /// The client for a peer.
    ///
    /// # Errors
    /// The node is no peer of this one.
    pub fn get(&self, node: NodeId, channel: Channel) -> Result<Arc<RpcClient>, RpcError> {
        self.by_peer.load().get(&(node, channel)).cloned().ok_or(RpcError::Unreachable(node))
    }

    /// The breaker of a peer; `None` if the node is none.
    pub(in crate::cluster) fn breaker(&self, node: NodeId) -> Option<Arc<Breaker>> {
        self.by_peer.load().get(&(node, Channel::Raft)).map(|client| client.breaker.clone())
    }

    /// A peer called by itself: it is there.
    pub(in crate::cluster) fn heard_from(&self, node: NodeId) {
        if let Some(client) = self.by_peer.load().get(&(node, Channel::Raft)) {
            client.breaker.heard(client.breaker.now_ms());
        }
    }
}

type Pending = Arc<Mutex<HashMap<u64, Answer>>>;

impl ClientTask {
    /// A name for the supervisor.
    #[must_use]
    pub fn name(&self) -> String {
        format!("rpc to node {} ({:?})", self.node, self.channel)
    }

    /// Opens the stream whenever it is not open, until `stop` or until the peer is none any more.
    pub async fn run(&mut self, transport: Arc<dyn PeerTransport>, stop: &CancellationToken) {
        loop {
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = transport.open(self.node, self.channel) => opened,
            };
            match opened {
                Ok(stream) => {
                    self.breaker.heard(self.breaker.now_ms());
                    self.connected.store(true, Ordering::Relaxed);
                    let ended = tokio::select! {
                        () = stop.cancelled() => return,
                        ended = self.serve(stream) => ended,
                    };
                    tracing::debug!(node = %self.node, channel = ?self.channel, %ended, "a peer stream ended");
                }
                Err(error) => tracing::trace!(node = %self.node, %error, "no stream to a peer yet"),
            }
            self.connected.store(false, Ordering::Relaxed);
            // Dropping a call's answer tells its caller that the peer can't be reached.
            while self.calls.try_recv().is_ok() {}
            if self.calls.is_closed() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REOPEN_AFTER) => {}
            }
        }
    }

    async fn serve(&mut self, stream: PeerStream) -> std::io::Error {
        let (reader, writer) = tokio::io::split(stream);
        let pending = Pending::default();
        let ended = tokio::select! {
            ended = write_calls(writer, &mut self.calls, &pending, self.channel.calls_max()) => ended,
            ended = read_answers(reader, &pending, self.node) => ended,
        };
        ended.err().unwrap_or_else(|| std::io::Error::other("the stream was closed"))
    }
}

async fn write_calls(
    mut writer: WriteHalf<PeerStream>,
    calls: &mut mpsc::Receiver<Call>,
    pending: &Pending,
    calls_max: usize,
) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    let mut next_id = 0u64;
    while let Some(first) = calls.recv().await {
        let mut taken = Some(first);
        while let Some(call) = taken {
            // Who gave up meanwhile costs nothing on the wire.
            if !call.answer.is_closed() {
                next_id += 1;
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                if pending.len() >= calls_max {
                    // Calls whose callers have gone (their deadline passed) are not awaited any more.
                    pending.retain(|_, answer| !answer.is_closed());
                }
                pending.insert(next_id, call.answer);
                drop(pending);
                put_frame(
                    &mut out,
                    |out| {
                        out.put_u64(next_id);
                        out.put_u8(call.method as u8);
                        out.put_u16(call.group);
                    },
                    &call.payload,
                );
            }
            taken = if out.len() < WRITE_GATHER_MAX { calls.try_recv().ok() } else { None };
        }
        write_out(&mut writer, &mut out).await?;
    }
    Ok(())
}

async fn read_answers(mut reader: ReadHalf<PeerStream>, pending: &Pending, node: NodeId) -> std::io::Result<()> {
    let mut buf = BytesMut::new();
    while let Some(mut frame) = read_frame(&mut reader, &mut buf).await? {
        if frame.len() < 9 {
            return Err(std::io::Error::other("an answer shorter than its head"));
        }
        let id = frame.get_u64();
        let status = frame.get_u8();
        let answer = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(answer) = answer {
            let result = if status == 0 {
                Ok(frame)
            } else {
                Err(RpcError::Refused(node, String::from_utf8_lossy(&frame).into_owned()))
            };
            // A caller that has gone away does not mind.
            let _ = answer.send(result);
        }
    }
    Ok(())
}
