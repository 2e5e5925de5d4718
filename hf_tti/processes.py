"""Processes that train a run, each the leader of its own group: how they are started, told to stop and waited for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import psutil

_POLL_S = 0.1
_GRACE_S = 60.0  # for what a launcher left behind when it ended
LAUNCH_MODULE = "accelerate.commands.launch"


def start(
    argv: Sequence[str], log: BinaryIO, *, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> subprocess.Popen:
    """The process, its output going into `log`; `env` is laid over this process's environment."""
    return subprocess.Popen(
        list(argv),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )


def signal_run(pid: int, argv: Sequence[str], number: int) -> None:
    """Sends a signal to the run that a process of `start` trains, or to its ranks where the process is accelerate's
    launcher: that one dies of a SIGUSR1, and gives its ranks 30 s after a SIGTERM, too little for a large checkpoint.
    """
    ranks = []
    try:
        if LAUNCH_MODULE in argv:
            ranks = psutil.Process(pid).children()
        for process in ranks or [psutil.Process(pid)]:
            process.send_signal(number)
    except psutil.NoSuchProcess:
        pass  # it has ended


def _group_is_there(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_group(pid: int) -> int | None:
    """Waits for a child process and, for a minute, for what it left behind.

    Safe in a signal handler that interrupted another wait for the same process, unlike `Popen.wait`.

    Returns:
        The child's exit code, negative for a signal; None where it was waited for before.
    """
    code, ended = None, None
    while True:
        if ended is None:
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if done else None
            except ChildProcessError:
                done = pid
            ended = time.monotonic() if done else None
        if ended is not None and (not _group_is_there(pid) or time.monotonic() - ended > _GRACE_S):
            return code
        time.sleep(_POLL_S)
