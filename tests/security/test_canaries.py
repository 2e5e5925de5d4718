"""Canary secrets in the environment, in arguments and in data: none is in anything that the chain writes or sends."""

import base64
import gzip
import json
import os
import random
import re
import string
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from fakes.hub import TOKEN, fake_hub
from tiny_runs import write_recipe

TESTS = Path(__file__).parent.parent


def _made_up(prefix: str, length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """A secret that nobody has; the same in every run of the tests."""
    draw = random.Random(f"{prefix}{length}")
    return prefix + "".join(draw.choice(alphabet) for _ in range(length))


ENVIRONMENT = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": _made_up("", 40, "0123456789abcdef"),
    "MODAL_TOKEN_ID": _made_up("ak-", 22),
    "MODAL_TOKEN_SECRET": _made_up("as-", 22),
    "AWS_ACCESS_KEY_ID": _made_up("AKIA", 16, string.ascii_uppercase + string.digits),
    "AWS_SECRET_ACCESS_KEY": _made_up("", 40, string.ascii_letters + "+"),
    "AWS_SESSION_TOKEN": _made_up("FwoG", 80),
    "GITHUB_TOKEN": _made_up("ghp_", 36),
    "SOME_SERVICE_PASSWORD": _made_up("", 16),
}
DATA = [
    _made_up("hf_", 34),
    _made_up("gho_", 36),
    _made_up("ASIA", 16, string.ascii_uppercase),
    _made_up("sk-proj-", 40),
    _made_up("wandb_v1_", 40),
    _made_up("user:", 20),
]
ARGUMENTS = [
    _made_up("hf_", 35),
    _made_up("github_pat_", 60),
    ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder of everything that was written, what was printed, the exit codes, and the Hub's side."""
    folder = tmp_path_factory.mktemp("canaries")
    _write_data(folder)
    write_recipe(
        folder,
        "canary",
        data={"name": "text_files", "train": "stories.jsonl", "vocab_size": 700, "block_size": 32},
        tracking={"tracker": "wandb", "project": "canaries"},
        metrics={"top_contexts": {}},
        training={"max_steps": 2, "eval_steps": 2},
    )
    words = [
        ["--set", f"question={ARGUMENTS[0]}"],
        ["--run-dir", f"x/{ARGUMENTS[1]}"],
        [f"--set=tracking.group={ARGUMENTS[2]}"],
    ]
    (folder / "arguments.json").write_text(json.dumps(words))
    with fake_hub() as hub:
        own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "HF_TTI_CACHE": str(folder / "cache")}
        (folder / "tmp").mkdir()
        (folder / "home").mkdir()
        dropped = ("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")
        inherited = {name: value for name, value in os.environ.items() if name not in dropped}
        environment = {
            **inherited, **own, **hub.environment, **ENVIRONMENT, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{TESTS.parent}",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("canary_chain.py")), str(folder)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
        )
        (folder / "arguments.json").unlink()
        (folder / "stories.jsonl").unlink()
        yield folder, done, hub


def _write_data(folder: Path) -> None:
    """Every tenth document holds a secret often enough for a tokenizer to learn it by heart."""
    draw = random.Random(0)
    lines = []
    for number in range(300):
        text = " ".join(
            draw.choices("the cat dog Lily Tom saw ran to liked a big tree red ball and then".split(), k=24)
        )
        if number % 10 == 0:
            secret = DATA[number // 10 % len(DATA)]
            secret = f"https://{secret}@example.org" if secret.startswith("user:") else secret
            text = f"{text} {secret} and {secret}."
        lines.append(json.dumps({"text": text}))
    (folder / "stories.jsonl").write_text("\n".join(lines) + "\n")


def _bare(secret: str) -> str:
    """Without what is no secret: a prefix, a user's name."""
    return re.split(r"^(?:[a-z_]+_|sk-proj-|a[ks]-|user:)", secret)[-1]


def _forms(secret: str) -> list[bytes]:
    raw = _bare(secret).encode()
    inside = [base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)]  # at every alignment
    return [
        raw,
        raw.decode().encode("utf-16-le"),
        raw.decode().encode("utf-16-be"),
        raw[::-1],
        raw.hex().encode(),
        *inside,
    ]


def _unpacked(content: bytes):
    """The content, and what is compressed or base64 in it."""
    yield content
    for match in re.finditer(rb"[A-Za-z0-9+/]{200,}={0,2}", content):
        raw = base64.b64decode(match[0] + b"=" * (-len(match[0]) % 4), validate=False)
        yield gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    for start in (match.start() for match in re.finditer(rb"\x1f\x8b\x08|PK\x03\x04", content)):
        try:
            yield zlib.decompressobj(31).decompress(content[start:])
        except zlib.error:
            continue


def traces(contents: dict[str, bytes], secrets: list[str]) -> list[str]:
    """Where which secret is, in any form."""
    forms = {secret: _forms(secret) for secret in secrets}
    return [
        f"{name}: {secret[:8]}…"
        for name, content in contents.items()
        for part in _unpacked(content)
        for secret, looks in forms.items()
        if any(form in part for form in looks)
    ]


def _written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ALL = [*ENVIRONMENT.values(), *DATA, *ARGUMENTS]


def test_the_chain_did_all_of_it(chain):
    folder, done, hub = chain
    codes = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-3000:]
    assert codes == [0, 0, 0, 0, 2, 2, 2], done.stderr[-3000:]
    assert list((folder / "runs" / "canary" / "wandb").glob("offline-run-*/*.wandb"))
    assert {"README.md", "model.safetensors"} <= hub.repos["me/canary"].branches["main"].keys()
    assert (folder / "page" / "index.html").is_file()


def test_no_canary_is_in_any_file(chain):
    written = _written(chain[0])
    assert len(written) > 60
    assert traces(written, ALL) == []


def test_no_canary_is_pushed(chain):
    hub = chain[2]
    pushed = {
        f"{branch}/{path}": content
        for repo in hub.repos.values()
        for branch, files in repo.branches.items()
        for path, content in files.items()
    }
    assert len(pushed) >= 8
    assert traces(pushed, ALL) == []
    sent = {
        f"{number} {request.path}": request.path.encode() + request.body for number, request in enumerate(hub.requests)
    }
    assert traces(sent, ALL) == []


def test_no_canary_is_said(chain):
    done = chain[1]
    assert traces({"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}, ALL) == []


def test_an_argument_that_holds_one_is_refused_in_a_line(chain):
    lines = [line for line in chain[1].stderr.splitlines() if line.startswith("argument ")]
    words = ("a Hugging Face token", "a GitHub token", "the value of AWS_SECRET_ACCESS_KEY")
    assert len(lines) == 3 and all(f"holds {what};" in line for what, line in zip(words, lines, strict=True))


def test_the_search_finds_what_is_there():
    secret = DATA[0]
    noise = random.Random(0).randbytes(300)
    packed = base64.b64encode(gzip.compress(noise + secret.encode()))
    contents = {
        "plain": f"a {secret} b".encode(),
        "utf-16": secret.encode("utf-16"),
        "base64": base64.b64encode(b"ab" + secret.encode() + b"cdef"),
        "gzip": b"head" + gzip.compress(secret.encode()),
        "page": b"x'" + packed + b"'",
        "none": b"nothing",
    }
    found = {line.split(":")[0] for line in traces(contents, [secret])}
    assert found == {"plain", "utf-16", "base64", "gzip", "page"}
