"""Idempotency keys: UUIDv7 (RFC 9562) made by hand.

Owns the process-wide counter that keeps the keys of one process rising within a millisecond.
"""

from __future__ import annotations

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def new_key() -> uuid.UUID:
    """A fresh UUIDv7: 48 bits of milliseconds, a 12-bit counter begun at random, 62 random bits.

    Keys of one process rise strictly. If the counter runs out, or the clock goes back, the time field runs ahead of the
    clock by as little as needed (RFC 9562, section 6.2).
    """
    global _last_ms, _counter
    with _lock:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > _last_ms:
            _last_ms = now_ms
            _counter = int.from_bytes(os.urandom(2), "big") & 0x7FF
        else:
            _counter += 1
            if _counter > 0xFFF:
                _last_ms += 1
                _counter = 0
        stamp, count = _last_ms, _counter
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return uuid.UUID(int=(stamp << 80) | (0x7 << 76) | (count << 64) | (0b10 << 62) | tail)


def parse_key(text: str) -> uuid.UUID:
    """A key a person gave. Raises ValueError unless it is a UUIDv7."""
    key = uuid.UUID(text)
    if key.version != 7 or key.variant != uuid.RFC_4122:
        raise ValueError("not a UUIDv7")
    return key
