//! A stream between two nodes as its owner sees it. Owns the tokio face of it and its place under the limit; the bytes
//! are the owner's.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::PeerKey;

/// What a stream is for: a small tag chosen by the caller, told to the other side in the stream's hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKind(pub u8);

/// A stream to or from a member. Dropping it resets it; `shutdown` ends its writing half in order.
///
/// Written bytes leave only after `flush`. The end of the stream (a read of 0 bytes) also shows when the link broke, so
/// whoever must know that a message was the last one has to say so in the message. While a peer is silent, reads
/// and writes wait until the link is closed, which takes [`crate::LinkConfig::silent_after`].
pub struct PeerStream {
    io: Compat<Stream>,
    peer: PeerKey,
    kind: StreamKind,
    /// Its place under the limit of open streams, given back when the stream goes.
    _place: OwnedSemaphorePermit,
}

impl PeerStream {
    pub(crate) fn new(stream: Stream, peer: PeerKey, kind: StreamKind, place: OwnedSemaphorePermit) -> PeerStream {
        PeerStream { io: stream.compat(), peer, kind, _place: place }
    }

    /// The node at the other end.
    pub fn peer(&self) -> PeerKey {
        self.peer
    }

    /// What the opener said the stream is for.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
