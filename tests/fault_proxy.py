"""A proxy in front of the tests' S3 server that does what networks and stores do: fails, throttles, stalls, cuts off.

Faults are queued by the test, one a request that they apply to, or befall a share of all requests at random; all other
requests pass. The server behind is real.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

Fault = Literal["500", "503", "403", "clock", "token", "reset", "stall", "truncate", "lost answer", "pass"]
"""What befalls a request; `pass` leaves it alone, before others that meet a fault."""

_BODIES = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "403": (403, "AccessDenied", "Access Denied"),
    "clock": (403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."),
    "token": (400, "InvalidToken", "The provided token is malformed or otherwise invalid."),
}


_PASSING: dict[str, tuple[Fault, ...]] = {
    "GET": ("500", "503", "reset", "stall", "truncate"),
    "HEAD": ("500", "503", "reset", "stall"),
    "PUT": ("500", "503", "reset", "stall", "lost answer"),
    "POST": ("500", "503", "reset", "stall"),
    "DELETE": ("500", "503", "reset", "stall", "lost answer"),
}
"""What passes when the request is made again."""


class Request(NamedTuple):
    """A request that has come, whatever became of it; the path with its query, and some headers."""

    method: str
    path: str
    authorization: str | None
    byte_range: str | None = None
    copy_source: str | None = None


@dataclass
class FaultProxy:
    """What a test talks to.

    Args:
        endpoint: URL to configure as the endpoint of the store.
        stall_s: how long a stalled request is held.
        dropped_headers: in lower case, that do not reach the server.
        share: of the requests that meet a random fault.
        random: draws them.
        num_requests: that have come.
        met: the faults that have happened.
        seen: the requests that have come.
    """

    endpoint: str
    stall_s: float = 5.0
    dropped_headers: set[str] = field(default_factory=set)
    share: float = 0.0
    random: Random = field(default_factory=Random)
    num_requests: int = 0
    met: list[tuple[Fault, str, str]] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    _queue: list[tuple[Fault, str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, fault: Fault, method: str, part: str = "", times: int = 1) -> None:
        """Let the next `times` requests of this method with `part` in their path meet a fault."""
        with self._lock:
            self._queue += [(fault, method, part)] * times

    def forget(self) -> None:
        """Let everything pass again."""
        with self._lock:
            self._queue.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return what befalls a request."""
        with self._lock:
            self.num_requests += 1
            for planned in self._queue:
                if planned[1] == method and planned[2] in path:
                    self._queue.remove(planned)
                    self.met.append(planned)
                    return planned[0]
            if self.random.random() < self.share:
                fault = self.random.choice(_PASSING[method] if method in _PASSING else _PASSING["GET"])
                self.met.append((fault, method, path))
                return fault
        return None

    @property
    def is_empty(self) -> bool:
        """Say whether everything that was planned has happened."""
        return not self._queue


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""

    def handle_any(self) -> None:
        body = self._read_body()
        told = map(self.headers.get, ("Authorization", "Range", "x-amz-copy-source"))
        self.server.proxy.seen.append(Request(self.command, self.path, *told))
        fault = self.server.proxy.take(self.command, self.path)
        if fault == "reset":
            self._reset()
            return
        if fault == "stall":
            time.sleep(self.server.proxy.stall_s)
            self._reset()
            return
        if fault is not None and fault in _BODIES:
            self._refuse(*_BODIES[fault])
            return
        status, headers, content = self._forward(body)
        if fault == "lost answer":
            self._reset()
            return
        self._answer(status, headers, content, content[: len(content) // 2] if fault == "truncate" else content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        dropped = {"transfer-encoding", "expect", *self.server.proxy.dropped_headers}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(self.server.target.hostname or "", self.server.target.port, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], whole: bytes, sent: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(whole)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(whole)))
        self.end_headers()
        self.wfile.write(sent)
        if len(sent) < len(whole):
            self.wfile.flush()
            self._reset()

    def _refuse(self, status: int, code: str, message: str) -> None:
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], xml, b"" if self.command == "HEAD" else xml)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # either side has hung up
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: FaultProxy, target: SplitResult) -> None:
        self.proxy, self.target = proxy, target
        super().__init__(("127.0.0.1", 0), _Handler)


@contextmanager
def open_fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """Start a proxy in front of `endpoint`."""
    proxy = FaultProxy("")
    server = _Server(proxy, urlsplit(endpoint))
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="fault-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
