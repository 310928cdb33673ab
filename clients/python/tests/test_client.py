"""The client against a scripted node over TLS on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
import unittest
import uuid
from typing import List, Optional

from support import OPENSSL, TOKEN, Certificates, Conn, FakeNode, environment

from iris_client import Client, Closed, Entry, IrisError, Live, Refused, ServerError, Unreachable
from iris_client.frames import (STORED, Accepted, Ack, Acked, Bye, Credit, Error, GoAway, Hello, RefusedFrame, Send,
                                Subscribe)

KEY = uuid.UUID("0197f2c4-a1b0-7c3d-8e4f-5a6b7c8d9e0f")


def entry(number: int) -> Entry:
    return Entry(number, 0, KEY, "bob", b"%d" % number)


def bye(conn: Conn) -> None:
    conn.expect(Bye)


def accept_until_bye(conn: Conn) -> List[Send]:
    got: List[Send] = []
    while isinstance(frame := conn.any(), Send):
        got.append(frame)
        conn.send(Accepted(frame.seq, 1, 0, 100 + len(got)))
    return got


@unittest.skipUnless(OPENSSL, "the openssl command is missing, so no certificates can be made")
class NodeTest(unittest.TestCase):
    certificates: Certificates

    @classmethod
    def setUpClass(cls) -> None:
        cls.certificates = Certificates()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.certificates.close()

    def node(self, *scripts: object, **options: object) -> FakeNode:
        return FakeNode(self.certificates, *scripts, **options)  # type: ignore[arg-type]

    def client(self, *nodes: FakeNode, device: Optional[str] = None, deadline_s: float = 10.0) -> Client:
        client = Client([node.address for node in nodes], TOKEN, self.certificates.ca_file, device, deadline_s=deadline_s)
        self.addCleanup(client.close)
        return client


class Login(NodeTest):
    def test_login(self) -> None:
        conns: List[Conn] = []
        node = self.node(lambda conn: (conns.append(conn), bye(conn.login())))
        client = self.client(node, device="laptop")
        welcome = client.login()
        self.assertEqual((welcome.user, welcome.device, welcome.version), ("bob", "laptop", 2))
        client.close()
        node.close()
        hello = conns[0].hello
        assert hello is not None
        self.assertEqual((hello.version_min, hello.version_max, hello.token), (2, 2, TOKEN))
        self.assertRaises(Closed, client.send, "alice", b"")

    def test_refused_token_is_final(self) -> None:
        node = self.node(lambda conn: (conn.expect(Hello), conn.send(Error(3, 0, "the token was refused"))))
        with self.assertRaises(ServerError) as caught:
            self.client(node).send("alice", b"hi")
        self.assertEqual(caught.exception.code, 3)
        self.assertNotIn(TOKEN, str(caught.exception))
        node.close()

    def test_retryable_error_goes_on_elsewhere(self) -> None:
        def full(conn: Conn) -> None:
            conn.expect(Hello)
            conn.send(Error(7, 20, "no room"))

        node = self.node(full, full, lambda conn: bye(conn.login()))
        client = self.client(node)
        client.login()
        client.close()
        node.close()

    def test_wrong_ca_name_and_alpn(self) -> None:
        other = Certificates("other.internal")
        self.addCleanup(other.close)
        for ca_file, certificates, alpn, expected in (
                (other.ca_file, self.certificates, "iris/2", "certificate"),
                (other.ca_file, other, "iris/2", "iris.internal"),
                (self.certificates.ca_file, self.certificates, None, "does not speak iris/2")):
            node = FakeNode(certificates, *[lambda conn: None] * 50, alpn=alpn)
            self.addCleanup(node.stop)
            with Client([node.address], TOKEN, ca_file, deadline_s=0.7) as client:
                with self.assertRaisesRegex(Unreachable, expected):
                    client.login()

    def test_unreachable(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client([address], TOKEN, self.certificates.ca_file, deadline_s=0.5) as client:
            self.assertRaises(Unreachable, client.send, "alice", b"hi")


class Sending(NodeTest):
    def test_send(self) -> None:
        def script(conn: Conn) -> None:
            send = conn.login().expect(Send)
            assert (send.recipient, send.body, send.key, send.durability) == ("alice", b"hi", KEY, 0), send
            conn.send(Accepted(send.seq, 1, 0xFF, 77))
            bye(conn)

        node = self.node(script)
        client = self.client(node)
        receipt = client.send("alice", b"hi", KEY)
        self.assertEqual((receipt.id, receipt.duplicate, receipt.key, receipt.status), (77, True, KEY, "committed"))
        self.assertEqual(receipt.body_sha256, hashlib.sha256(b"hi").hexdigest())
        client.close()
        node.close()

    def test_reconnect_resends_in_order_with_the_same_keys(self) -> None:
        first: List[Send] = []
        second: List[Send] = []

        def cut(conn: Conn) -> None:
            conn.login()
            first.extend(conn.expect(Send) for _ in range(4))
            conn.send(Accepted(first[1].seq, 1, 0, 2))

        node = self.node(cut, lambda conn: second.extend(accept_until_bye(conn.login())))
        client = self.client(node)
        bodies = [("alice", b"1"), ("carol", b"2"), ("alice", b"3"), ("alice", b"4")]
        receipts = list(client.send_many(bodies))
        client.close()
        node.close()
        self.assertEqual([send.body for send in first], [b"1", b"2", b"3", b"4"])
        self.assertEqual([(send.body, send.key) for send in second],
                         [(send.body, send.key) for send in first if send.body != b"2"])
        self.assertEqual(sorted(receipt.index for receipt in receipts), [0, 1, 2, 3])

    def test_refusal_then_behind_then_again_in_order(self) -> None:
        again: List[Send] = []
        started = time.monotonic()

        def script(conn: Conn) -> None:
            conn.login()
            sends = [conn.expect(Send) for _ in range(4)]
            assert [send.body for send in sends] == [b"1", b"2", b"3", b"other"]
            conn.send(RefusedFrame(sends[1].seq, 21, 0, "behind"), RefusedFrame(sends[0].seq, 22, 200, "slow down"),
                      RefusedFrame(sends[2].seq, 21, 0, "behind"), Accepted(sends[3].seq, 1, 0, 9))
            again.extend(accept_until_bye(conn))
            assert [send.key for send in again] == [send.key for send in sends[:3]]
            assert min(send.seq for send in again) > sends[3].seq

        node = self.node(script)
        client = self.client(node)
        receipts = list(client.send_many([("alice", b"1"), ("alice", b"2"), ("alice", b"3"), ("carol", b"other")]))
        self.assertGreater(time.monotonic() - started, 0.2)
        self.assertEqual([receipt.index for receipt in receipts], [3, 0, 1, 2])
        client.close()
        node.close()
        self.assertEqual([send.body for send in again], [b"1", b"2", b"3"])

    def test_final_refusals(self) -> None:
        def script(conn: Conn) -> None:
            conn.login()
            for code in (20, 4711):
                conn.send(RefusedFrame(conn.expect(Send).seq, code, 0, "never"))
            accept_until_bye(conn)

        node = self.node(script)
        client = self.client(node)
        with self.assertRaises(Refused) as caught:
            client.send("alice", b"hi")
        self.assertEqual(caught.exception.code, 20)
        receipts = list(client.send_many([("alice", b"1"), ("alice", b"2")]))
        self.assertEqual([(receipt.status, receipt.code) for receipt in receipts], [("refused", 4711), ("committed", None)])
        client.close()
        node.close()

    def test_window(self) -> None:
        def script(conn: Conn) -> None:
            conn.login(3)
            for _ in range(10):
                sends = [conn.expect(Send) for _ in range(3)]
                conn._sock.settimeout(0.05)
                try:
                    raise AssertionError(f"one too many: {conn.any()!r}")
                except socket.timeout:
                    conn._sock.settimeout(10)
                conn.send(*[Accepted(send.seq, 1, 0, send.seq) for send in sends])
            bye(conn)

        node = self.node(script)
        client = self.client(node)
        receipts = list(client.send_many(("alice", b"%d" % number) for number in range(30)))
        self.assertEqual([receipt.index for receipt in receipts], list(range(30)))
        client.close()
        node.close()

    def test_large_bodies_and_bad_input(self) -> None:
        node = self.node(lambda conn: accept_until_bye(conn.login()))
        client = self.client(node)
        self.assertEqual(len(list(client.send_many([("alice", b"x" * 65536)] * 100))), 100)
        self.assertRaises(ValueError, client.send, "alice", b"x" * 65537)
        self.assertRaises(ValueError, client.send, "", b"x")
        receipts = client.send_many([("alice", b"1"), ("", b"2")])
        self.assertEqual(next(receipts).index, 0)
        self.assertRaises(ValueError, next, receipts)
        client.close()
        node.close()

    def test_goaway_waits_for_answers_and_moves(self) -> None:
        moved: List[float] = []
        target = self.node(lambda conn: (moved.append(time.monotonic()), accept_until_bye(conn.login())))

        def leaving(conn: Conn) -> None:
            send = conn.login().expect(Send)
            moved.append(time.monotonic())
            conn.send(GoAway(400, "upgrade", (target.address,)))
            late = threading.Timer(0.2, lambda: conn.send(Accepted(send.seq, 1, 0, 5)))
            late.start()
            bye(conn)

        node = self.node(leaving)
        client = self.client(node)
        self.assertEqual(client.send("alice", b"1").id, 5)
        self.assertEqual(client.send("alice", b"2").id, 101)
        client.close()
        node.close()
        target.close()
        self.assertGreater(moved[1] - moved[0], 0.35)

    def test_broken_protocol_reconnects(self) -> None:
        node = self.node(lambda conn: (conn.login().expect(Send), conn.raw(b"\0\0\0\x01\x10"), conn.until_bye()),
                         lambda conn: (conn.login().expect(Send), conn.send(Accepted(99, 1, 0, 1)), conn.until_bye()),
                         lambda conn: accept_until_bye(conn.login()))
        client = self.client(node)
        self.assertEqual(client.send("alice", b"1").id, 101)
        client.close()
        node.close()


class Following(NodeTest):
    def test_reconnect_from_the_cursor_without_duplicates_and_ack(self) -> None:
        def first(conn: Conn) -> None:
            subscribe = conn.login().expect(Subscribe)
            assert subscribe.from_cursor == STORED and subscribe.credit > 0
            conn.send(entry(10), entry(11), Live(11), entry(12))

        def second(conn: Conn) -> None:
            subscribe = conn.login().expect(Subscribe)
            assert subscribe.from_cursor == 12, subscribe
            conn.send(entry(12), entry(13), Live(13))  # 12 again, against the rule: it must not come twice
            assert conn.expect(Ack).cursor == 13       # and nothing is answered: the ack has to be repeated

        def third(conn: Conn) -> None:
            conn.login()
            assert conn.expect(Ack).cursor == 13
            assert conn.expect(Subscribe).from_cursor == 13
            conn.send(Acked(13), Live(13))
            bye(conn)

        node = self.node(first, second, third)
        client = self.client(node)
        follow = client.follow()
        got = [follow.next_event(10) for _ in range(6)]
        self.assertEqual(got, [entry(10), entry(11), Live(11), entry(12), entry(13), Live(13)])
        client.ack(13)
        client.wait_acked(13)
        self.assertEqual(follow.next_event(10), Live(13))
        client.close()
        self.assertRaises(Closed, follow.next_event)
        node.close()

    def test_credit(self) -> None:
        def script(conn: Conn) -> None:
            credit = conn.login().expect(Subscribe).credit
            for number in range(1, 2001):
                while credit == 0:
                    credit += conn.expect(Credit).entries
                conn.send(entry(number))
                credit -= 1
            conn.send(Live(2000))
            conn.until_bye()

        node = self.node(script)
        client = self.client(node)
        ids = []
        for event in client.follow(0):
            if isinstance(event, Live):
                break
            ids.append(event.id)
        self.assertEqual(ids, list(range(1, 2001)))
        client.close()
        node.close()

    def test_a_second_follower_begins_on_a_new_connection(self) -> None:
        node = self.node(lambda conn: (conn.login().expect(Subscribe), conn.send(entry(9)), conn.until_bye()),
                         lambda conn: (conn.login().expect(Subscribe), conn.send(entry(1)), conn.until_bye()))
        client = self.client(node)
        one = client.follow(5)
        self.assertEqual(one.next_event(10), entry(9))
        self.assertRaises(IrisError, client.follow, 0)
        one.close()
        self.assertEqual(client.follow(0).next_event(10), entry(1))
        client.close()
        node.close()


class CommandLine(NodeTest):
    def run_cli(self, node: Optional[FakeNode], *arguments: str, stdin: bytes = b"", address: str = "") -> "tuple":
        command, *rest = arguments
        done = subprocess.run(
            [sys.executable, "-m", "iris_client", command, "--connect", address or (node.address if node else ""), "--ca",
             self.certificates.ca_file, *rest], input=stdin, capture_output=True, timeout=30, env=environment())
        self.assertNotIn(TOKEN.encode(), done.stdout + done.stderr)
        self.assertNotIn(b"Traceback", done.stderr, done.stderr.decode())
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    def test_login(self) -> None:
        node = self.node(lambda conn: bye(conn.login()))
        self.assertEqual(self.run_cli(node, "login", "--device", "d"),
                         (0, [{"user": "bob", "device": "d", "node": 1, "version": 2}], ""))
        node.close()

    def test_send(self) -> None:
        node = self.node(*[lambda conn: accept_until_bye(conn.login())] * 3)
        digest = hashlib.sha256(b"hi").hexdigest()
        self.assertEqual(self.run_cli(node, "send", "--to", "alice", "--key", str(KEY), "hi")[:2],
                         (0, [{"key": str(KEY), "to": "alice", "id": 101, "status": "committed", "duplicate": False,
                               "sha256": digest}]))
        code, lines, _ = self.run_cli(node, "send", "--to", "alice", "-", "--json", stdin=b"hi\nho\n\nlast")
        self.assertEqual((code, [line["id"] for line in lines], lines[0]["sha256"]), (0, [101, 102, 103, 104], digest))
        given = [{"to": "a", "body_base64": "aGk="}, {"to": "b", "body_base64": "", "key": str(KEY)}]
        code, lines, _ = self.run_cli(node, "send", "--in", "-", stdin="\n".join(map(json.dumps, given)).encode())
        self.assertEqual((code, [line["to"] for line in lines], lines[1]["key"]), (0, ["a", "b"], str(KEY)))
        node.close()

    def test_send_failures(self) -> None:
        def refuse(conn: Conn) -> None:
            conn.send(RefusedFrame(conn.login().expect(Send).seq, 20, 0, "used before"))
            conn.until_bye()

        node = self.node(refuse, lambda conn: accept_until_bye(conn.login()))
        code, lines, error = self.run_cli(node, "send", "--to", "alice", "hi")
        self.assertEqual((code, lines), (1, []))
        self.assertIn("key_conflict: used before", error)
        code, lines, error = self.run_cli(node, "send", "--in", "-", stdin=b'{"to":"a","body_base64":"aGk="}\n{"to":1}\n')
        self.assertEqual((code, len(lines)), (2, 1))
        self.assertIn("line 2", error)
        node.close()

    def test_usage_and_unreachable(self) -> None:
        for arguments in (["send", "hi"], ["send", "--to", "a", "--key", "x", "hi"], ["tail", "--from", "yesterday"],
                          ["send", "--to", "a", "--in", "x"], ["tail", "--deadline-s", "0"], ["login", "--ca", "/nonexistent"],
                          ["login", "--token-file", "/nonexistent"], ["login", "--connect", "nonsense"]):
            with self.subTest(arguments):
                code, lines, error = self.run_cli(None, *arguments, address="127.0.0.1:1")
                self.assertEqual((code, lines), (2, []))
                self.assertTrue(error)
        code, _, error = self.run_cli(None, "login", "--deadline-s", "0.5", address="127.0.0.1:1")
        self.assertEqual((code, error.count("\n")), (3, 1))

    def test_tail(self) -> None:
        def script(conn: Conn) -> None:
            assert conn.login().expect(Subscribe).from_cursor == 3
            conn.send(entry(10), entry(11), Live(11))
            assert conn.expect(Ack).cursor == 11
            conn.send(Acked(11))
            bye(conn)

        def endless(conn: Conn) -> None:
            conn.login().expect(Subscribe)
            conn.send(entry(10), Live(10), entry(11), entry(12))
            conn.until_bye()

        node = self.node(script, endless, endless, endless)
        code, lines, error = self.run_cli(node, "tail", "--from", "3", "--ack")
        self.assertEqual((code, [line["id"] for line in lines]), (0, [10, 11]), error)
        self.assertEqual(lines[0], {"id": 10, "sender": "bob", "kind": 0, "key": str(KEY), "sha256":
                                    hashlib.sha256(b"10").hexdigest(), "body_base64": base64.b64encode(b"10").decode()})
        self.assertEqual([line["id"] for line in self.run_cli(node, "tail", "--follow", "--count", "2")[1]], [10, 11])
        self.assertEqual(self.run_cli(node, "tail", "--follow", "--deadline-s", "1")[0], 0)
        code, lines, error = self.run_cli(node, "tail", "--follow", "--count", "9", "--deadline-s", "1")
        self.assertEqual((code, len(lines)), (1, 3))
        self.assertIn("only 3 of 9", error)
        node.close()

    def test_stdin_left_open_does_not_delay_receipts_or_the_exit(self) -> None:
        def script(conn: Conn) -> None:
            conn.send(Accepted(conn.login().expect(Send).seq, 1, 0, 1))
            conn.expect(Send)
            conn.send(Error(1, 0, "malformed"))

        node = self.node(script)
        with subprocess.Popen([sys.executable, "-m", "iris_client", "send", "--to", "a", "--connect", node.address, "--ca",
                               self.certificates.ca_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=environment()) as child:
            assert child.stdin and child.stdout and child.stderr
            child.stdin.write(b"one\n")
            child.stdin.flush()
            self.assertEqual(json.loads(child.stdout.readline())["id"], 1)
            child.stdin.write(b"two\n")
            child.stdin.flush()
            self.assertEqual(child.wait(10), 1)
            self.assertIn(b"malformed", child.stderr.read())
        node.close()


if __name__ == "__main__":
    unittest.main()
