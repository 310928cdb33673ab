"""Where to connect next, and when: the known addresses in turn, with a growing and jittered delay between failures.

Owns the list of addresses (the given ones, and those a GOAWAY named) and the count of failures in a row.
"""

from __future__ import annotations

import random
import time
from typing import Iterable, List

from .outbox import backoff_s
from .session import parse_address

FIRST_S, MAX_S = 0.1, 5.0
KNOWN_MAX = 64


class Route:
    """The next address and the delay before it. Not locked: for the connection thread only."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._known: List[str] = list(dict.fromkeys(address.strip() for address in addresses))
        if not self._known:
            raise ValueError("at least one address is needed")
        for address in self._known:
            parse_address(address)
        self._at = random.randrange(len(self._known))
        self._preferred: List[str] = []
        self._failures = 0
        self._not_before = 0.0

    def next_address(self) -> str:
        """The address to try now."""
        if self._preferred:
            return self._preferred.pop(0)
        self._at = (self._at + 1) % len(self._known)
        return self._known[self._at]

    def failed(self, retry_after_ms: int = 0) -> None:
        """A connection could not be made, or it ended. Every address gets its try before the delay grows."""
        delay_s = backoff_s(self._failures // len(self._known), FIRST_S, MAX_S)
        self._failures += 1
        self._not_before = max(self._not_before, time.monotonic() + max(delay_s, retry_after_ms / 1000))

    def worked(self) -> None:
        """A connection proved useful; the delay starts small again."""
        self._failures = 0

    def moved(self, addresses: Iterable[str], delay_ms: int) -> None:
        """A GOAWAY: go on at one of these, or any known, not before the delay is over."""
        self._not_before = time.monotonic() + delay_ms / 1000
        self._preferred = []
        for address in addresses:
            try:
                parse_address(address)
            except ValueError:
                continue
            self._preferred.append(address)
            if address not in self._known and len(self._known) < KNOWN_MAX:
                self._known.append(address)
        random.shuffle(self._preferred)

    def wait_s(self) -> float:
        """How long to wait before the next try."""
        return max(0.0, self._not_before - time.monotonic())
