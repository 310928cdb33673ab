"""What a follower has received and not yet taken, and where to go on after a reconnect.

Owns the cursor of one `Client.follow` and its credit. The connection thread puts frames in; the caller's thread takes
them out. No more than `CREDIT` entries are ever waiting here.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Callable, Deque, Iterator, Optional, Union

from .errors import Closed, DeadlineExceeded, IrisError
from .frames import STORED, Entry, Live

CREDIT = 256

Event = Union[Entry, Live]


class Follow(Iterator[Event]):
    """An iterator of Entry and Live events that survives reconnects.

    Every entry comes once, in order. Live comes once per subscription, so again after a reconnect. Iterating waits for
    ever; `next_event(timeout_s)` does not.
    """

    def __init__(self, from_cursor: Optional[int], changed: threading.Condition, wake: Callable[[], None]) -> None:
        if from_cursor is not None and not 0 <= from_cursor < STORED:
            raise ValueError("a cursor must be a number from 0 to 2**64 - 2, or None")
        self._changed = changed  # the client's condition; guards everything below
        self._wake = wake
        self._from = STORED if from_cursor is None else from_cursor
        self._last: Optional[int] = from_cursor  # the last entry received; None: none, and began at the stored cursor
        self._events: Deque[Event] = collections.deque()
        self._waiting = 0       # entries in _events
        self._granted = 0       # credit the server has and has not used
        self._error: Optional[IrisError] = None
        self.closed = False

    # For the connection thread, with the lock held.

    def subscription(self) -> "tuple[int, int]":
        """What to SUBSCRIBE with on a new connection: from, and credit."""
        self._granted = CREDIT - self._waiting
        return (self._from if self._last is None else self._last), self._granted

    def more_credit(self) -> int:
        """What to send as CREDIT now; 0 for nothing yet."""
        room = CREDIT - self._waiting - self._granted
        if room < CREDIT // 2:
            return 0
        self._granted += room
        return room

    def put(self, event: Event) -> None:
        """Takes a frame from the server. An entry at or before the cursor is a duplicate and dropped."""
        if isinstance(event, Entry):
            self._granted = max(0, self._granted - 1)
            if self._last is not None and event.id <= self._last:
                return
            self._last = event.id
            self._waiting += 1
        self._events.append(event)
        self._changed.notify_all()

    def fail(self, error: IrisError) -> None:
        """Ends the iteration, after what was received, with an error."""
        self._error = self._error or error
        self._changed.notify_all()

    # For the caller.

    def next_event(self, timeout_s: Optional[float] = None) -> Event:
        """The next event; raises DeadlineExceeded if none comes in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._events:
                if self._error:
                    raise self._error
                if self.closed:
                    raise Closed("the follower was closed")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineExceeded("nothing came before the deadline")
                self._changed.wait(left)
            event = self._events.popleft()
            if isinstance(event, Entry):
                self._waiting -= 1
            credit_is_due = CREDIT - self._waiting - self._granted >= CREDIT // 2
        if credit_is_due:
            self._wake()
        return event

    def __iter__(self) -> "Follow":
        return self

    def __next__(self) -> Event:
        try:
            return self.next_event()
        except Closed:
            raise StopIteration from None

    def close(self) -> None:
        """Ends the iteration. The server stops by itself, for want of credit."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
