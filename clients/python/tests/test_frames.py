"""The codec: round trips, limits, pieces, and every example of the protocol document."""

from __future__ import annotations

import re
import time
import unittest
import uuid

from support import HERE

from iris_client import keys
from iris_client.errors import ProtocolError
from iris_client.frames import (CLIENT_FRAMES, SERVER_FRAMES, STORED, Accepted, Ack, Acked, Bye, Credit, Entry, Error,
                                FrameBuffer, GoAway, Hello, Live, Ping, Pong, RefusedFrame, Send, Subscribe, Welcome,
                                decode, encode)

DOCUMENT = HERE.parents[2] / "docs" / "protocol.md"
KEY = uuid.UUID("0197f2c4-a1b0-7c3d-8e4f-5a6b7c8d9e0f")
ID = 0x01A1EE565E000001

EXAMPLES = {
    "client HELLO": Hello(2, 2, "e30.e30.c2ln", "laptop", "demo/1"),
    "client SEND": Send(1, KEY, 0, 0, "alice", b"hi"),
    "client ACK": Ack(ID),
    "client SUBSCRIBE": Subscribe(STORED, 256),
    "client CREDIT": Credit(128),
    "client PING": Ping(7),
    "client BYE": Bye(),
    "server WELCOME": Welcome(2, 1, "bob", "laptop", 1024, 300_000),
    "server ACCEPTED": Accepted(1, 1, 0, ID),
    "server REFUSED": RefusedFrame(2, 22, 250, "slow down"),
    "server ENTRY": Entry(ID, 0, KEY, "bob", b"hi"),
    "server LIVE": Live(ID),
    "server PONG": Pong(7),
    "server GOAWAY": GoAway(300, "upgrade", ("10.0.0.2:8443",)),
    "server ERROR": Error(3, 0, "the token was refused"),
    "server ACKED": Acked(ID),
}


def known_for(name: str) -> dict:
    return CLIENT_FRAMES if name.startswith("client") else SERVER_FRAMES


def document_examples() -> "dict[str, bytes]":
    found = {}
    for block in re.findall(r"^```hex\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S):
        name, *lines = block.splitlines()
        found[name.strip()] = bytes.fromhex("".join(line.split("#")[0] for line in lines))
    return found


class Examples(unittest.TestCase):
    @unittest.skipUnless(DOCUMENT.exists(), "docs/protocol.md is not beside this client")
    def test_every_example_of_the_document(self) -> None:
        found = document_examples()
        self.assertEqual(set(found), set(EXAMPLES))
        for name, data in found.items():
            with self.subTest(name):
                self.assertEqual(decode(data, known_for(name)), EXAMPLES[name])
                self.assertEqual(encode(EXAMPLES[name]), data)


class Codec(unittest.TestCase):
    def test_round_trips(self) -> None:
        more = [("client", Hello(0, 65535, "", "", "")), ("client", Send(2**64 - 1, KEY, 2, 65535, "ü" * 128, b"x" * 65536)),
                ("server", Entry(2**63 - 1, 7, KEY, "a", b"")), ("server", GoAway(0, "", ())),
                ("server", GoAway(1, "x", tuple(f"h:{n}" for n in range(32)))), ("server", RefusedFrame(1, 99, 0, "r" * 512))]
        for side, frame in more + list(EXAMPLES.items()):
            self.assertEqual(decode(encode(frame), known_for(side)), frame)

    def test_any_cut_and_any_join(self) -> None:
        sent = [frame for name, frame in EXAMPLES.items() if name.startswith("server")]
        data = b"".join(map(encode, sent))
        for step in (1, 2, 7, len(data)):
            buffer = FrameBuffer()
            got = [frame for at in range(0, len(data), step) for frame in buffer.feed(data[at:at + step])]
            self.assertEqual(got, sent)

    def test_frames_ahead_of_a_broken_one_are_given_out(self) -> None:
        stream = FrameBuffer().feed(encode(Live(1)) + b"\0\0\0\x01\x10")
        self.assertEqual(next(stream), Live(1))
        self.assertRaises(ProtocolError, next, stream)

    def test_broken_frames(self) -> None:
        for data in ("00000000", "00011001", "ffffffff", "0000000145", "0000000a4500000000000000010a", "00000001 10",
                     "0000000103", "0000000f 44", "0000000180"):
            with self.subTest(data), self.assertRaises(ProtocolError):
                list(FrameBuffer().feed(bytes.fromhex(data) + b"\0" * 20))

    def test_unknown_types_to_be_ignored(self) -> None:
        for kind in (0x60, 0x7F):
            self.assertEqual(list(FrameBuffer().feed(bytes([0, 0, 0, 3, kind, 1, 2]) + encode(Live(4)))), [Live(4)])

    def test_limits_when_encoding(self) -> None:
        for frame in (Send(1, KEY, 0, 0, "", b""), Send(1, KEY, 0, 0, "a\n", b""), Send(1, KEY, 0, 0, "x" * 257, b""),
                      Send(1, KEY, 0, 0, "a", b"x" * 65537), Send(-1, KEY, 0, 0, "a", b""), Ack(2**64),
                      Send(1, KEY, 0, 0, "a\x85", b""), Send(1, KEY, 0, 0, "\ud800", b""),
                      Hello(2, 2, "x" * 4097, "", ""), Hello(2, 2, "x", "d" * 65, ""), Hello(2, 2, "x", "", "s" * 65)):
            with self.subTest(frame=type(frame).__name__), self.assertRaises(ProtocolError):
                encode(frame)

    def test_the_token_is_not_shown(self) -> None:
        self.assertNotIn("secret", repr(Hello(2, 2, "secret", "d", "s")))


class Keys(unittest.TestCase):
    def test_uuid7(self) -> None:
        made = [keys.new_key() for _ in range(10_000)]
        self.assertEqual(made, sorted(set(made)))
        for key in made[::1000]:
            self.assertEqual((key.version, key.variant), (7, uuid.RFC_4122))
            self.assertLess(abs((key.int >> 80) / 1000 - time.time()), 5)
        self.assertEqual(keys.parse_key(str(KEY)), KEY)
        self.assertRaises(ValueError, keys.parse_key, str(uuid.uuid4()))


if __name__ == "__main__":
    unittest.main()
