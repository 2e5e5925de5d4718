"""A HuggingFace Hub on 127.0.0.1 for the unmodified client: repositories, branches, commits, downloads, collections.

    with fake_hub() as hub:                      # of the user `me`, who is in the organisation `lab`
        environment = os.environ | hub.environment
        hub.fail("POST", "/commit/", status(503), lost_reply())
What it answers is what huggingface_hub 1.33 and 2.4 were seen to send and to read; `hub.unknown` lists what it was
asked and does not know. A fault takes the place of one answer; `refuse()` closes the port, `accept()` opens it.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from fakes import hub_routes
from fakes.hub_store import Answer, Repo, Store

TOKEN = "hf_" + "fakeTokenOfMe" * 3
OTHER_TOKEN = "hf_" + "fakeTokenOfThem" * 3


@dataclass(frozen=True)
class Request:
    """What the client sent, and the status that it got (None: no answer)."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    token: str | None

    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Fault:
    """Instead of an answer: see `status`, `hang_up`, `stall`, `lost_reply`."""

    kind: str
    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def status(code: int, *, retry_after: int | None = None) -> Fault:
    """This status; nothing is done."""
    return Fault("status", code, {} if retry_after is None else {"Retry-After": str(retry_after)})


def hang_up() -> Fault:
    """The connection is cut in the middle of the request's body; nothing is done."""
    return Fault("hang_up")


def stall(seconds: float = 3600.0) -> Fault:
    """Nothing is read or answered any more, until the client gives up."""
    return Fault("stall", seconds=seconds)


def lost_reply() -> Fault:
    """The work is done, and the connection is cut before the answer."""
    return Fault("lost_reply")


class FakeHub:
    """The server's side: what it holds, what it was asked, and what goes wrong. Closed until it accepts.

    Attributes:
        store: users, repositories, collections. repos: `repos["me/tiny"].branches["main"]` is {path: bytes}.
        requests: in the order in which they came, without those that were refused at the port.
        decide: called with each request; a Fault takes the answer's place. After the queues of `fail`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self._port = reserved.getsockname()[1]
        self.forget()

    def forget(self) -> None:
        """As a Hub that nobody ever used, without faults."""
        self.store = Store({TOKEN: "me", OTHER_TOKEN: "them"}, orgs={"me": ["lab"], "them": []})
        self.requests: list[Request] = []
        self.statuses: list[int | None] = []
        self.unknown: list[tuple[str, str]] = []
        self.decide: Callable[[Request], Fault | None] | None = None
        self._queues: list[tuple[str, re.Pattern, list[Fault]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_open(self) -> bool:
        return self._server is not None

    @property
    def environment(self) -> dict[str, str]:
        """For a subprocess; the client reads it on import."""
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    @property
    def repos(self) -> dict[str, Repo]:
        return self.store.repos

    def fail(self, method: str, pattern: str, *faults: Fault) -> None:
        """The next requests of this method whose path has the regular expression get these, one each."""
        self._queues.append((method, re.compile(pattern), list(faults)))

    def heal(self) -> None:
        """No faults any more."""
        self._queues.clear()
        self.decide = None

    def accept(self) -> None:
        """Opens the port, always the same one."""
        if self._server is None:
            handler = type("Handler", (_Handler,), {"hub": self})
            self._closing.clear()
            self._server = _Server(("127.0.0.1", self._port), handler)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Closes the port and every connection: the client sees `connection refused`."""
        if self._server is not None:
            server, self._server = self._server, None
            self._closing.set()
            server.shutdown()
            server.server_close()
            for connection in list(self._sockets):
                _cut(connection)

    def fault_of(self, request: Request) -> Fault | None:
        with self._lock:
            for method, pattern, faults in self._queues:
                if faults and method == request.method and pattern.search(request.path):
                    return faults.pop(0)
        return self.decide(request) if self.decide is not None else None

    def answer(self, request: Request) -> Answer:
        with self._lock:
            found = hub_routes.answer(self.store, request, self.endpoint)
            if found is None:
                self.unknown.append((request.method, request.path))
                return Answer(404, {"error": "Sorry, we can't find the page you are looking for."})
            return found

    def log(self, request: Request, code: int | None) -> None:
        with self._lock:
            self.requests.append(request)
            self.statuses.append(code)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.accept()
    try:
        yield hub
    finally:
        hub.refuse()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request, client_address) -> None: ...  # connections that a client or a fault cut


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.hub._sockets.add(self.connection)

    def finish(self) -> None:
        self.hub._sockets.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *args) -> None: ...

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        head = Request(
            self.command,
            unquote(url.path),
            parse_qs(url.query),
            dict(self.headers),
            b"",
            token if scheme == "Bearer" else None,
        )
        fault = self.hub.fault_of(head)
        if fault is not None and fault.kind in ("hang_up", "stall"):
            self.body(half=True)
            self.hub.log(head, None)
            if fault.kind == "stall":
                self.hub._closing.wait(fault.seconds)
            self.cut()
            return
        request = Request(**{**head.__dict__, "body": self.body()})
        if fault is not None and fault.kind == "status":
            found = Answer(fault.code, {"error": f"told to answer {fault.code}"}, dict(fault.headers))
        else:
            found = self.hub.answer(request)
        if fault is not None and fault.kind == "lost_reply":
            self.hub.log(request, None)
            self.cut()
            return
        self.hub.log(request, found.code)
        self.send_response(found.code)
        for name, value in found.headers.items():
            self.send_header(name, value)
        content = found.content
        if "Content-Length" not in found.headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def body(self, *, half: bool = False) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if half:
                    return parts[0]
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size // 2 if half else size)

    def cut(self) -> None:
        self.close_connection = True
        _cut(self.connection)


def _cut(connection: socket.socket) -> None:
    """Closes at once, with a reset: what is in flight is lost."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
