"""The command line: `python3 -m iris_client login|send|tail`.

Owns arguments, JSON lines on stdout, one sentence on stderr, and exit codes: 0 done, 1 failed, 2 usage, 3 unreachable.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import sys
import time
import uuid
from typing import BinaryIO, Iterator, List, Optional, Sequence

from .client import Client, Outgoing, Receipt
from .errors import DeadlineExceeded, IrisError, Unreachable
from .frames import Entry, Live
from .keys import parse_key

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
ACK_EVERY = 100


class UsageError(Exception):
    """What the user gave cannot be used."""


def _say(text: str) -> None:
    print(f"iris_client: {text}", file=sys.stderr, flush=True)


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="iris_client", description="A client for the Iris message relay.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--connect", required=True, metavar="HOST:PORT[,HOST:PORT]", help="the nodes to try")
    common.add_argument("--ca", required=True, metavar="FILE", help="the cluster's CA certificate (PEM)")
    common.add_argument("--token-file", metavar="FILE", help="holds the token; without it, IRIS_TOKEN does")
    common.add_argument("--device", help="the device's name, unless the token names one")
    common.add_argument("--deadline-s", type=_seconds, metavar="S", help="give up after so long")
    common.add_argument("--json", action="store_true", help="JSON lines (the only output there is)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("login", parents=[common], help="log in and say as whom")
    send = commands.add_parser("send", parents=[common], help="send messages and print their acknowledgements")
    send.add_argument("--to", metavar="USER", help="the recipient")
    send.add_argument("--key", metavar="UUID", help="the UUIDv7 of a single message")
    send.add_argument("--kind", type=int, default=0, help="the open tag (0)")
    send.add_argument("--in", dest="in_file", metavar="FILE", help='JSON lines {"to","body_base64","key"?}; - is stdin')
    send.add_argument("text", nargs="?", help="the message; - (or nothing) is one message per line of stdin")
    tail = commands.add_parser("tail", parents=[common], help="print the entries of the inbox")
    tail.add_argument("--from", dest="from_cursor", default="stored", metavar="stored|0|ID", help="after which entry")
    tail.add_argument("--follow", action="store_true", help="go on after everything there is has been printed")
    tail.add_argument("--ack", action="store_true", help="acknowledge what was printed")
    tail.add_argument("--count", type=int, metavar="N", help="end after N entries")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError
    return seconds


def _token(path: Optional[str]) -> str:
    if path:
        try:
            with open(path, encoding="ascii") as file:
                token = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the token file {path}: {getattr(error, 'strerror', 'it is not ASCII')}")
    else:
        token = os.environ.get("IRIS_TOKEN", "").strip()
    if not token:
        raise UsageError("no token; give --token-file FILE or set IRIS_TOKEN")
    return token


def _client(args: argparse.Namespace) -> Client:
    token = _token(args.token_file)
    try:
        return Client(args.connect.split(","), token, args.ca, args.device, deadline_s=args.deadline_s or 60.0)
    except ValueError as error:
        raise UsageError(str(error))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"cannot use the CA file {args.ca}: {error.strerror or error}")


def _key(text: str) -> uuid.UUID:
    try:
        return parse_key(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a UUIDv7")


def _login(args: argparse.Namespace) -> int:
    with _client(args) as client:
        welcome = client.login()
        _print(user=welcome.user, device=welcome.device, node=welcome.node, version=welcome.version)
    return DONE


def _stdin_lines(to: str) -> Iterator[Outgoing]:
    with _stdin() as file:
        for line in file:
            yield to, line[:-1] if line.endswith(b"\n") else line


def _stdin() -> BinaryIO:
    """Standard input, apart from sys.stdin, which cannot be closed at exit while a thread still reads it."""
    return open(sys.stdin.fileno(), "rb", closefd=False)


def _json_lines(path: str) -> Iterator[Outgoing]:
    try:
        file = _stdin() if path == "-" else open(path, "rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}")
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                to, body = fields["to"], base64.b64decode(fields["body_base64"], validate=True)
                key = parse_key(fields["key"]) if fields.get("key") else None
                if not isinstance(to, str):
                    raise TypeError
            except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
                raise UsageError(f"line {number} of {path} is not "
                                 '{"to": USER, "body_base64": BASE64} with an optional "key": UUIDv7')
            yield to, body, key


def _messages(args: argparse.Namespace) -> Iterator[Outgoing]:
    if args.in_file:
        if args.to or args.text or args.key:
            raise UsageError("--in FILE names recipients, bodies and keys itself; leave out --to, --key and the text")
        return _json_lines(args.in_file)
    if not args.to:
        raise UsageError("send needs --to USER, or --in FILE")
    key = _key(args.key) if args.key else None
    if args.text in (None, "-"):
        if key:
            raise UsageError("--key is for a single message, given as text")
        return _stdin_lines(args.to)
    return iter([(args.to, os.fsencode(args.text), key)])


def _print_receipt(receipt: Receipt) -> None:
    _print(key=str(receipt.key), to=receipt.recipient, id=receipt.id, status=receipt.status,
           duplicate=receipt.duplicate, sha256=receipt.body_sha256)


def _send(args: argparse.Namespace) -> int:
    messages = _messages(args)
    refused = 0
    with _client(args) as client:
        try:
            for receipt in client.send_many(messages, kind=args.kind):
                if receipt.status == "committed":
                    _print_receipt(receipt)
                else:
                    refused += 1
                    _say(receipt.reason or "a message was refused")
        except ValueError as error:
            raise UsageError(f"a message cannot be sent: {error}")
    return FAILED if refused else DONE


def _tail(args: argparse.Namespace) -> int:
    if args.from_cursor != "stored" and not (args.from_cursor.isascii() and args.from_cursor.isdigit()):
        raise UsageError("--from must be 'stored', 0 or the id of an entry")
    if args.count is not None and args.count < 1:
        raise UsageError("--count must be 1 or more")
    limit = None if args.deadline_s is None else time.monotonic() + args.deadline_s
    printed, cursor = 0, None
    with _client(args) as client:
        client.login()
        try:
            follow = client.follow(None if args.from_cursor == "stored" else int(args.from_cursor))
        except ValueError as error:
            raise UsageError(str(error))
        late: Optional[DeadlineExceeded] = None
        try:
            while args.count is None or printed < args.count:
                event = follow.next_event(None if limit is None else max(0.0, limit - time.monotonic()))
                if isinstance(event, Live):
                    if not args.follow:
                        break
                    continue
                _print_entry(event)
                printed, cursor = printed + 1, event.id
                if args.ack and printed % ACK_EVERY == 0:
                    client.ack(cursor)
        except DeadlineExceeded as error:
            late = error if client.connected else Unreachable("the deadline passed and no node was reachable")
        except KeyboardInterrupt:
            if not args.follow:
                raise
        if args.ack and cursor is not None and not isinstance(late, Unreachable):
            client.ack(cursor)
            client.wait_acked(cursor)
        if isinstance(late, Unreachable):
            raise late
        if late is not None:
            if args.count is not None:
                _say(f"only {printed} of {args.count} entries came before the deadline")
                return FAILED
            if not args.follow:
                _say(f"the end of the inbox was not reached before the deadline; {printed} entries were printed")
                return FAILED
    return DONE


def _print_entry(entry: Entry) -> None:
    _print(id=entry.id, sender=entry.sender, kind=entry.kind, key=str(entry.key),
           body_base64=base64.b64encode(entry.body).decode("ascii"), sha256=hashlib.sha256(entry.body).hexdigest())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs one command and returns its exit code."""
    argv: List[str] = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = _parser().parse_args(argv)
        return {"login": _login, "send": _send, "tail": _tail}[args.command](args)
    except UsageError as error:
        _say(str(error))
        return USAGE
    except Unreachable as error:
        _say(str(error))
        return UNREACHABLE
    except IrisError as error:
        _say(str(error))
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return FAILED
    except KeyboardInterrupt:
        _say("interrupted")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
