//! Calls over an in-memory stream: matching, refusals, a peer that breaks off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_protocol::NodeId;
use iris_protocol::testing::check_file;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cluster::transport::{Channel, PeerStream, PeerTransport};

struct Pipes(tokio::sync::Mutex<Vec<PeerStream>>);

impl PeerTransport for Pipes {
    fn open(&self, _: NodeId, channel: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>> {
        Box::pin(async move {
            anyhow::ensure!(channel == Channel::Raft);
            self.0.lock().await.pop().ok_or_else(|| anyhow::anyhow!("no pipe"))
        })
    }

    fn is_up(&self, _: NodeId) -> bool {
        true
    }
}

struct Echo;

impl RpcHandler for Echo {
    fn handle(&self, _: NodeId, method: Method, group: u16, payload: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match method {
                Method::Vote => Err("no".to_owned()),
                Method::Read => std::future::pending().await,
                _ => Ok([&group.to_be_bytes()[..], &payload].concat().into()),
            }
        })
    }
}

fn start() -> (Arc<RpcClient>, tokio::task::JoinHandle<std::io::Result<()>>, CancellationToken) {
    let (ours, theirs) = tokio::io::duplex(100);
    let server = tokio::spawn(serve(NodeId(1), Channel::Raft, Box::new(theirs), Arc::new(Echo)));
    let (client, stop) = client_over(Box::new(ours));
    (client, server, stop)
}

fn client_over(stream: PeerStream) -> (Arc<RpcClient>, CancellationToken) {
    let clients = RpcClients::default();
    let tasks = clients.set_peers(&[NodeId(2)].into());
    let transport = Arc::new(Pipes(tokio::sync::Mutex::new(vec![stream])));
    let stop = CancellationToken::new();
    for mut task in tasks {
        let (transport, stop) = (transport.clone(), stop.clone());
        tokio::spawn(async move { task.run(transport, &stop).await });
    }
    (clients.get(NodeId(2), Channel::Raft).unwrap(), stop)
}

async fn call(client: &RpcClient, method: Method, payload: Bytes) -> Result<Bytes, RpcError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        match client.call(method, 7, payload.clone(), Duration::from_secs(1)).await {
            Err(RpcError::Unreachable(_)) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn many_calls_at_once_get_their_own_answers() {
    let (client, _server, _stop) = start();
    assert_eq!(call(&client, Method::Append, Bytes::new()).await.unwrap(), Bytes::from_static(&[0, 7]));
    let calls = (0..200u32).map(|n| {
        let client = client.clone();
        async move {
            let payload = Bytes::from(vec![n as u8; 1 + n as usize * 37]);
            let answer = call(&client, Method::Append, payload.clone()).await.unwrap();
            assert_eq!(answer.slice(2..), payload);
        }
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn refusals_deadlines_and_breaks_are_told_apart() {
    let (client, server, _stop) = start();
    assert_eq!(call(&client, Method::Vote, Bytes::new()).await, Err(RpcError::Refused(NodeId(2), "no".into())));
    assert_eq!(call(&client, Method::Read, Bytes::new()).await, Err(RpcError::Deadline(NodeId(2))));
    let waiting = client.clone();
    let waiting =
        tokio::spawn(async move { waiting.call(Method::Read, 0, Bytes::new(), Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    server.abort();
    assert_eq!(waiting.await.unwrap(), Err(RpcError::Unreachable(NodeId(2))));
}

/// A peer that takes no answers must not go on looking alive: its stream ends, so that it opens a new one.
#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_no_answers_ends() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let server = tokio::spawn(serve(NodeId(1), Channel::Raft, Box::new(theirs), Arc::new(Echo)));
    let mut request = BytesMut::from(&[VERSION][..]);
    put_frame(
        &mut request,
        |out| {
            out.put_u64(1);
            out.put_u8(Method::Append as u8);
            out.put_u16(7);
        },
        &[0; 1000],
    );
    ours.write_all_buf(&mut request).await.unwrap();
    let ended = tokio::time::timeout(WRITE_DEADLINE * 2, server).await.expect("the stream should have ended");
    assert!(ended.unwrap().is_err());
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_so() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let server = tokio::spawn(serve(NodeId(3), Channel::Edge, Box::new(theirs), Arc::new(Echo)));
    ours.write_u8(VERSION + 1).await.unwrap();
    let error = server.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("node 3 speaks version 2") && error.contains("upgrade"), "{error}");
}

/// The frames as fixtures (`iris_protocol::testing`): what an update must go on reading.
#[tokio::test]
async fn a_request_and_its_answer_as_they_travel() {
    let (mut ours, theirs) = tokio::io::duplex(1_000);
    let (client, _stop) = client_over(Box::new(theirs));
    let (mut asking, serving) = tokio::io::duplex(1_000);
    let server = tokio::spawn(serve(NodeId(1), Channel::Raft, Box::new(serving), Arc::new(Echo)));
    let relaying = async {
        let mut request = [0; 1 + 4 + 11 + 9];
        ours.read_exact(&mut request).await.unwrap();
        assert_eq!(check_file("rpc_request", VERSION.into(), &request, |_| {}), request);
        asking.write_all(&request).await.unwrap();
        let mut answer = [0; 4 + 9 + 11];
        asking.read_exact(&mut answer).await.unwrap();
        assert_eq!(check_file("rpc_answer", VERSION.into(), &answer, |_| {}), answer);
        ours.write_all(&answer).await.unwrap();
    };
    let (answer, ()) = tokio::join!(call(&client, Method::Append, Bytes::from_static(b"a payload")), relaying);
    assert_eq!(answer.unwrap(), Bytes::from_static(b"\0\x07a payload"));
    server.abort();
}

/// A peer whose streams open and never answer.
#[derive(Default)]
struct Mute(std::sync::Mutex<Vec<tokio::io::DuplexStream>>);

impl PeerTransport for Mute {
    fn open(&self, _: NodeId, _: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.0.lock().unwrap().push(theirs);
        Box::pin(async { Ok(Box::new(ours) as PeerStream) })
    }

    fn is_up(&self, _: NodeId) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_is_left_alone_save_by_raft_and_asked_again_once_it_is_heard_of() {
    let (clients, mute, stop) = (RpcClients::default(), Arc::new(Mute::default()), CancellationToken::new());
    let peer = NodeId(2);
    for mut task in clients.set_peers(&[peer].into()) {
        let (transport, stop) = (mute.clone(), stop.clone());
        tokio::spawn(async move { task.run(transport, &stop).await });
    }
    let (edge, raft) = (clients.get(peer, Channel::Edge).unwrap(), clients.get(peer, Channel::Raft).unwrap());
    let (late, left_alone) = (Err(RpcError::Deadline(peer)), Err(RpcError::LeftAlone(peer)));
    // The streams open, which is a sign of life; calls come later than that.
    tokio::time::sleep(Duration::from_millis(10)).await;
    for _ in 0..5 {
        assert_eq!(call(&edge, Method::Append, Bytes::new()).await, late);
    }
    let now = tokio::time::Instant::now();
    assert_eq!(call(&edge, Method::Append, Bytes::new()).await, left_alone);
    assert_eq!(now.elapsed(), Duration::ZERO, "at once");
    assert_eq!(call(&raft, Method::Append, Bytes::new()).await, late, "Raft's go on");
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(call(&edge, Method::Append, Bytes::new()).await, late, "the probe");
    assert_eq!(call(&edge, Method::Append, Bytes::new()).await, left_alone);
    clients.heard_from(peer);
    assert_eq!(call(&edge, Method::Append, Bytes::new()).await, late, "asked again");
    assert_eq!(clients.breaker(peer).unwrap().opened(), 1);
    stop.cancel();
}
