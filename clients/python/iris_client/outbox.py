"""Which message goes out next: the unanswered messages, their order per recipient, and their retries.

Owns the protocol's "Order" rule. Pure state: the caller brings the clock and the connection, so every case can be
tested without a socket. Messages to one recipient form a *lane*, which is in one of four states:

- OPEN: everything may be sent, pipelined.
- DRAINING: something was refused; nothing more is sent, the answers still owed are awaited.
- HELD: all answers are in; the lane waits out the delay.
- PROBING: only the first unanswered message is sent again. Once it is answered the lane opens and the rest follows.
"""

from __future__ import annotations

import heapq
import random
import uuid
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple, Union

from .errors import IrisError
from .frames import Accepted

OPEN, DRAINING, HELD, PROBING = "open", "draining", "held", "probing"
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 5.0
PROBES_BEHIND_MAX = 2


def backoff_s(attempt: int, first_s: float, most_s: float) -> float:
    """A growing delay with jitter: between half of and the whole of first_s * 2**attempt, capped."""
    return min(most_s, first_s * 2 ** min(attempt, 30)) * random.uniform(0.5, 1.0)


@dataclass(eq=False)
class Message:
    """One message on its way. `done` is called once, with the ACCEPTED frame or an error."""

    key: uuid.UUID
    recipient: str
    body: bytes
    kind: int
    deadline: Optional[float]
    done: Callable[["Message", Union[Accepted, IrisError]], None]
    index: int = 0
    ordinal: int = 0        # its place in the first order, never changed
    settled: bool = False
    sent_at: float = 0.0
    refusals: int = 0
    refused_here: bool = False  # refused (not `behind`) on this connection, and not sent again since

    def settle(self, outcome: Union[Accepted, IrisError]) -> None:
        """Gives the outcome to whoever waits, the first time."""
        if not self.settled:
            self.settled = True
            self.done(self, outcome)


class _Lane:
    """The unanswered messages to one recipient that are not simply queued."""

    def __init__(self) -> None:
        self.state = OPEN
        self.in_flight = 0
        self.parked: List[Tuple[int, Message]] = []
        self.probe: Optional[Message] = None
        self.delay_s = 0.0
        self.probes_behind = 0


class Outbox:
    """All messages that have no final answer yet."""

    def __init__(self) -> None:
        self._ordinals = 0
        self._seqs = 0
        self._queue: List[Tuple[int, Message]] = []
        self._lanes: Dict[str, _Lane] = {}
        self._in_flight: Dict[int, Message] = {}
        self._timers: List[Tuple[float, int, str]] = []
        self._deadlines: List[Tuple[float, int, Message]] = []
        self.needs_fresh_connection = False

    @property
    def in_flight(self) -> int:
        """How many SENDs of this connection are unanswered."""
        return len(self._in_flight)

    def add(self, message: Message) -> None:
        """Takes a new message, behind all others to its recipient."""
        self._ordinals += 1
        message.ordinal = self._ordinals
        self._lanes.setdefault(message.recipient, _Lane())
        heapq.heappush(self._queue, (message.ordinal, message))
        if message.deadline is not None:
            heapq.heappush(self._deadlines, (message.deadline, message.ordinal, message))

    def take(self, now: float) -> Optional[Tuple[int, Message]]:
        """The next message to send and its seq; it counts as in flight from here on."""
        while self._timers and self._timers[0][0] <= now:
            recipient = heapq.heappop(self._timers)[2]
            lane = self._lanes.get(recipient)
            if lane is not None and lane.state == HELD:
                self._probe(recipient, lane)
        while self._queue:
            entry = heapq.heappop(self._queue)
            message = entry[1]
            lane = self._lanes.setdefault(message.recipient, _Lane())
            if message.settled:
                if lane.probe is message:
                    self._probe(message.recipient, lane)
                self._tidy(message.recipient)
            elif lane.state == OPEN or lane.probe is message:
                self._seqs += 1
                self._in_flight[self._seqs] = message
                lane.in_flight += 1
                message.sent_at = now
                message.refused_here = False
                return self._seqs, message
            else:
                heapq.heappush(lane.parked, entry)
        return None

    def _answered(self, seq: int) -> Optional[Tuple[Message, _Lane]]:
        message = self._in_flight.pop(seq, None)
        if message is None:
            return None
        lane = self._lanes[message.recipient]
        lane.in_flight -= 1
        return message, lane

    def settle(self, seq: int, outcome: Callable[[Message], Union[Accepted, IrisError]], now: float) -> bool:
        """A final answer came: accepted, or refused for good. False if no SEND has this seq."""
        found = self._answered(seq)
        if found is None:
            return False
        message, lane = found
        message.settle(outcome(message))
        if lane.state == PROBING and lane.probe is message:
            self._open(lane)
        self._maybe_hold(message, lane, now)
        self._tidy(message.recipient)
        return True

    def refused(self, seq: int, behind: bool, retry_after_ms: int, now: float) -> bool:
        """A retryable refusal came. False if no SEND has this seq."""
        found = self._answered(seq)
        if found is None:
            return False
        message, lane = found
        if lane.probe is message:
            lane.probe = None
            lane.probes_behind = lane.probes_behind + 1 if behind else 0
            # The server waits for a key that this client does not regard as the first unanswered one. A new connection
            # knows of no refusal.
            if lane.probes_behind >= PROBES_BEHIND_MAX:
                lane.probes_behind = 0
                self.needs_fresh_connection = True
        lane.state = DRAINING
        if not behind:
            message.refusals += 1
            message.refused_here = True
            if message.settled:  # given up meanwhile; it will not be sent again, so the server would block for ever
                self.needs_fresh_connection = True
        least_s = retry_after_ms / 1000 * random.uniform(1.0, 1.1)
        own_s = backoff_s(max(message.refusals - 1, 0), RETRY_FIRST_S, RETRY_MAX_S)
        lane.delay_s = max(lane.delay_s, least_s if retry_after_ms else own_s)
        if not message.settled:
            heapq.heappush(lane.parked, (message.ordinal, message))
        self._maybe_hold(message, lane, now)
        return True

    def connection_ended(self, now: float) -> None:
        """Nothing will be answered any more: what was in flight is to be sent again, in its first order."""
        self.needs_fresh_connection = False
        waiting, self._in_flight = list(self._in_flight.values()), {}
        for message in waiting:
            lane = self._lanes[message.recipient]
            lane.in_flight = 0
            if message.settled:
                continue
            target = self._queue if lane.state == OPEN else lane.parked
            heapq.heappush(target, (message.ordinal, message))
        for recipient, lane in list(self._lanes.items()):
            for _, message in lane.parked:
                message.refused_here = False
            if lane.state == PROBING:
                lane.state, lane.probe = DRAINING, None
            if lane.state == DRAINING:
                self._hold(recipient, lane, now)

    def expire(self, now: float) -> List[Message]:
        """The messages whose deadline has passed. The caller settles them; they are not sent again."""
        expired: List[Message] = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].settled):
            message = heapq.heappop(self._deadlines)[2]
            if not message.settled:
                expired.append(message)
                if message.refused_here:
                    self.needs_fresh_connection = True
        return expired

    def unsettled(self) -> List[Message]:
        """Every message without an outcome, in first order."""
        found = {message.ordinal: message for message in self._in_flight.values()}
        found.update((ordinal, message) for ordinal, message in self._queue)
        for lane in self._lanes.values():
            found.update((ordinal, message) for ordinal, message in lane.parked)
        return [found[ordinal] for ordinal in sorted(found) if not found[ordinal].settled]

    def oldest_sent_at(self) -> Optional[float]:
        """When the SEND that waits longest for its answer was sent."""
        if not self._in_flight:
            return None
        return self._in_flight[next(iter(self._in_flight))].sent_at  # seqs rise, so the first is the oldest

    def wakeup_at(self) -> Optional[float]:
        """When a lane's delay or a deadline ends next."""
        times = [heap[0][0] for heap in (self._timers, self._deadlines) if heap]
        return min(times) if times else None

    def _maybe_hold(self, message: Message, lane: _Lane, now: float) -> None:
        if lane.state == DRAINING and lane.in_flight == 0:
            self._hold(message.recipient, lane, now)

    def _hold(self, recipient: str, lane: _Lane, now: float) -> None:
        lane.state, lane.probe = HELD, None
        self._ordinals += 1
        heapq.heappush(self._timers, (now + lane.delay_s, self._ordinals, recipient))
        lane.delay_s = 0.0

    def _probe(self, recipient: str, lane: _Lane) -> None:
        """Sends the first parked message alone, or opens the lane if there is none."""
        while lane.parked and lane.parked[0][1].settled:
            heapq.heappop(lane.parked)
        if not lane.parked:
            self._open(lane)
            self._tidy(recipient)
            return
        entry = heapq.heappop(lane.parked)
        lane.state, lane.probe = PROBING, entry[1]
        heapq.heappush(self._queue, entry)

    def _open(self, lane: _Lane) -> None:
        lane.state, lane.probe, lane.probes_behind = OPEN, None, 0
        for entry in lane.parked:
            heapq.heappush(self._queue, entry)
        lane.parked = []

    def _tidy(self, recipient: str) -> None:
        """Forgets a lane without anything to remember; one still queued for is made again by `take`."""
        lane = self._lanes.get(recipient)
        if lane is not None and lane.state == OPEN and lane.in_flight == 0 and not lane.parked:
            del self._lanes[recipient]
