//! One byte stream between two hosts: what is written on one is readable on the other some time later, in order.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::super::time::HostTime;
use super::doubling::Doubling;
use super::{HostId, Net};

/// Bytes on their way in one direction; a writer beyond it waits, as for a socket's buffers.
const FLOW_BYTES_MAX: usize = 256 * 1024;

/// One direction.
#[derive(Default)]
pub(super) struct Flow {
    chunks: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last_at_ms: u64,
    /// Nothing more will be written.
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Flow {
    /// Ends it in the middle; whom to wake.
    pub(super) fn break_off(&mut self) -> Vec<Waker> {
        self.broken = true;
        self.chunks.clear();
        self.reader.take().into_iter().chain(self.writer.take()).collect()
    }

    pub(super) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }
}

pub(super) fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a stream.
pub struct PipeEnd {
    net: Net,
    id: u64,
    me: HostId,
    peer: HostId,
    time: Option<HostTime>,
    incoming: Arc<Mutex<Flow>>,
    outgoing: Arc<Mutex<Flow>>,
    sleep: Option<Pin<Box<Sleep>>>,
    doubling: Option<Doubling>,
}

impl PipeEnd {
    pub(super) fn pair(net: &Net, id: u64, (one, other): (HostId, HostId), doubles: bool) -> (Self, Self) {
        let (there, back) = (Arc::<Mutex<Flow>>::default(), Arc::<Mutex<Flow>>::default());
        let end = |me, peer, incoming: &Arc<Mutex<Flow>>, outgoing: &Arc<Mutex<Flow>>| Self {
            net: net.clone(),
            id,
            me,
            peer,
            time: None,
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            sleep: None,
            doubling: None,
        };
        let mut near = end(one, other, &back, &there);
        near.doubling = doubles.then(Doubling::default);
        (near, end(other, one, &there, &back))
    }

    pub(super) fn flows(&self) -> [Weak<Mutex<Flow>>; 2] {
        [Arc::downgrade(&self.incoming), Arc::downgrade(&self.outgoing)]
    }

    /// On a host's runtime, whose clock its waits go by.
    pub fn on(mut self, time: HostTime) -> Self {
        self.time = Some(time);
        self
    }

    fn time(&self) -> Result<HostTime> {
        self.time.ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for PipeEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let time = self.time()?;
        loop {
            let cut = self.net.state().is_cut(self.peer, self.me);
            let incoming = self.incoming.clone();
            let mut flow = lock(&incoming);
            if flow.broken {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            flow.reader = Some(cx.waker().clone());
            let Some((at_ms, chunk)) = flow.chunks.front_mut().filter(|_| !cut) else {
                return if flow.ended && !cut { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            if *at_ms > time.now_ms() {
                let at = time.instant(*at_ms);
                drop(flow);
                let sleep = self.sleep.insert(Box::pin(tokio::time::sleep_until(at)));
                ready!(sleep.as_mut().poll(cx));
                continue;
            }
            let len = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..len]);
            chunk.advance(len);
            if chunk.is_empty() {
                flow.chunks.pop_front();
            }
            flow.bytes -= len;
            let writer = flow.writer.take();
            drop(flow);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let now_ms = self.time()?.now_ms();
        {
            let mut flow = lock(&self.outgoing);
            if flow.broken {
                return Poll::Ready(Err(Error::from(ErrorKind::BrokenPipe)));
            }
            if flow.bytes >= FLOW_BYTES_MAX {
                flow.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let (at_ms, twice) = {
            let mut state = self.net.state();
            let at_ms = now_ms + state.latency(self.me, self.peer);
            let twice = state.weather.doubled_per_mille;
            let twice = self.doubling.is_some() && twice > 0 && state.rng.random_range(0..1_000) < twice;
            state.trace.bytes(now_ms, (self.id, self.me.0, self.peer.0), bytes);
            (at_ms, twice)
        };
        let doubled = self.doubling.as_mut().and_then(|doubling| doubling.pass(bytes, twice));
        let mut flow = lock(&self.outgoing);
        let at_ms = at_ms.max(flow.last_at_ms);
        flow.last_at_ms = at_ms;
        for chunk in [Some(Bytes::copy_from_slice(bytes)), doubled].into_iter().flatten() {
            flow.bytes += chunk.len();
            flow.chunks.push_back((at_ms, chunk));
        }
        let reader = flow.reader.take();
        drop(flow);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl PipeEnd {
    fn end(&self) {
        let mut flow = lock(&self.outgoing);
        flow.ended = true;
        let reader = flow.reader.take();
        drop(flow);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        // A machine without power closes nothing.
        let silent = self.net.state().hosts.get(&self.me).is_some_and(|host| host.silent);
        if !silent {
            self.end();
            let mut flow = lock(&self.incoming);
            let wakers = flow.break_off();
            drop(flow);
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}
