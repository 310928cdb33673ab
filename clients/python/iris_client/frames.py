"""The wire codec of iris/2: frames as dataclasses, to bytes and back.

Owns the frame layouts and the limit of a whole frame. Pure: no sockets, no clocks. `encode` makes one whole frame,
`decode` reads one, and `FrameBuffer` cuts frames out of a stream that arrives in arbitrary pieces.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import ClassVar, Dict, Iterator, Optional, Tuple, Type

from .errors import ProtocolError
from .fields import (ADDRESSES, BODY, DEVICE, DEVICE_OR_EMPTY, KEY, REASON, SHORT_REASON, SOFTWARE, TOKEN, U8, U16, U32,
                     U64, USER, Field, Reader, check_size)

VERSION = 2
FRAME_MAX = 65_536 + 4_096
STORED = 0xFFFF_FFFF_FFFF_FFFF
DURABILITY_QUORUM = 0
COMMITTED = 1
FLAG_DUPLICATE = 1


class Frame:
    """The base of all frames. `FIELDS` names each attribute and its field, in wire order."""

    TYPE: ClassVar[int]
    FIELDS: ClassVar[Tuple[Tuple[str, Field], ...]] = ()


@dataclass(frozen=True)
class Hello(Frame):
    TYPE = 0x01
    FIELDS = (("version_min", U16), ("version_max", U16), ("token", TOKEN),
              ("device", DEVICE_OR_EMPTY), ("software", SOFTWARE))
    version_min: int
    version_max: int
    token: str
    device: str
    software: str

    def __repr__(self) -> str:  # the token stays out of logs and tracebacks
        return f"Hello(device={self.device!r}, software={self.software!r}, token=...)"


@dataclass(frozen=True)
class Send(Frame):
    TYPE = 0x02
    FIELDS = (("seq", U64), ("key", KEY), ("durability", U8), ("kind", U16), ("recipient", USER), ("body", BODY))
    seq: int
    key: uuid.UUID
    durability: int
    kind: int
    recipient: str
    body: bytes


@dataclass(frozen=True)
class Ack(Frame):
    TYPE = 0x03
    FIELDS = (("cursor", U64),)
    cursor: int


@dataclass(frozen=True)
class Subscribe(Frame):
    TYPE = 0x04
    FIELDS = (("from_cursor", U64), ("credit", U32))
    from_cursor: int
    credit: int


@dataclass(frozen=True)
class Credit(Frame):
    TYPE = 0x05
    FIELDS = (("entries", U32),)
    entries: int


@dataclass(frozen=True)
class Ping(Frame):
    TYPE = 0x06
    FIELDS = (("nonce", U64),)
    nonce: int


@dataclass(frozen=True)
class Bye(Frame):
    TYPE = 0x07


@dataclass(frozen=True)
class Welcome(Frame):
    TYPE = 0x41
    FIELDS = (("version", U16), ("node", U64), ("user", USER), ("device", DEVICE), ("sends_in_flight_max", U32),
              ("idle_ms_max", U32))
    version: int
    node: int
    user: str
    device: str
    sends_in_flight_max: int
    idle_ms_max: int


@dataclass(frozen=True)
class Accepted(Frame):
    TYPE = 0x42
    FIELDS = (("seq", U64), ("status", U8), ("flags", U8), ("id", U64))
    seq: int
    status: int
    flags: int
    id: int

    @property
    def duplicate(self) -> bool:
        """Whether the server knew the key already."""
        return bool(self.flags & FLAG_DUPLICATE)


@dataclass(frozen=True)
class RefusedFrame(Frame):
    """REFUSED; named apart from the exception `errors.Refused`."""

    TYPE = 0x43
    FIELDS = (("seq", U64), ("code", U16), ("retry_after_ms", U32), ("reason", SHORT_REASON))
    seq: int
    code: int
    retry_after_ms: int
    reason: str


@dataclass(frozen=True)
class Entry(Frame):
    """One entry of the inbox, as `Client.follow` yields it too."""

    TYPE = 0x44
    FIELDS = (("id", U64), ("kind", U16), ("key", KEY), ("sender", USER), ("body", BODY))
    id: int
    kind: int
    key: uuid.UUID
    sender: str
    body: bytes


@dataclass(frozen=True)
class Live(Frame):
    """Everything committed when the server looked has been delivered."""

    TYPE = 0x45
    FIELDS = (("cursor", U64),)
    cursor: int


@dataclass(frozen=True)
class Pong(Frame):
    TYPE = 0x46
    FIELDS = (("nonce", U64),)
    nonce: int


@dataclass(frozen=True)
class GoAway(Frame):
    TYPE = 0x47
    FIELDS = (("delay_ms", U32), ("reason", REASON), ("addresses", ADDRESSES))
    delay_ms: int
    reason: str
    addresses: Tuple[str, ...]


@dataclass(frozen=True)
class Error(Frame):
    TYPE = 0x48
    FIELDS = (("code", U16), ("retry_after_ms", U32), ("reason", REASON))
    code: int
    retry_after_ms: int
    reason: str


@dataclass(frozen=True)
class Acked(Frame):
    TYPE = 0x49
    FIELDS = (("cursor", U64),)
    cursor: int


CLIENT_FRAMES: Dict[int, Type[Frame]] = {kind.TYPE: kind for kind in (Hello, Send, Ack, Subscribe, Credit, Ping, Bye)}
SERVER_FRAMES: Dict[int, Type[Frame]] = {
    kind.TYPE: kind for kind in (Welcome, Accepted, RefusedFrame, Entry, Live, Pong, GoAway, Error, Acked)}


def encode(frame: Frame) -> bytes:
    """One whole frame, length field included."""
    payload = bytes([frame.TYPE]) + b"".join(field.put(getattr(frame, name)) for name, field in frame.FIELDS)
    if len(payload) > FRAME_MAX:
        raise ProtocolError(f"a frame of {len(payload)} bytes; at most {FRAME_MAX}")
    return struct.pack(">I", len(payload)) + payload


def decode_payload(payload: bytes, known: Dict[int, Type[Frame]]) -> Optional[Frame]:
    """The frame in `payload` (type and body), or None for a type to be ignored."""
    kind = known.get(payload[0])
    if kind is None:
        if 0x60 <= payload[0] <= 0x7F:
            return None
        raise ProtocolError(f"a frame of the unknown type 0x{payload[0]:02x}")
    reader = Reader(payload)
    reader.at = 1
    values = [field.get(reader) for _, field in kind.FIELDS]
    if reader.at != len(payload):
        raise ProtocolError(f"{len(payload) - reader.at} bytes left over in a frame of type 0x{payload[0]:02x}")
    return kind(*values)


class FrameBuffer:
    """Collects bytes as they come and gives out whole frames."""

    def __init__(self, known: Dict[int, Type[Frame]] = SERVER_FRAMES) -> None:
        self._known = known
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Gives out the frames completed by `data`; must be used up. A broken frame raises ProtocolError in its turn."""
        self._data += data
        at = 0
        try:
            while len(self._data) - at >= 4:
                (size,) = struct.unpack_from(">I", self._data, at)
                check_size(size, 1, FRAME_MAX, "a frame")
                if len(self._data) - at < 4 + size:
                    break
                payload = bytes(self._data[at + 4:at + 4 + size])
                at += 4 + size
                frame = decode_payload(payload, self._known)
                if frame is not None:
                    yield frame
        finally:
            del self._data[:at]


def decode(data: bytes, known: Dict[int, Type[Frame]] = SERVER_FRAMES) -> Optional[Frame]:
    """Exactly one whole frame, length field included; None if it is one to be ignored."""
    if len(data) < 5 or struct.unpack_from(">I", data)[0] != len(data) - 4:
        raise ProtocolError("not exactly one frame")
    return decode_payload(data[4:], known)
