//! What nodes say to each other. A member may be of another version or broken, so its bytes are no more trusted than a
//! stranger's. Must hold: any bytes are a message or an error, and a stream of them ends; what is read and written again is the same; each request
//! of a call stream is answered at most once; no link is up that the peer did not answer.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_appliance::admission::wire::{JoinAnswer, JoinRequest};
use iris_appliance::cluster::fuzzing::{MEMBER_VALUES, RAFT_VALUES, append_request};
use iris_appliance::cluster::rpc::{self, RpcHandler};
use iris_appliance::cluster::{Channel, Method};
use iris_appliance::routing::wire;
use iris_p2p::{DownCause, PeerAddr, PeerKey, StreamKind, fuzzing};
use iris_protocol::versioned::{decode, encode};
use iris_protocol::{NodeId, versioned};
use iris_store::decode_batch;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::{quiet, settles};

/// What a pipe holds: less than most inputs, so that they come in pieces.
const PIPE: usize = 37;

/// The target: the bytes as each of these in turn.
pub fn peer_frames(input: &[u8]) {
    settles("append request", input, |bytes| append_request(Bytes::copy_from_slice(bytes)).map(Vec::from));
    for (name, again) in RAFT_VALUES.into_iter().chain(MEMBER_VALUES) {
        settles(name, input, again);
    }
    edge_calls(input);
    joining(input);
    addresses(input);
    quiet::run(async {
        calls(input).await;
        hello(input).await;
        heartbeat(input).await;
    });
}

fn edge_calls(bytes: &[u8]) {
    settles("read call", bytes, |bytes| decode::<wire::ReadCall>(bytes).map(|call| encode(&call)));
    settles("cursor call", bytes, |bytes| decode::<wire::CursorCall>(bytes).map(|call| encode(&call)));
    settles("append answer", bytes, |bytes| wire::decode_outcomes(bytes).map(|a| wire::encode_outcomes(a).into()));
    settles("cursor answer", bytes, |bytes| wire::decode_cursor(bytes).map(|a| wire::encode_cursor(a).into()));
    settles("page", bytes, |bytes| wire::decode_page(bytes).map(|a| wire::encode_page(a).into()));
}

/// What comes to a member's door, from a stranger, and what goes back.
fn joining(bytes: &[u8]) {
    settles("join request", bytes, |bytes| {
        decode::<JoinRequest>(bytes).map(|request| {
            // What is wrong with it is said, and nothing of it believed.
            let _ = request.problem();
            encode(&request)
        })
    });
    settles("join answer", bytes, |bytes| decode::<JoinAnswer>(bytes).map(|answer| encode(&answer)));
}

/// Addresses and keys are text, in files, in announcements and from operators.
fn addresses(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(addr) = text.parse::<PeerAddr>() {
        assert_eq!(addr.to_string().parse::<PeerAddr>().ok(), Some(addr));
    }
    if let Ok(key) = text.parse::<PeerKey>() {
        assert_eq!(key.to_string().parse::<PeerKey>().ok(), Some(key));
    }
}

/// Reads what a request carries as the product does, and gives it back.
struct Reader;

impl RpcHandler for Reader {
    fn handle(&self, _: NodeId, method: Method, _: u16, payload: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let read = match method {
                Method::AppendEntries => append_request(payload.clone()).map(drop),
                Method::Append => return decode_batch(&payload).map(|_| payload).map_err(|error| error.to_string()),
                Method::Read => versioned::decode::<wire::ReadCall>(&payload).map(drop),
                Method::Cursor => versioned::decode::<wire::CursorCall>(&payload).map(drop),
                _ => Ok(()),
            };
            read.map(|()| payload).map_err(|error| error.to_string())
        })
    }
}

/// The bytes as a stream of requests: the answers are frames, and no more than requests can have been.
async fn calls(input: &[u8]) {
    const REQUEST_LEN_MIN: usize = 4 + 11;
    let (mut ours, theirs) = tokio::io::duplex(PIPE);
    let serving = rpc::serve(NodeId(1), Channel::Edge, Box::new(theirs), Arc::new(Reader));
    let (answers, _) = tokio::join!(say_all(&mut ours, input), serving);
    let (mut rest, mut count) = (&answers[..], 0);
    while let Some((len, behind)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let Some((_, behind)) = behind.split_at_checked(len) else { break };
        assert!(len > 8, "an answer shorter than its head");
        (rest, count) = (behind, count + 1);
    }
    assert!(count <= input.len() / REQUEST_LEN_MIN, "{count} answers to {} bytes", input.len());
}

/// Says everything and hears everything, then closes.
async fn say_all(stream: &mut DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = Vec::new();
    let speaking = async {
        // It may be closed in the middle of it.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let _ = tokio::join!(speaking, reader.read_to_end(&mut heard));
    heard
}

/// The bytes as a hello, and as the answer to one.
async fn hello(input: &[u8]) {
    let (mut ours, theirs) = tokio::io::duplex(PIPE);
    let mut theirs = theirs.compat();
    let accepting = async {
        let accepted = fuzzing::accept(&mut theirs).await;
        drop(theirs);
        accepted
    };
    let (said, accepted) = tokio::join!(say_all(&mut ours, input), accepting);
    assert_eq!(accepted.is_ok(), said.last() == Some(&0) && said.len() == 2, "{accepted:?}, but {said:02x?}");
    if let Ok(Some(kind)) = accepted {
        assert_eq!(input.get(2), Some(&kind.0));
    }
    let (mut ours, theirs) = tokio::io::duplex(PIPE);
    let mut theirs = theirs.compat();
    let offering = async {
        let taken = fuzzing::offer(&mut theirs, StreamKind(7)).await;
        drop(theirs);
        taken
    };
    let (_, taken) = tokio::join!(say_all(&mut ours, input), offering);
    assert!(taken.is_err() || input.get(1) == Some(&0), "{input:02x?} was taken for a yes");
}

/// The bytes as a peer's beats; then silence.
async fn heartbeat(input: &[u8]) {
    let (mut ours, theirs) = tokio::io::duplex(PIPE);
    let silent = async {
        let (mut reader, mut writer) = tokio::io::split(&mut ours);
        let mut heard = Vec::new();
        // Says nothing more then, but does not close.
        let _ = tokio::join!(writer.write_all(input), reader.read_to_end(&mut heard));
    };
    let ((), (was_up, cause)) = tokio::join!(silent, fuzzing::beat(theirs.compat()));
    assert!(matches!(cause, DownCause::Silent | DownCause::Closed), "{cause:?}");
    assert!(!was_up || input.len() >= 16, "up, and the peer said almost nothing");
}
