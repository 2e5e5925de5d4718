"""A control plane for each test, and `modal run` as a user would call it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fakes.modal import FakeModal

collect_ignore_glob = [] if importlib.util.find_spec("modal") else ["test_*.py"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cloud(tmp_path):
    from fakes.modal import fake_modal

    (tmp_path / "cloud").mkdir()
    with fake_modal(tmp_path / "cloud") as running:
        yield running


@pytest.fixture
def modal_run(cloud: FakeModal):
    """Calls the unmodified client: job, its options; `before`: options of `modal run` itself."""

    def run(job: str, *options: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "modal", "run", *before, f"modal_jobs/{job}.py", *options],
            cwd=ROOT,
            env={**os.environ, **cloud.environment, "COLUMNS": "300", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


STARTED = {"AppCreate", "ImageGetOrCreate", "FunctionCreate", "FunctionMap"}


@pytest.fixture
def refused(modal_run, cloud: FakeModal):
    """Asserts that a call ends with one line on standard error and the exit code of bad input; returns the line."""

    def call(job: str, *options: str, **others) -> str:
        done = modal_run(job, *options, **others)
        assert done.returncode == 2, done.stdout + done.stderr
        assert not STARTED & set(cloud.names())
        (line,) = done.stderr.splitlines()
        return line

    return call
