"""One TLS connection to one node: made, logged in, pumped, and watched for silence.

Owns the socket, the bytes not yet written, and the deadlines of the connection itself. Knows frames but gives them no
meaning beyond HELLO, WELCOME, PING and PONG; what to send and what an answer means is the client's business.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from typing import List, Optional, Tuple

from .errors import ConnectionEnded, ProtocolError, ServerError, code_name, is_retryable
from .frames import VERSION, Error, Frame, FrameBuffer, Hello, Ping, Pong, Welcome, encode

SERVER_NAME = "iris.internal"
ALPN = "iris/2"
SOFTWARE = "iris-python/1"

CONNECT_S = 5.0         # TCP and TLS, each
LOGIN_S = 10.0          # HELLO to WELCOME
QUIET_S = 10.0          # nothing received for so long: PING
SILENT_S = 10.0         # nothing received for so long after a PING: the connection is dead
WRITE_STALL_S = 30.0    # the server takes no bytes for so long: the connection is dead
CHUNK = 16_384
READ_AT_ONCE = 64


def make_context(ca_file: str) -> ssl.SSLContext:
    """TLS 1.3 or later, the cluster's CA as the only root, and ALPN iris/2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the host name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols([ALPN])
    return context


def parse_address(text: str) -> Tuple[str, int]:
    """`host:port`, or `[v6]:port`, as a pair. Raises ValueError with a sentence."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{text}' is not host:port (an IPv6 host goes into brackets)")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"'{text}' is not host:port")
    return host, int(port)


class Session:
    """One connection. All methods are for the one thread that runs it."""

    def __init__(self, sock: ssl.SSLSocket, address: str) -> None:
        self.address = address
        self.welcome: Optional[Welcome] = None
        self._sock = sock
        self._frames = FrameBuffer()
        self._out = bytearray()
        self._chunk = b""           # handed to TLS, to be handed in again unchanged until it is taken
        self._broken_write: Optional[Exception] = None
        self._ended: Optional[ConnectionEnded] = None
        self._pings = 0
        self._ping_at: Optional[float] = None
        self._sent_at = self._received_at = self._wrote_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        sock.setblocking(False)
        self._wanted = selectors.EVENT_READ
        self._selector.register(sock, self._wanted)
        self._early: List[Frame] = []  # frames that came in one piece with WELCOME

    @classmethod
    def connect(cls, address: str, context: ssl.SSLContext, token: str, device: str, wake: socket.socket) -> "Session":
        """Dials, shakes hands and logs in. Raises ConnectionEnded (try again) or ServerError (do not)."""
        session = cls(_dial(address, context), address)
        try:
            session._login(Hello(VERSION, VERSION, token, device, SOFTWARE), wake)
        except BaseException:
            session.close()
            raise
        return session

    def _login(self, hello: Hello, wake: socket.socket) -> None:
        self._selector.register(wake, selectors.EVENT_READ)
        self.queue(hello)
        deadline = time.monotonic() + LOGIN_S
        while True:
            now = time.monotonic()
            if now >= deadline:
                raise ConnectionEnded(f"{self.address}: no WELCOME within {LOGIN_S:.0f} s")
            frames = self.poll(deadline - now)
            for at, frame in enumerate(frames):
                if not isinstance(frame, Welcome):
                    raise_if_error(frame)
                    raise ConnectionEnded(f"{self.address}: {type(frame).__name__} before WELCOME")
                if frame.version != VERSION:
                    raise ConnectionEnded(f"{self.address}: the server chose version {frame.version}")
                self.welcome = frame
                self._early = frames[at + 1:]
                return

    def queue(self, frame: Frame) -> None:
        """Puts a frame behind what is still to be written."""
        self._out += encode(frame)

    @property
    def unwritten(self) -> int:
        """Bytes queued and not yet taken by TLS."""
        return len(self._out) + len(self._chunk)

    def poll(self, timeout_s: float) -> List[Frame]:
        """Writes what it can and reads what is there, waiting up to `timeout_s` (or until woken) if nothing is.

        Raises ConnectionEnded, but never before the frames that came ahead of the end have been returned.
        """
        if self._early:
            early, self._early = self._early, []
            return early
        self._write()
        self._watch()
        frames = self._read()
        if frames or self._ended:
            return self._deliver(frames)
        wanted = selectors.EVENT_READ
        if self.unwritten and self._broken_write is None:
            wanted |= selectors.EVENT_WRITE
        if wanted != self._wanted:
            self._wanted = wanted
            self._selector.modify(self._sock, wanted)
        for key, _ in self._selector.select(max(0.0, min(timeout_s, 1.0))):
            if key.fileobj is not self._sock:
                drain(key.fileobj)  # type: ignore[arg-type]
        self._write()
        return self._deliver(self._read())

    def _deliver(self, frames: List[Frame]) -> List[Frame]:
        if not frames and self._ended:
            raise self._ended
        return frames

    def _write(self) -> None:
        while self._broken_write is None and self.unwritten:
            if not self._chunk:
                self._chunk = bytes(self._out[:CHUNK])
                del self._out[:CHUNK]
            try:
                sent = self._sock.send(self._chunk)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except (OSError, ValueError) as error:
                self._broken_write = error  # an ERROR frame may still be there to be read
                return
            self._chunk = self._chunk[sent:]
            self._sent_at = self._wrote_at = time.monotonic()
        self._wrote_at = time.monotonic()

    def _read(self) -> List[Frame]:
        frames: List[Frame] = []
        for _ in range(READ_AT_ONCE):
            if self._ended:
                break
            try:
                data = self._sock.recv(65_536)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self._broken_write is not None:
                    self._end(f"the connection broke: {self._broken_write}")
                break
            except (OSError, ValueError) as error:
                self._end(f"the connection broke: {error}")
                break
            if not data:
                self._end("the server closed the connection")
                break
            self._received_at = time.monotonic()
            self._ping_at = None
            try:
                for frame in self._frames.feed(data):
                    frames.append(frame)
            except ProtocolError as error:
                self._end(f"the server broke the protocol: {error}")
        return [frame for frame in frames if not isinstance(frame, Pong)]

    def _watch(self) -> None:
        """PINGs a quiet connection, and ends one that stays silent or takes nothing."""
        now = time.monotonic()
        if self.unwritten and now - self._wrote_at > WRITE_STALL_S:
            self._end(f"the server took no bytes for {WRITE_STALL_S:.0f} s")
        if self._ping_at is not None:
            if now - self._ping_at > SILENT_S:
                self._end(f"the server was silent for {now - self._received_at:.0f} s")
        elif self.welcome is not None:
            # 0 is not described; it is read as "no limit".
            idle_s = self.welcome.idle_ms_max / 1000 or QUIET_S * 3
            if now - self._received_at > min(QUIET_S, idle_s / 3) or now - self._sent_at > idle_s / 3:
                self._pings += 1
                self._ping_at = self._sent_at = now
                self.queue(Ping(self._pings))

    def _end(self, why: str) -> None:
        if self._ended is None:
            self._ended = ConnectionEnded(f"{self.address}: {why}")

    def close(self) -> None:
        """Closes the socket at once. To leave politely, send BYE and poll until the server closes."""
        self._selector.close()
        self._sock.close()


def raise_if_error(frame: Frame) -> None:
    """Turns an ERROR into ConnectionEnded (reconnect) or ServerError (final)."""
    if isinstance(frame, Error):
        if is_retryable(frame.code):
            raise ConnectionEnded(f"the server ended the connection: {code_name(frame.code)}: {frame.reason}",
                                  frame.retry_after_ms)
        raise ServerError(frame.code, frame.reason)


def drain(wake: socket.socket) -> None:
    """Empties the wake-up socket."""
    try:
        while wake.recv(4096):
            pass
    except BlockingIOError:
        pass


def _dial(address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    host, port = parse_address(address)
    try:
        plain = socket.create_connection((host, port), timeout=CONNECT_S)
    except OSError as error:
        raise ConnectionEnded(f"{address}: cannot connect: {error}") from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(CONNECT_S)
        sock = context.wrap_socket(plain, server_hostname=SERVER_NAME)  # the handshake, within that deadline
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise ConnectionEnded(f"{address}: the certificate does not fit the CA or the name {SERVER_NAME}: "
                              f"{error.verify_message}") from None
    except (OSError, ValueError) as error:
        plain.close()
        raise ConnectionEnded(f"{address}: the TLS handshake failed: {error}") from None
    if sock.selected_alpn_protocol() != ALPN:
        sock.close()
        raise ConnectionEnded(f"{address}: the server does not speak {ALPN}")
    return sock
