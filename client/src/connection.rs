//! One connection after its login: reads and writes until it ends. One task does both, because what is read decides what may be
//! written; it decides nothing about order, which is the outbox's. Everything that may be sent at once goes out in one write.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use iris_protocol::frame::{ClientFrame, Code, FrameError, ServerFrame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::SendError;
use crate::inbox::Taken;
use crate::liveness::{Liveness, Pulse};
use crate::message::{Receipt, Ticket, Welcome};
use crate::outbox::Refusal;
use crate::shared::{Core, Shared};

/// Bytes encoded ahead of the socket: enough to fill a pipe at home, little enough that a PING or an ACK does not wait long.
const OUTPUT_LEN_MAX: usize = 256 * 1024;

/// Room for one read.
const READ_LEN: usize = 64 * 1024;

/// Types a later version may add and this one ignores (docs/protocol.md, Frames).
const IGNORED_TYPES: std::ops::RangeInclusive<u8> = 0x60..=0x7f;

/// A node that goes away answers what it owes within this or not at all: docs/protocol.md, "Staying and leaving".
const LEAVING_MAX: Duration = Duration::from_secs(30);

/// What a node that takes nothing more said before is here already, or does not come.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client is closing and nothing is left to wait for.
    Done,
    /// The caller's wish, not the node's failure: go on at once.
    Renew(&'static str),
    /// The node is going away: go on elsewhere, not before the time it named.
    GoneAway { not_before: Instant, addresses: Vec<String> },
    /// The server's last word.
    Error { code: Code, retry_after: Duration, reason: String },
    /// It broke, or the server broke the protocol.
    Broken(String),
}

struct Leaving {
    since: Instant,
    not_before: Instant,
    addresses: Vec<String>,
}

pub(crate) struct Connection<'a> {
    shared: &'a Shared,
    input: BytesMut,
    output: BytesMut,
    liveness: Liveness,
    leaving: Option<Leaving>,
    bye_sent: bool,
    /// Whether the server did anything useful: a node that only takes logins does not reset the backoff.
    pub(crate) useful: bool,
    finished: Vec<(Ticket, Result<Receipt, SendError>)>,
}

impl<'a> Connection<'a> {
    /// `input` is what came behind WELCOME.
    pub(crate) fn new(shared: &'a Shared, welcome: &Welcome, input: BytesMut) -> Self {
        shared.lock().outbox.connection_opened(welcome.sends_in_flight_max as usize);
        Self {
            shared,
            input,
            output: BytesMut::new(),
            liveness: Liveness::new(welcome.idle_max, &shared.deadlines, Instant::now()),
            leaving: None,
            bye_sent: false,
            useful: false,
            finished: Vec::new(),
        }
    }

    pub(crate) async fn run<S: AsyncRead + AsyncWrite>(&mut self, stream: S) -> End {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut timer = pin!(tokio::time::sleep(self.shared.deadlines.ping_every));
        let mut unflushed = false;
        if let Err(end) = self.take_input() {
            return end;
        }
        loop {
            let wake_at = match self.fill(Instant::now()) {
                Ok(at) => tokio::time::Instant::from_std(at),
                Err(end) => return end,
            };
            // A timer that fires too early is cheaper than one that is moved with every frame.
            if wake_at < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake_at);
            }
            if self.input.capacity() - self.input.len() < READ_LEN / 4 {
                self.input.reserve(READ_LEN);
            }
            tokio::select! {
                biased;
                written = write_some(&mut writer, &mut self.output), if unflushed || !self.output.is_empty() => {
                    match written {
                        Ok(Written::Some) => unflushed = true,
                        Ok(Written::Flushed) => unflushed = false,
                        Err(error) => return self.last_words(&mut reader, format!("can't write: {error}")).await,
                    }
                }
                read = reader.read_buf(&mut self.input) => match read {
                    Ok(0) => return self.broke("the node closed the connection".into()),
                    Ok(_) => if let Err(end) = self.take_input() { return end },
                    Err(error) => return self.broke(format!("can't read: {error}")),
                },
                () = self.shared.wake.notified() => {}
                () = &mut timer => {}
            }
        }
    }

    /// A node that hung up may have said why, and answered what it could: that is still there to be read.
    async fn last_words(&mut self, reader: &mut (impl AsyncRead + Unpin), why: String) -> End {
        let read_rest = async {
            while matches!(reader.read_buf(&mut self.input).await, Ok(1..)) {
                self.take_input()?;
            }
            Ok(())
        };
        match tokio::time::timeout(LAST_WORDS_MAX, read_rest).await {
            Ok(Err(end)) => end,
            Ok(Ok(())) | Err(_) => self.broke(why),
        }
    }

    /// Encodes what may be sent now; says when to look again if nothing happens.
    fn fill(&mut self, now: Instant) -> Result<Instant, End> {
        let Self { shared, output, .. } = self;
        let len_before = output.len();
        let mut core = shared.lock();
        if let Some(why) = core.outbox.stuck() {
            return Err(End::Renew(why));
        }
        if core.stale_subscription && core.inbox.is_some() {
            return Err(End::Renew("another subscription began"));
        }
        if let Some(leaving) = &mut self.leaving {
            let owed = core.outbox.in_flight_len() > 0 || core.acks.in_flight();
            let over = leaving.since + LEAVING_MAX <= now;
            if core.is_done() {
                return Err(End::Done);
            }
            if over || (!owed && leaving.not_before <= now) {
                let (not_before, addresses) = (leaving.not_before, std::mem::take(&mut leaving.addresses));
                return Err(End::GoneAway { not_before, addresses });
            }
        } else {
            encode_waiting(&mut core, output, now);
            if core.is_done() && !self.bye_sent {
                ClientFrame::Bye.encode(output);
                self.bye_sent = true;
            }
        }
        let answer_due = core.outbox.oldest_sent_at().map(|at| at + shared.deadlines.answer);
        if answer_due.is_some_and(|due| due <= now) {
            return Err(End::Broken("a message was not answered in time".into()));
        }
        if output.len() > len_before {
            self.liveness.written(now);
        }
        let mut wake_at = loop {
            match self.liveness.check(core.outbox.oldest_sent_at(), now) {
                Pulse::Ping(nonce) => {
                    ClientFrame::Ping { nonce }.encode(output);
                    self.liveness.written(now);
                }
                Pulse::Dead => return Err(End::Broken("the node fell silent".into())),
                Pulse::WellUntil(at) => break at,
            }
        };
        let leaving_at =
            self.leaving.as_ref().map(|it| if it.not_before > now { it.not_before } else { it.since + LEAVING_MAX });
        let more_room = if output.len() < OUTPUT_LEN_MAX { core.outbox.next_wake() } else { None };
        let more_acks = if self.leaving.is_none() { core.acks.next_wake() } else { None };
        for other in [answer_due, leaving_at, more_room, more_acks].into_iter().flatten() {
            wake_at = wake_at.min(other);
        }
        Ok(wake_at)
    }

    /// Takes every whole frame of the input, under one lock, then hands the answers out.
    fn take_input(&mut self) -> Result<(), End> {
        let now = Instant::now();
        self.liveness.read(now);
        let mut arrived = false;
        let shared = self.shared;
        let result = {
            let mut core = shared.lock();
            loop {
                match ServerFrame::decode(&mut self.input) {
                    Ok(Some(frame)) => {
                        arrived |= matches!(frame, ServerFrame::Entry(_) | ServerFrame::Live { .. });
                        if let Err(end) = self.take(frame, &mut core, now) {
                            break Err(end);
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(FrameError::UnknownType { kind }) if IGNORED_TYPES.contains(&kind) => {}
                    Err(error) => break Err(End::Broken(format!("the node sent a broken frame: {error}"))),
                }
            }
        };
        shared.answer(&mut self.finished);
        if arrived {
            shared.arrived.notify_waiters();
        }
        shared.settled.notify_waiters();
        result
    }

    fn take(&mut self, frame: ServerFrame, core: &mut Core, now: Instant) -> Result<(), End> {
        let breach = |what: &str| Err(End::Broken(format!("the node broke the protocol: {what}")));
        match frame {
            ServerFrame::Accepted { seq, status, duplicate, id } => {
                let Ok(ticket) = core.outbox.accepted(seq, now) else { return breach("an answer to no message") };
                self.finished.push((ticket, Ok(Receipt { id, duplicate, status })));
                self.useful = true;
            }
            ServerFrame::Refused { seq, code, retry_after_ms, reason } => {
                let retry_after = Duration::from_millis(retry_after_ms.into());
                match core.outbox.refused(seq, code, retry_after, now) {
                    Ok(Refusal::ForNow) => core.stats.refused_for_now += 1,
                    Ok(Refusal::Final(ticket)) => {
                        core.stats.refused_finally += 1;
                        self.finished.push((ticket, Err(SendError::Refused { code, reason })));
                    }
                    Err(_) => return breach("an answer to no message"),
                }
                self.useful = true;
            }
            ServerFrame::Entry(entry) => {
                // Entries of a dropped subscription may still come; they are nobody's.
                match core.inbox.as_mut().filter(|_| !core.stale_subscription).map(|inbox| inbox.entry(entry)) {
                    Some(Taken::Breach) => return breach("an entry without credit"),
                    Some(Taken::Hidden) => core.stats.duplicates_hidden += 1,
                    Some(Taken::Shown) | None => {}
                }
                self.useful = true;
            }
            ServerFrame::Live { cursor } => {
                if let Some(inbox) = core.inbox.as_mut().filter(|inbox| inbox.is_subscribed()) {
                    inbox.live(cursor);
                }
                self.useful = true;
            }
            ServerFrame::Acked { cursor } => {
                core.acks.acked(cursor);
                self.useful = true;
            }
            ServerFrame::Pong { nonce } => self.liveness.pong(nonce),
            ServerFrame::GoAway { delay_ms, reason, addresses } => {
                tracing::debug!(reason, delay_ms, "the node is going away");
                core.outbox.connection_leaving();
                let delay = Duration::from_millis(delay_ms.into()).min(LEAVING_MAX);
                self.leaving.get_or_insert(Leaving { since: now, not_before: now + delay, addresses });
            }
            ServerFrame::Error { code, retry_after_ms, reason } => {
                return Err(End::Error { code, retry_after: Duration::from_millis(retry_after_ms.into()), reason });
            }
            ServerFrame::Welcome { .. } => return breach("a second WELCOME"),
        }
        Ok(())
    }

    /// The stream is gone; what that means depends on what was expected.
    fn broke(&mut self, why: String) -> End {
        if self.bye_sent && self.shared.lock().is_done() {
            return End::Done;
        }
        match self.leaving.take() {
            Some(Leaving { not_before, addresses, .. }) => End::GoneAway { not_before, addresses },
            None => End::Broken(why),
        }
    }
}

enum Written {
    Some,
    Flushed,
}

/// One step of writing: bytes into TLS, or, when all are there, out of it. Nothing is lost when it is dropped midway.
async fn write_some(writer: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> std::io::Result<Written> {
    if output.is_empty() {
        return writer.flush().await.map(|()| Written::Flushed);
    }
    match writer.write_buf(output).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(Written::Some),
    }
}

/// Subscription, credit and acks first: they are few and small. Then as many messages as there is room for.
fn encode_waiting(core: &mut Core, output: &mut BytesMut, now: Instant) {
    if let Some(frame) = core.inbox.as_mut().and_then(crate::inbox::Inbox::next_frame) {
        frame.encode(output);
    }
    if let Some(cursor) = core.acks.next(now) {
        ClientFrame::Ack { cursor }.encode(output);
    }
    while output.len() < OUTPUT_LEN_MAX {
        let Some(send) = core.outbox.next(now) else { break };
        ClientFrame::Send(send).encode(output);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use crate::config::{ClientConfig, Trust};
    use crate::message::Outgoing;
    use iris_protocol::{NodeId, UserId};
    use tokio::sync::oneshot;

    /// The write half of a socket whose other end is gone.
    struct HungUp;

    impl AsyncWrite for HungUp {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_node_said_before_it_hung_up_is_heard() {
        let shared = Shared::new(&ClientConfig::new(vec!["a:1".into()], Trust::CaSha256([0; 32]), "t"));
        let user = UserId::new("bob").unwrap();
        shared.lock().outbox.push(Outgoing::new(user.clone(), "hi"), oneshot::channel().0, Instant::now());
        let welcome = Welcome {
            node: NodeId(1),
            user,
            device: "default".parse().unwrap(),
            sends_in_flight_max: 1,
            idle_max: Duration::from_secs(300),
            address: "a:1".into(),
        };
        let mut said = BytesMut::new();
        ServerFrame::Error { code: Code::Internal, retry_after_ms: 7, reason: "disk".into() }.encode(&mut said);
        let mut connection = Connection::new(&shared, &welcome, BytesMut::new());
        let end = connection.run(tokio::io::join(&said[..], HungUp)).await;
        assert!(matches!(end, End::Error { code: Code::Internal, .. }), "{end:?}");
    }
}
