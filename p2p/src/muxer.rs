//! How a connection ends. Owns the difference between the two multiplexers there; everything else is passed through.
//!
//! Closing yamux in the polite way has two faults for us: it waits for the socket to drain, so that a peer which has
//! stopped reading can hold the connection "closing" for minutes; and it leaves readers of its streams waiting for ever,
//! because only dropping an active yamux connection wakes them. So it is dropped instead. QUIC is the other way round:
//! closing is immediate, but a dropped connection lives on as long as somebody holds one of its streams. So it is closed
//! even when dropped.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnClose {
    /// Drop it: the socket goes, the streams wake up.
    Drop,
    /// Call its close, also when it is dropped.
    Announce,
}

pub(crate) struct Ending<M: StreamMuxer + Unpin> {
    inner: Option<M>,
    on_close: OnClose,
}

impl<M: StreamMuxer + Unpin> Ending<M> {
    pub(crate) fn new(inner: M, on_close: OnClose) -> Ending<M> {
        Ending { inner: Some(inner), on_close }
    }

    /// After the close there is nothing to poll, and nobody polls.
    fn inner<T>(&mut self, poll: impl FnOnce(Pin<&mut M>) -> Poll<T>) -> Poll<T> {
        self.inner.as_mut().map_or(Poll::Pending, |inner| poll(Pin::new(inner)))
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Ending<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        self.inner(|inner| inner.poll_inbound(cx))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        self.inner(|inner| inner.poll_outbound(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        if self.on_close == OnClose::Drop {
            self.inner = None;
        }
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(Ok(())) };
        let closing = Pin::new(inner).poll_close(cx);
        if closing.is_ready() {
            // Asked a second time, below or by anybody, QUIC's close panics; the swarm would never hear of the end, and count
            // the connection for ever.
            self.inner = None;
        }
        closing
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        self.inner(|inner| inner.poll(cx))
    }
}

impl<M: StreamMuxer + Unpin> Drop for Ending<M> {
    fn drop(&mut self) {
        if let (OnClose::Announce, Some(inner)) = (self.on_close, self.inner.as_mut()) {
            // One poll is enough: QUIC queues its closing packet at once and the endpoint's own task sends it.
            let _ = Pin::new(inner).poll_close(&mut Context::from_waker(Waker::noop()));
        }
    }
}
