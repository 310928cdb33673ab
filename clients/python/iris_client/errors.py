"""What can go wrong: the exceptions of this package and the protocol's table of codes.

Owns the code numbers, their names, and whether a code is worth another try.
"""

from __future__ import annotations

import uuid
from typing import Dict, Tuple

# number: (name, retryable)
CODES: Dict[int, Tuple[str, bool]] = {
    1: ("malformed", False),
    2: ("unsupported_version", False),
    3: ("auth_failed", False),
    4: ("not_logged_in", False),
    5: ("too_many_in_flight", False),
    6: ("timeout", True),
    7: ("shutting_down", True),
    8: ("internal", True),
    20: ("key_conflict", False),
    21: ("behind", True),
    22: ("rate_limited", True),
    23: ("overloaded", True),
    24: ("unavailable", True),
    25: ("inbox_full", True),
    26: ("unsupported", False),
    27: ("body_too_long", False),
    28: ("disk_full", True),
}

BEHIND = 21


def code_name(code: int) -> str:
    """The name of a code, for people."""
    return CODES[code][0] if code in CODES else f"code {code}"


def is_retryable(code: int) -> bool:
    """Whether the same thing may succeed later. An unknown code is final."""
    return CODES[code][1] if code in CODES else False


class IrisError(Exception):
    """The base of everything this package raises on purpose."""


class ProtocolError(IrisError):
    """Bytes that are no frame, or a value a frame cannot carry."""


class ConnectionEnded(IrisError):
    """One connection is over (closed, broken, silent, or never made). The client reconnects."""

    def __init__(self, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class ServerError(IrisError):
    """The server sent an ERROR that the same attempt will meet again."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server ended the connection: {code_name(code)}: {reason}")
        self.code = code
        self.reason = reason


class Refused(IrisError):
    """A message was refused for good; it will never be accepted as it is."""

    def __init__(self, key: uuid.UUID, code: int, reason: str) -> None:
        super().__init__(f"the message {key} was refused: {code_name(code)}: {reason}")
        self.key = key
        self.code = code
        self.reason = reason


class DeadlineExceeded(IrisError):
    """The caller's deadline passed. A message in question may or may not be in the inbox."""


class Unreachable(DeadlineExceeded):
    """The deadline passed while no node could be reached."""


class Closed(IrisError):
    """The client was closed."""
