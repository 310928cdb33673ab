"""Field types of iris/2: integers, keys, and byte strings and texts with their length in front.

Owns the limits of single fields and the rules for names. Each `Field` writes one value and reads it back; anything out
of bounds is a ProtocolError, in both directions.
"""

from __future__ import annotations

import unicodedata
import uuid
from typing import Any, Callable, Tuple

from .errors import ProtocolError

BODY_MAX = 65_536
TOKEN_MAX = 4_096


class Reader:
    """Takes fields off one frame's body; running out of bytes is an error."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ProtocolError("a frame ends inside a field")
        piece = self.data[self.at:end]
        self.at = end
        return piece


class Field:
    """How one field is written and read."""

    def __init__(self, put: Callable[[Any], bytes], get: Callable[[Reader], Any]) -> None:
        self.put = put
        self.get = get


def _uint(size: int) -> Field:
    def put(value: int) -> bytes:
        if not 0 <= value < 1 << (8 * size):
            raise ProtocolError(f"{value} does not fit into {size} bytes")
        return value.to_bytes(size, "big")

    return Field(put, lambda reader: int.from_bytes(reader.take(size), "big"))


def check_size(size: int, least: int, most: int, what: str) -> None:
    if not least <= size <= most:
        raise ProtocolError(f"{what} of {size} bytes; it must be {least} to {most}")


def _bytes(width: int, most: int, what: str) -> Field:
    def put(value: bytes) -> bytes:
        check_size(len(value), 0, most, what)
        return len(value).to_bytes(width, "big") + value

    def get(reader: Reader) -> bytes:
        size = int.from_bytes(reader.take(width), "big")
        check_size(size, 0, most, what)
        return reader.take(size)

    return Field(put, get)


def _text(width: int, most: int, what: str, least: int = 0, name: bool = False) -> Field:
    """UTF-8 with its length in front; a name may hold no control characters (Unicode category Cc)."""

    def check(value: str) -> None:
        if name and any(unicodedata.category(char) == "Cc" for char in value):
            raise ProtocolError(f"{what} with a control character")

    def put(value: str) -> bytes:
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError:
            raise ProtocolError(f"{what} that is not UTF-8") from None
        check_size(len(raw), least, most, what)
        check(value)
        return len(raw).to_bytes(width, "big") + raw

    def get(reader: Reader) -> str:
        size = int.from_bytes(reader.take(width), "big")
        check_size(size, least, most, what)
        try:
            value = reader.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(f"{what} that is not UTF-8") from None
        check(value)
        return value

    return Field(put, get)


def _addresses(most: int) -> Field:
    one = _text(2, 0xFFFF, "an address")

    def put(value: Tuple[str, ...]) -> bytes:
        _check_count(len(value))
        return bytes([len(value)]) + b"".join(one.put(address) for address in value)

    def get(reader: Reader) -> Tuple[str, ...]:
        count = reader.take(1)[0]
        _check_count(count)
        return tuple(one.get(reader) for _ in range(count))

    def _check_count(count: int) -> None:
        if count > most:
            raise ProtocolError(f"{count} addresses; at most {most}")

    return Field(put, get)


U8, U16, U32, U64 = _uint(1), _uint(2), _uint(4), _uint(8)
KEY = Field(lambda value: value.bytes, lambda reader: uuid.UUID(bytes=reader.take(16)))
TOKEN = _text(2, TOKEN_MAX, "a token")
USER = _text(2, 256, "a user name", least=1, name=True)
DEVICE_OR_EMPTY = _text(1, 64, "a device name", name=True)
DEVICE = _text(1, 64, "a device name", least=1, name=True)
BODY = _bytes(4, BODY_MAX, "a body")
SOFTWARE = _text(1, 64, "a software name")
REASON = _text(2, 0xFFFF, "a reason")
SHORT_REASON = _text(2, 512, "a reason")
ADDRESSES = _addresses(32)
