"""A W&B server on 127.0.0.1, as far as wandb 0.31's own client asks: runs, files, artifacts, sweeps and agents.

The answers are those that `wandb-core` was seen to need, by the names of the GraphQL operations that it sends. What it
sends is kept: `runs`, `artifacts`, `sweeps`, and every request. `fault` decides per request what goes wrong.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fakes.wandb_answers import ANSWERS, ENTITY, Artifact, Run, Sweep

KEY = "canary0123456789abcdef0123456789abcdef01"
STALL = 0  # a fault: the request is read and never answered


@dataclass(frozen=True)
class Request:
    """What the client asked.

    Attributes:
        operation: of GraphQL, else empty.
        key: the API key that it came with.
    """

    method: str
    path: str
    operation: str
    key: str


Fault = Callable[[Request], int | None]


class FakeWandb(ThreadingHTTPServer):
    """The server and what it was sent. `fault` gives the HTTP status to answer with, STALL, or None."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)):
        super().__init__(address, _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.fault: Fault = lambda request: None
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.sweeps: dict[str, Sweep] = {}
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        self._connections: set[socket.socket] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it and nothing else."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ENTITY": ENTITY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }

    def get_request(self):
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Clients that went away are no news."""

    def refuse(self) -> None:
        """Nobody listens any more, and open connections are cut."""
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.released.set()

    def answer(self, operation: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The `data` of one GraphQL operation."""
        with self.lock:
            return ANSWERS[operation](self, variables) if operation in ANSWERS else {}

    def run(self, project: str, name: str) -> Run:
        """The run of that id, new where nobody named it yet."""
        return self.runs.setdefault(name, Run(name, project))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def log_message(self, *arguments):
        """Requests are kept, not printed."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if self.path == "/graphql" else {}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
        request = Request(self.command, self.path, operation[1] if operation else "", self._key())
        with self.server.lock:
            self.server.requests.append(request)
            self.server.bodies.append(body)
        status = self.server.fault(request)
        if status == STALL:
            self.server.released.wait()
            self.close_connection = True
        elif status is not None:
            self._send({"error": f"HTTP {status}"}, status)
        elif self.path == "/graphql":
            self._send({"data": self.server.answer(request.operation, asked.get("variables") or {})})
        else:
            self._send(self._take_file(body))

    do_GET = do_POST = do_PUT = _handle

    def _key(self) -> str:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(value).decode().removeprefix("api:") if kind == "Basic" else value

    def _take_file(self, body: bytes) -> dict[str, Any]:
        if stream := re.fullmatch(r"/files/.*?([^/]+)/([^/]+)/file_stream", self.path):
            with self.server.lock:
                self._take_lines(self.server.run(*stream.groups()), json.loads(body))
            return {"exitcode": None, "limits": {}}
        kind, name, path = self.path[1:].split("/", 2)
        with self.server.lock:
            if kind == "run":
                self.server.runs[name].files[path] = body
            else:
                self.server.artifacts[int(name)].files[path] = body
        return {}

    def _take_lines(self, run: Run, sent: Mapping[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines, offset = run.lines.setdefault(name, []), part["offset"]
            if name == "wandb-summary.json":
                lines[:] = part["content"]
            else:
                lines[offset : offset + len(part["content"])] = part["content"]
        if sent.get("complete"):
            run.is_complete, run.exit_code = True, sent.get("exitcode")

    def _send(self, answer: Mapping[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    """A server for as long as this lasts."""
    server = FakeWandb()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.refuse()
        thread.join()
