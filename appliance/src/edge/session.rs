//! One connection from handshake to end: reads, writes, timers and the departure, around a [`Conversation`]. Owns the order in
//! which a connection's work is done and every wait; what frames mean is the conversation's.

use std::net::SocketAddr;
use std::pin::pin;

use bytes::BytesMut;
use iris_protocol::frame::{ClientFrame, Code, ServerFrame};
use iris_protocol::limits::FRAME_LEN_MAX_BEFORE_LOGIN;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::conversation::Conversation;
use super::inbox::{Inbox, Read};
use super::login::Who;
use super::transfer::{Output, transfer};
use super::{EdgeRouter, Shared};

/// Outcomes taken at once.
const REPLIES_AT_ONCE: usize = 256;

/// How long a connection that has been told its last word is read from: closing over unread input would make the peer's
/// system throw that word away.
const LINGER: Duration = Duration::from_secs(1);

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The client is gone, or said BYE and has everything.
    Done,
    /// ERROR, then the end.
    Error(Code, String),
    /// The client takes no bytes: nothing more can be said.
    Deaf,
}

impl End {
    pub(super) fn error(code: Code, reason: impl Into<String>) -> Self {
        Self::Error(code, reason.into())
    }
}

impl From<std::io::Error> for End {
    // A connection that broke is a client that is gone; it comes back by itself.
    fn from(_: std::io::Error) -> Self {
        Self::Done
    }
}

/// Serves one connection, TLS already done, until it ends.
pub(super) async fn serve<S, R>(edge: &Shared<R>, mut stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: EdgeRouter,
{
    let _counted = edge.counters.session();
    let mut input = BytesMut::new();
    let end = match log_in(edge, &mut stream, &mut input, peer).await {
        Ok(who) => converse(edge, &mut stream, input, who).await,
        Err(end) => end,
    };
    tracing::debug!(%peer, ?end, "a connection ended");
    say_goodbye(&mut stream, end).await;
}

async fn log_in<S, R>(edge: &Shared<R>, stream: &mut S, input: &mut BytesMut, peer: SocketAddr) -> Result<Who, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: EdgeRouter,
{
    let first = async {
        let mut out = Output::default();
        loop {
            let frame = ClientFrame::decode(input, FRAME_LEN_MAX_BEFORE_LOGIN).map_err(|error| {
                edge.counters.bad_frames.one();
                End::error(Code::Malformed, error.to_string())
            })?;
            if let Some(frame) = frame {
                return Ok(frame);
            }
            if transfer(stream, Some(&mut *input), &mut out).await?.read == Some(0) {
                return Err(End::Done);
            }
        }
    };
    let frame = tokio::select! {
        frame = timeout(edge.options.login, first) => {
            frame.unwrap_or_else(|_| Err(End::error(Code::Timeout, "no HELLO in time")))?
        }
        () = edge.draining.cancelled() => return Err(End::error(Code::ShuttingDown, "the node is going down")),
    };
    edge.login(frame, peer)
}

/// Everything after login. Returns when nothing more is to be said but, maybe, an ERROR.
async fn converse<S, R>(edge: &Shared<R>, stream: &mut S, mut input: BytesMut, who: Who) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: EdgeRouter,
{
    let mut out = Output::default();
    out.put(&edge.welcome(&who));
    let (mut talk, mut outcomes) = Conversation::new(edge, who, out, Instant::now());
    match run(edge, stream, &mut input, &mut talk, &mut outcomes).await {
        // The last answers go before the ERROR, if the client still takes them.
        Err(End::Error(code, reason)) => {
            let mut out = std::mem::take(&mut talk.out);
            let flushed = async {
                while !out.is_done() {
                    transfer(stream, None, &mut out).await?;
                }
                Ok::<(), std::io::Error>(())
            };
            match timeout(edge.options.write, flushed).await {
                Ok(Ok(())) => End::Error(code, reason),
                Ok(Err(_)) => End::Done,
                Err(_) => End::Deaf,
            }
        }
        Err(end) => end,
        Ok(()) => End::Done,
    }
}

async fn run<S, R>(
    edge: &Shared<R>,
    stream: &mut S,
    input: &mut BytesMut,
    talk: &mut Conversation<'_, R>,
    outcomes: &mut tokio::sync::mpsc::Receiver<crate::routing::Reply>,
) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: EdgeRouter,
{
    let mut replies = Vec::new();
    let mut went_away = pin!(edge.draining.cancelled());
    let mut clocks = Clocks { waiting_since: None, end_by: None };
    let mut timer = pin!(sleep_until(Instant::now()));
    loop {
        let now = Instant::now();
        talk.take_input(input, now)?;
        if input.is_empty() && input.capacity() > 0 {
            // What was read may be held by bodies on their way; at rest a session keeps no buffer.
            *input = BytesMut::new();
        }
        if let Some(inbox) = &mut talk.inbox {
            inbox.begin_read(edge, &talk.who, &talk.out);
        }
        let ending = talk.leaving || talk.draining;
        if ending && talk.is_answered() && talk.out.is_done() {
            return Ok(());
        }
        if ending && clocks.end_by.is_none() {
            clocks.end_by = Some(now + edge.options.drain);
        }
        clocks.waiting_since = (!talk.out.is_done()).then(|| clocks.waiting_since.unwrap_or(now));
        let deadline = clocks.next(edge, talk);
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        let wants_input = talk.wants_input();
        tokio::select! {
            moved = transfer(stream, wants_input.then_some(&mut *input), &mut talk.out) => {
                let moved = moved?;
                if moved.wrote {
                    clocks.waiting_since = None;
                }
                if moved.read == Some(0) {
                    return Err(End::Done);
                }
            }
            _ = outcomes.recv_many(&mut replies, REPLIES_AT_ONCE) => {
                let now = Instant::now();
                for reply in replies.drain(..) {
                    talk.on_reply(reply, now)?;
                }
            }
            read = next_read(&mut talk.inbox) => {
                if let Some(inbox) = &mut talk.inbox {
                    edge.counters.msg_out.add(inbox.on_read(read, &mut talk.out));
                }
            }
            () = &mut went_away, if !talk.draining && !talk.leaving => talk.go_away(),
            () = &mut timer => clocks.check(edge, talk)?,
        }
    }
}

async fn next_read(inbox: &mut Option<Inbox>) -> Read {
    match inbox {
        Some(inbox) => inbox.read().await,
        None => std::future::pending().await,
    }
}

/// When a connection's patience ends.
struct Clocks {
    /// Since when there has been something for the client and it has taken none of it.
    waiting_since: Option<Instant>,
    /// When a departure is over, whatever is still owed.
    end_by: Option<Instant>,
}

impl Clocks {
    fn next<R: EdgeRouter>(&self, edge: &Shared<R>, talk: &Conversation<'_, R>) -> Instant {
        let idle = talk.heard_at + edge.options.idle;
        let write = self.waiting_since.map(|since| since + edge.options.write);
        [write, self.end_by, talk.next_deadline()].into_iter().flatten().fold(idle, Instant::min)
    }

    fn check<R: EdgeRouter>(&self, edge: &Shared<R>, talk: &mut Conversation<'_, R>) -> Result<(), End> {
        let now = Instant::now();
        if self.waiting_since.is_some_and(|since| since + edge.options.write <= now) {
            return Err(End::Deaf);
        }
        if self.end_by.is_some_and(|end_by| end_by <= now) {
            return Err(End::error(Code::ShuttingDown, "not everything could be answered in time"));
        }
        if talk.heard_at + edge.options.idle <= now {
            return Err(End::error(Code::Timeout, "no frame came for too long"));
        }
        talk.on_time(now)
    }
}

/// The last word, the end of the stream, and a moment's patience for the other side to notice.
async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, end: End) {
    if end == End::Deaf {
        return;
    }
    let mut last = BytesMut::new();
    if let End::Error(code, reason) = end {
        ServerFrame::Error { code, retry_after_ms: 0, reason }.encode(&mut last);
    }
    let goodbye = async {
        stream.write_all(&last).await?;
        stream.shutdown().await?;
        tokio::io::copy(stream, &mut tokio::io::sink()).await
    };
    // Whether it was heard changes nothing any more.
    let _ = timeout(LINGER, goodbye).await;
}
