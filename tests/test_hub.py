"""Laws of a push, against a loopback server: only allowed files leave, a failure is retried, then
one line says how to finish."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tiny_runs import write_recipe

CANARY = "hf_canaryCanaryCanary"


class FakeHub(BaseHTTPRequestHandler):
    """The requests that creating a repository and one commit take; fails the first `failures`
    commits.
    """

    files: dict[str, bytes]
    failures: list[int]

    def log_message(self, *args) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/preupload/" in self.path:
            names = [item["path"] for item in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.answer({"url": "http://127.0.0.1/me/tiny", "name": "me/tiny"})

    def commit(self, body: bytes) -> None:
        if self.failures:
            self.answer({"error": "told to fail"}, self.failures.pop(0))
            return
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.answer(
            {
                "success": True,
                "commitOid": "a" * 40,
                "commitUrl": f"http://127.0.0.1/me/tiny/commit/{'a' * 40}",
            }
        )

    def do_GET(self) -> None:
        self.answer({"id": "me/tiny", "sha": "a" * 40, "siblings": []})

    def answer(self, value: dict, code: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def fake_hub(*failures: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    handler = type("Handler", (FakeHub,), {"files": {}, "failures": list(failures)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.files
    finally:
        server.shutdown()
        server.server_close()


_PUSH = """
import sys
from pathlib import Path
from hf_tti.errors import UserError
from hf_tti.hub import push_final
from hf_tti.recipe import load_recipe
from hf_tti.recipe.sections import HubSection
try:
    section = HubSection(push="final", repo="me/tiny")
    metrics = {"eval_perplexity": 12.5, "eval_sparsity/mean": None}
    print(push_final(section, Path(sys.argv[1]), load_recipe(sys.argv[2]), metrics, sleep=lambda s:
    None))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def final(tmp_path) -> Path:
    folder = tmp_path / "final"
    folder.mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training_args.bin",
        ".env",
        "notes.txt",
    ):
        (folder / name).write_text(f"content of {name}")
    return folder


def push(final: Path, endpoint: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": CANARY, "HF_HUB_DISABLE_XET": "1"}
    recipe = write_recipe(final.parent)
    command = [sys.executable, "-c", _PUSH, str(final), str(recipe)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("failures", [[], [503, 502, 429]], ids=["at once", "after three failures"])
def test_allowed_files_and_a_card_arrive_and_nothing_else(final, failures):
    with fake_hub(*failures) as (endpoint, files):
        done = push(final, endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{endpoint}/me/tiny"
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert files["model.safetensors"] == b"content of model.safetensors"
    card = files["README.md"].decode()
    assert "| perplexity | 12.50 |" in card and "n_layer: 2" in card and "library_name: transformers" in card
    assert CANARY not in card


@pytest.mark.parametrize("failures", [[503] * 4, [403]], ids=["down", "refused"])
def test_a_failed_push_is_one_line_with_the_command_that_finishes_it(final, failures):
    with fake_hub(*failures) as (endpoint, files):
        done = push(final, endpoint)
    assert done.returncode == 4
    assert files == {}
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"hf upload me/tiny {final}" in done.stderr
    assert CANARY not in done.stderr


def test_a_hub_that_is_not_there_is_exit_code_4(final):
    done = push(final, "http://127.0.0.1:9")
    assert done.returncode == 4, done.stderr
    assert "hf upload me/tiny" in done.stderr
