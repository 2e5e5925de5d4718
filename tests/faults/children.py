"""Forked children of a process that has imported everything: a training starts in a fraction of a second.

The parent stays single-threaded and runs no torch operation itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from hf_tti.errors import UserError

CRASHED = 70
KILLED = -signal.SIGKILL

torch.set_num_threads(1)


def start(work: Callable[[], None], log: Path) -> int:
    """The pid of a child that does `work`, its output in `log`, and exits 0, a UserError's code or CRASHED."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = CRASHED
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        work()
        code = 0
    except UserError as error:
        print(f"UserError: {error}", flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, *, seconds: float | None = None) -> int | None:
    """The exit code (negative: the signal that ended it), or None where it still runs after `seconds`."""
    if seconds is None:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left = end - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(left, 0.002))


def kill(pid: int) -> int:
    """Send SIGKILL; its exit code."""
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def run(work: Callable[[], None], log: Path) -> int:
    """Start and wait."""
    return wait(start(work, log))


def last_line(log: Path) -> str:
    """The last line that a child said."""
    lines = log.read_text().strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else ""
