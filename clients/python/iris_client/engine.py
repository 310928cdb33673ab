"""The connection thread: keeps one session to some node alive and moves frames between it and the callers.

Owns the thread, the lock, and everything that must survive a reconnect: the outbox, the follower and the ack cursor.
Callers change that state under `changed` and call `wake`; the thread turns it into frames.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from typing import Iterable, Optional

from .errors import (BEHIND, Closed, ConnectionEnded, DeadlineExceeded, IrisError, Refused, ServerError, Unreachable,
                     is_retryable)
from .follow import Follow
from .frames import (COMMITTED, DURABILITY_QUORUM, Accepted, Ack, Acked, Bye, Credit, Entry, Frame, GoAway, Live,
                     RefusedFrame, Send, Subscribe, Welcome)
from .outbox import Message, Outbox
from .route import Route
from .session import Session, drain, raise_if_error

ANSWER_S = 60.0             # a SEND without an answer for so long: reconnect and send it again
GOAWAY_S = 30.0             # how long after GOAWAY answers are awaited
BYE_S = 2.0                 # how long after BYE the server's close is awaited
BACKLOG_MAX = 1 << 20       # no more SENDs are queued while so many bytes are unwritten


class Engine:
    """See the module. Methods without an underscore are for callers' threads."""

    def __init__(self, addresses: Iterable[str], token: str, device: str, context: ssl.SSLContext) -> None:
        self.changed = threading.Condition()
        self.welcome: Optional[Welcome] = None      # the last one received
        self.connected = False
        self.acked = 0
        self.fatal: Optional[IrisError] = None
        self.trouble = "no connection was tried yet"
        self._token, self._device, self._context = token, device, context
        self._route = Route(addresses)
        self._outbox = Outbox()
        self._follow: Optional[Follow] = None
        self._ack_wanted = 0
        self._closing_until: Optional[float] = None
        self._woken = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._forget_connection()
        self._thread = threading.Thread(target=self._run, name="iris-client", daemon=True)
        self._thread.start()

    def _forget_connection(self) -> None:
        self.connected = False
        self._ack_sent = 0
        self._subscribed: Optional[Follow] = None
        self._refresh = False
        self._drain_until: Optional[float] = None
        self._bye_until: Optional[float] = None

    # For callers.

    def wake(self) -> None:
        """Makes the thread look at the state again."""
        with self.changed:
            if self._woken:
                return
            self._woken = True
            try:
                self._wake_out.send(b"\0")
            except OSError:
                pass  # full, so it will wake; or closed, so nobody is there

    def check(self) -> None:
        """Raises what ended this client, if something did. Needs the lock."""
        if self.fatal is not None:
            raise self.fatal

    def submit(self, message: Message) -> None:
        """Takes a message to be sent; `message.done` will be called, with the lock held, when it is settled."""
        with self.changed:
            self.check()
            self._outbox.add(message)
        self.wake()

    def expire(self) -> None:
        """Settles the messages whose deadline has passed."""
        with self.changed:
            for message in self._outbox.expire(time.monotonic()):
                message.settle(self.late(f"the message {message.key} was not confirmed before its deadline"))

    def late(self, what: str) -> DeadlineExceeded:
        """The error for a deadline that has passed: `Unreachable` if there is no connection. Needs the lock."""
        if self.connected:
            return DeadlineExceeded(what)
        return Unreachable(f"{what}; no node was reachable: {self.trouble}")

    def follow(self, follow: Follow) -> None:
        """Makes this the follower. Only one at a time."""
        with self.changed:
            self.check()
            if self._follow is not None and not self._follow.closed:
                raise IrisError("this client has a follower already")
            self._follow = follow
            # Entries of an earlier subscription may still be under way and look like this one's; begin afresh.
            self._refresh = self._subscribed is not None
        self.wake()

    def ack(self, cursor: int) -> None:
        """Wants the device's cursor moved to `cursor` or beyond."""
        with self.changed:
            self.check()
            self._ack_wanted = max(self._ack_wanted, cursor)
        self.wake()

    def close(self, timeout_s: float) -> None:
        """Settles everything with Closed, says BYE and ends the thread."""
        with self.changed:
            self._closing_until = time.monotonic() + timeout_s
            self._fail(Closed("the client was closed"))
        self.wake()
        self._thread.join(timeout_s + 1.0)

    def _fail(self, error: IrisError) -> None:
        if self.fatal is None:
            self.fatal = error
        for message in self._outbox.unsettled():
            message.settle(error)
        if self._follow is not None:
            self._follow.fail(error)
        self.changed.notify_all()

    # For the thread.

    def _run(self) -> None:
        try:
            while self._pause(self._route.wait_s()):
                self._connect_once()
        except ServerError as error:
            with self.changed:
                self._fail(error)
        except Exception as error:  # a defect; callers must not wait for ever
            with self.changed:
                self._fail(IrisError(f"the connection thread failed: {error!r}"))
            raise
        finally:
            self._wake_in.close()
            self._wake_out.close()

    def _pause(self, seconds: float) -> bool:
        """Waits; False if the client is to stop."""
        until = time.monotonic() + seconds
        while self.fatal is None:
            left = until - time.monotonic()
            if left <= 0:
                return True
            if select.select([self._wake_in], [], [], left)[0]:
                self._heed_wake()
        return False

    def _heed_wake(self) -> None:
        with self.changed:
            drain(self._wake_in)
            self._woken = False

    def _connect_once(self) -> None:
        address = self._route.next_address()
        session: Optional[Session] = None
        try:
            session = Session.connect(address, self._context, self._token, self._device, self._wake_in)
            with self.changed:
                self.welcome, self.connected = session.welcome, True
                self.changed.notify_all()
            self._serve(session)
        except ConnectionEnded as error:
            with self.changed:
                self.trouble = str(error)
            self._route.failed(error.retry_after_ms)
        finally:
            if session is not None:
                session.close()
            with self.changed:
                self._forget_connection()
                self._outbox.connection_ended(time.monotonic())

    def _serve(self, session: Session) -> None:
        """Until the connection ends, by ConnectionEnded or ServerError."""
        while True:
            with self.changed:
                self._woken = False
                timeout_s = self._fill(session, time.monotonic())
            frames = session.poll(timeout_s)
            if frames:
                with self.changed:
                    for frame in frames:
                        self._handle(frame, time.monotonic())

    def _fill(self, session: Session, now: float) -> float:
        """Queues what is to be said now; returns how long nothing more needs saying."""
        for message in self._outbox.expire(now):
            message.settle(self.late(f"the message {message.key} was not confirmed before its deadline"))
        closing = self._closing_until is not None
        if self._bye_until is not None:
            if now >= self._bye_until:
                raise ConnectionEnded("the connection was left")
            return self._bye_until - now
        if self._drain_until is None:
            self._fill_freely(session, now, closing)
        owed = self._outbox.in_flight > 0 or self._ack_sent > self.acked
        if closing or (self._drain_until is not None and not owed):
            session.queue(Bye())
            self._bye_until = min(now + BYE_S, self._closing_until or now + BYE_S)
        elif self._drain_until is not None and now >= self._drain_until:
            raise ConnectionEnded("the node is going down and left answers owing")
        oldest = self._outbox.oldest_sent_at()
        if oldest is not None and now - oldest > ANSWER_S:
            raise ConnectionEnded(f"{session.address}: a SEND was not answered within {ANSWER_S:.0f} s")
        wakeup = self._outbox.wakeup_at()
        return 1.0 if wakeup is None else max(0.001, wakeup - now)

    def _fill_freely(self, session: Session, now: float, closing: bool) -> None:
        if self._ack_wanted > max(self._ack_sent, self.acked):
            session.queue(Ack(self._ack_wanted))
            self._ack_sent = self._ack_wanted
        if closing:
            return
        if self._refresh or self._outbox.needs_fresh_connection:
            raise ConnectionEnded("a new connection was wanted")
        follow = self._follow
        if follow is not None and not follow.closed:
            if self._subscribed is not follow:
                session.queue(Subscribe(*follow.subscription()))
                self._subscribed = follow
            else:
                entries = follow.more_credit()
                if entries:
                    session.queue(Credit(entries))
        assert session.welcome is not None
        while self._outbox.in_flight < session.welcome.sends_in_flight_max and session.unwritten < BACKLOG_MAX:
            taken = self._outbox.take(now)
            if taken is None:
                break
            seq, message = taken
            session.queue(Send(seq, message.key, DURABILITY_QUORUM, message.kind, message.recipient, message.body))

    def _handle(self, frame: Frame, now: float) -> None:
        raise_if_error(frame)
        if isinstance(frame, Accepted):
            if frame.status != COMMITTED:
                raise ConnectionEnded(f"the server broke the protocol: ACCEPTED with the unknown status {frame.status}")
            self._known(self._outbox.settle(frame.seq, lambda message: frame, now), frame.seq)
        elif isinstance(frame, RefusedFrame):
            self._refused(frame, now)
        elif isinstance(frame, (Entry, Live)):
            if self._subscribed is None:
                raise ConnectionEnded("the server broke the protocol: an entry without a subscription")
            if not self._subscribed.closed:
                self._subscribed.put(frame)
        elif isinstance(frame, Acked):
            self.acked = max(self.acked, frame.cursor)
            self.changed.notify_all()
        elif isinstance(frame, GoAway):
            if self._drain_until is None:
                self._drain_until = now + GOAWAY_S
            self._route.moved(frame.addresses, frame.delay_ms)
        else:
            raise ConnectionEnded(f"the server broke the protocol: {type(frame).__name__} out of place")
        self._route.worked()

    def _refused(self, frame: RefusedFrame, now: float) -> None:
        if is_retryable(frame.code):
            known = self._outbox.refused(frame.seq, frame.code == BEHIND, frame.retry_after_ms, now)
        else:
            known = self._outbox.settle(
                frame.seq, lambda message: Refused(message.key, frame.code, frame.reason), now)
        self._known(known, frame.seq)

    @staticmethod
    def _known(known: bool, seq: int) -> None:
        if not known:
            raise ConnectionEnded(f"the server broke the protocol: an answer to the unknown seq {seq}")
