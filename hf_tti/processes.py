"""Processes that train a run: how they are started, told to stop and waited for, and who started this one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # what ends a run
LAUNCHED_BY = "HF_TTI_LAUNCHED_BY"  # in the environment of ranks: the pid of the hf-tti that passes signals on to them
LOST = 128 + signal.SIGKILL  # exit code of a rank that another one left alone
_POLL_S = 0.1
_GRACE_S = 60.0  # for what a launcher left behind when it ended
_LAUNCHERS = {"accelerate", "accelerate-launch", "torchrun", "torch.distributed.run", "torch.distributed.launch"}
_LAUNCHERS |= {"accelerate.commands.launch", "accelerate.commands.accelerate_cli"}


@cache
def launched_by() -> int | None:
    """The pid of the `hf-tti train` that started this process as one of its ranks. Taken out of the environment, so
    that what this process starts is not taken for a rank.
    """
    pid = os.environ.pop(LAUNCHED_BY, "")
    return int(pid) if pid.isdigit() else None


def launcher() -> int | None:
    """The pid of the launcher that started this process (hf-tti train, hf-tti sweep, accelerate, torchrun): it does not
    outlive its runs by intent, and not all of them pass signals on. A shell may go, as with nohup.
    """
    if launched_by() is not None:
        return launched_by()
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    names = {Path(word).name for word in words}
    is_sweep = "sweep" in names and names & {"hf-tti", "hf_tti"}
    return os.getppid() if is_sweep or names & _LAUNCHERS else None


def start(
    argv: Sequence[str], log: BinaryIO, *, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> subprocess.Popen:
    """The process, leader of its own group, its output going into `log`; `env` is laid over this process's
    environment.
    """
    return subprocess.Popen(
        list(argv),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )


def signal_run(pid: int, number: int) -> None:
    """Sends a signal to a process of `start`, unless it has ended; one with several ranks passes it on to them."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


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
