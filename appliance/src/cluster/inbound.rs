//! The streams that peers open, each in a task of its own: calls to their handler, snapshots to where they are taken in.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::bulk;
use super::handler::PeerHandler;
use super::meta_machine::MetaMachine;
use super::rpc;
use super::transport::{Channel, PeerAcceptor};
use crate::supervise::Supervisor;

/// Streams of peers served at once: three channels each, a few reconnects overlapping, for more members than a home has.
const PEER_STREAMS_MAX: usize = 256;

/// Serves them until the node stops.
pub(super) fn serve(
    supervisor: &Supervisor,
    acceptor: Box<dyn PeerAcceptor>,
    handler: Arc<PeerHandler<MetaMachine>>,
    snapshot_dir: PathBuf,
) {
    let acceptor = Arc::new(Mutex::new(acceptor));
    supervisor.spawn("peer streams", move |stop| {
        let (acceptor, handler, snapshot_dir) = (acceptor.clone(), handler.clone(), snapshot_dir.clone());
        async move {
            let mut acceptor = acceptor.lock().await;
            let mut streams = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    accepted = acceptor.accept() => accepted,
                };
                let Some((node, channel, stream)) = accepted else { return Ok(()) };
                while streams.try_join_next().is_some() {}
                if streams.len() >= PEER_STREAMS_MAX {
                    tracing::warn!(%node, "too many streams from peers; closed one");
                    continue;
                }
                let (handler, snapshot_dir) = (handler.clone(), snapshot_dir.clone());
                streams.spawn(async move {
                    let served = match channel {
                        Channel::Bulk => bulk::receive(stream, &snapshot_dir, &*handler).await,
                        _ => rpc::serve(node, channel, stream, handler).await.map_err(Into::into),
                    };
                    if let Err(error) = served {
                        tracing::debug!(%node, ?channel, %error, "a peer's stream ended");
                    }
                });
            }
        }
    });
}
