"""The public client: blocking calls on top of the connection thread.

Owns the API's shapes and deadlines; connections, retries and order are the engine's and the outbox's.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator, Optional, Sequence, Tuple, TypeVar, Union

from . import fields, frames, keys
from .engine import Engine
from .errors import IrisError, ProtocolError, Refused, code_name
from .follow import Follow
from .frames import Accepted, Welcome
from .outbox import Message
from .session import make_context

POLL_S = 0.25
WINDOW_BEFORE_LOGIN = 16

Outgoing = Union[Tuple[str, bytes], Tuple[str, bytes, Optional[uuid.UUID]]]


Outcome = Union[Accepted, IrisError]
T = TypeVar("T")


@dataclass(frozen=True)
class Receipt:
    """What became of one message."""

    key: uuid.UUID
    recipient: str
    status: str                 # "committed" or "refused"
    id: Optional[int]           # the entry's id, if committed
    duplicate: bool             # the server knew the key already
    body_sha256: str
    index: int = 0              # the message's place in what send_many was given, from 0
    code: Optional[int] = None  # the refusal's code, name and reason, if refused
    code_name: Optional[str] = None
    reason: Optional[str] = None


@dataclass(frozen=True)
class _Fed:
    """The iterable of send_many is used up, or failed, after so many messages."""

    count: int
    failure: Optional[BaseException]


class Client:
    """A user's connection to an Iris cluster, kept alive by reconnecting to any of the addresses.

    `deadline_s` is how long a call waits when it is not told otherwise; None waits for ever. Safe to use from several
    threads; the order of messages from different threads is the order in which their calls got in.
    """

    def __init__(self, addresses: Sequence[str], token: str, ca_file: str, device: Optional[str] = None, *,
                 deadline_s: Optional[float] = 60.0) -> None:
        if isinstance(addresses, str):
            addresses = addresses.split(",")
        try:
            frames.encode(frames.Hello(frames.VERSION, frames.VERSION, token, device or "", ""))
        except ProtocolError as error:
            raise ValueError(str(error)) from None
        self._deadline_s = deadline_s
        self._engine = Engine(addresses, token, device or "", make_context(ca_file))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a node is logged in to at this moment."""
        return self._engine.connected

    def login(self, deadline_s: Optional[float] = None) -> Welcome:
        """Waits for the first login and returns the WELCOME (of the latest one)."""
        self._wait(lambda: self._engine.welcome is not None, deadline_s, "not logged in before the deadline")
        assert self._engine.welcome is not None
        return self._engine.welcome

    def send(self, recipient: str, body: bytes, key: Optional[uuid.UUID] = None, *, kind: int = 0,
             deadline_s: Optional[float] = None) -> Receipt:
        """Sends one message and waits until it is committed, retrying until the deadline.

        Raises Refused if it will never be accepted, DeadlineExceeded or Unreachable if the deadline passed (the message
        may have been committed all the same; sending it again with the same key is safe).
        """
        results: "queue.SimpleQueue[Union[Receipt, IrisError]]" = queue.SimpleQueue()

        def done(message: Message, outcome: Outcome) -> None:
            results.put(_receipt(message, outcome) if isinstance(outcome, Accepted) else outcome)

        self._engine.submit(self._message(recipient, body, key, kind, deadline_s, done, 0))
        result = self._next(results)
        if isinstance(result, IrisError):
            raise result
        return result

    def send_many(self, messages: Iterable[Outgoing], *, kind: int = 0,
                  deadline_s: Optional[float] = None) -> Iterator[Receipt]:
        """Sends messages pipelined and yields a receipt for each, in the order the answers come.

        At most `sends_in_flight_max` messages are taken from the iterable ahead of the receipts yielded. A final
        refusal is a receipt with the status "refused"; anything else that goes wrong is raised. The iterable is read
        in a thread of its own, so it may block. Messages to one recipient keep their order.
        """
        results: "queue.SimpleQueue[Union[Receipt, IrisError, _Fed]]" = queue.SimpleQueue()
        room = threading.Condition()
        outstanding, stop = 0, False

        def done(message: Message, outcome: Outcome) -> None:
            final = isinstance(outcome, (Accepted, Refused))
            results.put(_receipt(message, outcome) if final else outcome)

        def feed() -> None:
            nonlocal outstanding
            count = 0
            failure: Optional[BaseException] = None
            try:
                for recipient, body, *rest in messages:
                    with room:
                        while outstanding >= self._window() and not stop:
                            room.wait(POLL_S)
                        if stop:
                            return
                        outstanding += 1
                    key = rest[0] if rest else None
                    self._engine.submit(self._message(recipient, body, key, kind, deadline_s, done, count))
                    count += 1
            except BaseException as error:  # the iterable's own, too; raised once everything before it is settled
                failure = error
            results.put(_Fed(count, failure))

        threading.Thread(target=feed, name="iris-send-many", daemon=True).start()
        fed: Optional[_Fed] = None
        yielded = 0
        try:
            while fed is None or yielded < fed.count:
                result = self._next(results)
                if isinstance(result, _Fed):
                    fed = result
                elif isinstance(result, Receipt):
                    with room:
                        outstanding -= 1
                        room.notify()
                    yielded += 1
                    yield result
                else:
                    raise result
            if fed.failure is not None:
                raise fed.failure
        finally:
            with room:
                stop = True
                room.notify()

    def follow(self, from_cursor: Optional[int] = None) -> Follow:
        """Entries after `from_cursor` (None: after the device's stored cursor; 0: all), and Live events.

        One follower at a time; close it before the next. Reconnects go on after the last entry received.
        """
        follow = Follow(from_cursor, self._engine.changed, self._engine.wake)
        self._engine.follow(follow)
        return follow

    def ack(self, cursor: int) -> None:
        """Moves the device's stored cursor to `cursor`. Returns at once; `wait_acked` waits."""
        if not 0 <= cursor < frames.STORED:
            raise ValueError("a cursor must be a number from 0 to 2**64 - 2")
        self._engine.ack(cursor)

    def wait_acked(self, cursor: int, deadline_s: Optional[float] = None) -> None:
        """Waits until the server said that `cursor` or a later one is durable."""
        self._wait(lambda: self._engine.acked >= cursor, deadline_s, f"the ack of {cursor} was not confirmed in time")

    def close(self, timeout_s: float = 2.0) -> None:
        """Says BYE and ends. Calls that still wait raise Closed."""
        self._engine.close(timeout_s)

    def _window(self) -> int:
        welcome = self._engine.welcome
        return WINDOW_BEFORE_LOGIN if welcome is None else max(1, welcome.sends_in_flight_max)

    def _limit(self, deadline_s: Optional[float]) -> Optional[float]:
        chosen = self._deadline_s if deadline_s is None else deadline_s
        return None if chosen is None else time.monotonic() + chosen

    def _message(self, recipient: str, body: bytes, key: Optional[uuid.UUID], kind: int, deadline_s: Optional[float],
                 done: Callable[[Message, Outcome], None], index: int) -> Message:
        key = keys.new_key() if key is None else key
        try:
            fields.USER.put(recipient)
            fields.BODY.put(body)
            fields.U16.put(kind)
        except ProtocolError as error:
            raise ValueError(str(error)) from None
        return Message(key, recipient, bytes(body), kind, self._limit(deadline_s), done, index)

    def _next(self, results: "queue.SimpleQueue[T]") -> T:
        while True:
            try:
                return results.get(timeout=POLL_S)
            except queue.Empty:
                self._engine.expire()  # even while the connection thread is busy connecting

    def _wait(self, ready: Callable[[], bool], deadline_s: Optional[float], what: str) -> None:
        limit = self._limit(deadline_s)
        with self._engine.changed:
            while not ready():
                self._engine.check()
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    raise self._engine.late(what)
                self._engine.changed.wait(left)


def _receipt(message: Message, outcome: Outcome) -> Receipt:
    digest = hashlib.sha256(message.body).hexdigest()
    if isinstance(outcome, Accepted):
        return Receipt(message.key, message.recipient, "committed", outcome.id, outcome.duplicate, digest,
                       message.index)
    code = outcome.code if isinstance(outcome, Refused) else None
    return Receipt(message.key, message.recipient, "refused", None, False, digest, message.index, code,
                   None if code is None else code_name(code), str(outcome))
