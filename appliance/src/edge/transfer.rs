//! Moving bytes between a connection and its buffers, both ways at once: a client that sends without reading, and one that
//! reads without sending, both get on. Owns no policy: how much may be buffered is the session's business.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use iris_protocol::frame::ServerFrame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once: a TLS record's worth. On the stack, so that a connection at rest holds no buffer (E1).
const READ_LEN: usize = 16 * 1024;

/// A buffer larger than this is given back once it is empty.
const KEEP_LEN: usize = 4 * 1024;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Output {
    /// Frames, encoded.
    bytes: BytesMut,
    /// Bytes until the end of the inbox page among them; 0 if there is none.
    page_left: usize,
    unflushed: bool,
}

impl Output {
    /// Adds a frame.
    pub(super) fn put(&mut self, frame: &ServerFrame) {
        frame.encode(&mut self.bytes);
    }

    /// What was put last was a page of an inbox.
    pub(super) fn end_page(&mut self) {
        self.page_left = self.bytes.len();
    }

    /// Whether there is room for a page: one at a time.
    pub(super) fn takes_page(&self) -> bool {
        self.page_left == 0
    }

    /// Bytes of what waits behind the page.
    pub(super) fn answers_len(&self) -> usize {
        self.bytes.len() - self.page_left
    }

    /// Whether the peer's system has been given everything.
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    fn poll<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut wrote = false;
        while !self.bytes.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => {
                    self.bytes.advance(len);
                    self.page_left = self.page_left.saturating_sub(len);
                    self.unflushed = true;
                    wrote = true;
                }
                Poll::Pending => break,
            }
        }
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_LEN {
            self.bytes = BytesMut::new();
        }
        if self.unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
            wrote = true;
        }
        Ok(wrote)
    }
}

/// What moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    /// Bytes that came; 0 is the end of what will come.
    pub(super) read: Option<usize>,
    /// Whether anything was taken by the other side.
    pub(super) wrote: bool,
}

/// Waits until something moved. Nothing is lost if it is dropped while it waits.
pub(super) async fn transfer<S>(stream: &mut S, mut input: Option<&mut BytesMut>, out: &mut Output) -> io::Result<Moved>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let wrote = out.poll(stream, cx)?;
        let read = match &mut input {
            Some(input) => poll_read(stream, input, cx)?,
            None => None,
        };
        if wrote || read.is_some() { Poll::Ready(Ok(Moved { read, wrote })) } else { Poll::Pending }
    })
    .await
}

fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> io::Result<Option<usize>> {
    let mut space = [const { MaybeUninit::<u8>::uninit() }; READ_LEN];
    let mut buf = ReadBuf::uninit(&mut space);
    match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Ready(Ok(())) => {
            input.extend_from_slice(buf.filled());
            Ok(Some(buf.filled().len()))
        }
        // A peer that is gone without TLS's goodbye is gone all the same; frames say by themselves whether they are whole.
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Pending => Ok(None),
    }
}
