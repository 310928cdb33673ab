//! Streams that other nodes opened, waiting for this node's owner to take them. Owns the bounded queue; when it is full,
//! or its reader gone, the opener is refused before the stream counts as accepted.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::hello::Verdict;
use crate::{PeerKey, PeerStream, StreamKind};

/// The receiving end of the streams that members open to this node.
#[derive(Debug)]
pub struct Inbound {
    queue: mpsc::Receiver<PeerStream>,
}

impl Inbound {
    /// The next accepted stream; `None` once the links have ended.
    ///
    /// Cancel safe. Take streams quickly and hand them to tasks: the queue is short by intention.
    pub async fn accept(&mut self) -> Option<(PeerKey, StreamKind, PeerStream)> {
        let stream = self.queue.recv().await?;
        Some((stream.peer(), stream.kind(), stream))
    }
}

/// The side of the queue that the connections' handlers hold.
#[derive(Debug, Clone)]
pub(crate) struct InboundQueue(mpsc::Sender<PeerStream>);

impl InboundQueue {
    /// A place in the queue, taken before the opener is told that its stream is accepted.
    pub(crate) fn reserve(&self) -> Result<mpsc::OwnedPermit<PeerStream>, Verdict> {
        self.0.clone().try_reserve_owned().map_err(|error| match error {
            TrySendError::Full(_) => Verdict::Busy,
            TrySendError::Closed(_) => Verdict::NotAccepting,
        })
    }
}

pub(crate) fn queue(len_max: usize) -> (InboundQueue, Inbound) {
    let (sender, receiver) = mpsc::channel(len_max);
    (InboundQueue(sender), Inbound { queue: receiver })
}
