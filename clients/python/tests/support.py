"""A scripted Iris node over TLS on loopback, and throw-away certificates for it. Used by the tests only."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Callable, List, Optional, Type, TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from iris_client import frames  # noqa: E402
from iris_client.frames import CLIENT_FRAMES, Frame, FrameBuffer, Hello, Ping, Pong, Welcome, encode  # noqa: E402

OPENSSL = shutil.which("openssl")
TOKEN = "e30.e30.c2ln"
F = TypeVar("F", bound=Frame)


class Certificates:
    """A CA and a leaf certificate in a temporary folder."""

    def __init__(self, name: str = "iris.internal") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        (self.folder / "leaf.ext").write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._openssl("req", *new_key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=iris")
        self._openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-out", "leaf.pem", "-days", "2", "-extfile", "leaf.ext")
        chain = (self.folder / "leaf.pem").read_text() + (self.folder / "ca.pem").read_text()
        (self.folder / "chain.pem").write_text(chain)
        self.ca_file = str(self.folder / "ca.pem")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([OPENSSL or "openssl", *arguments], cwd=self.folder, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def server_context(self, alpn: Optional[str] = "iris/2") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "chain.pem", self.folder / "leaf.key")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def close(self) -> None:
        self._folder.cleanup()


class Conn:
    """One accepted connection, for a script to speak on. PINGs are answered by the way."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._buffer = FrameBuffer(CLIENT_FRAMES)
        self._waiting: List[Frame] = []
        self.hello: Optional[Hello] = None

    def any(self) -> Frame:
        """The next frame; EOFError once the client closed."""
        while True:
            while not self._waiting:
                data = self._sock.recv(65_536)
                if not data:
                    raise EOFError
                self._waiting += self._buffer.feed(data)
            frame = self._waiting.pop(0)
            if not isinstance(frame, Ping):
                return frame
            self.send(Pong(frame.nonce))

    def expect(self, kind: Type[F]) -> F:
        frame = self.any()
        assert isinstance(frame, kind), f"expected {kind.__name__}, got {frame!r}"
        return frame

    def send(self, *outgoing: Frame) -> None:
        self._sock.sendall(b"".join(encode(frame) for frame in outgoing))

    def raw(self, data: bytes) -> None:
        self._sock.sendall(data)

    def login(self, window: int = 1024, *more: Frame) -> "Conn":
        """HELLO and WELCOME."""
        self.hello = self.expect(Hello)
        self.send(Welcome(2, 1, "bob", self.hello.device or "default", window, 300_000), *more)
        return self

    def until_bye(self) -> None:
        """Reads on until BYE or the end."""
        try:
            while not isinstance(self.any(), frames.Bye):
                pass
        except (EOFError, OSError):
            pass


class FakeNode:
    """Serves each connection with the next script. A failed script is kept in `failures`."""

    def __init__(self, certificates: Certificates, *scripts: Callable[[Conn], None], alpn: Optional[str] = "iris/2") -> None:
        self._context = certificates.server_context(alpn)
        self._scripts = list(scripts)
        self.failures: List[str] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for script in self._scripts:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            plain.settimeout(10)
            try:
                with self._context.wrap_socket(plain, server_side=True) as sock:
                    script(Conn(sock))
            except (AssertionError, EOFError) as error:
                self.failures.append("".join(traceback.format_exception(type(error), error, error.__traceback__)))
            except OSError:
                pass  # the script cut the connection, or the client did
        self._finished.set()

    def stop(self) -> None:
        """Stops listening, whatever is still to be served."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def close(self, wait_s: float = 10.0) -> None:
        """Waits for the scripts to end, and raises what failed in one."""
        done = self._finished.wait(wait_s)
        self.stop()
        assert not self.failures, "\n".join(self.failures)
        assert done, f"only {self.connections} of {len(self._scripts)} connections were made and served"


def environment() -> "dict[str, str]":
    """For a child process that runs the command line."""
    return {**os.environ, "PYTHONPATH": str(HERE.parent), "IRIS_TOKEN": TOKEN}
