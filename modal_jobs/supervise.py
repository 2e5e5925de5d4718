"""A child process inside a container: its output passed on, its checkpoints committed, told to stop when we are.

Modal ends a container by SIGINT (Python's KeyboardInterrupt here), 30 seconds, SIGKILL. The child lives in a session of
its own, so that the signal reaches it once, as a SIGTERM that asks for a checkpoint after the step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hf_tti.checkpoints import MANIFEST, checkpoints_of
from hf_tti.console import say
from modal_jobs.launch import KERNEL_WARNING

POLL_S = 1.0
GRACE_S = 20.0  # of Modal's 30; the rest is for the last commit
_TAIL_LINES = 200
_KERNEL_NOTE = (
    "accelerate's warning about the kernel is left out: Modal's containers run on gVisor, which reports 4.4.0 whatever "
    "the host has"
)


@dataclass(frozen=True)
class Ended:
    """A child that is over.

    Attributes:
        status: exit status; negative: the signal that ended it.
        tail: its last lines.
    """

    status: int
    tail: list[str]


def supervise(
    command: Sequence[str],
    *,
    run_dir: Path,
    commit: Callable[[], None],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    poll_s: float = POLL_S,
    grace_s: float = GRACE_S,
) -> Ended:
    """Runs a command to its end; `commit` is called after every newly published checkpoint and at the end.

    Args:
        run_dir: where checkpoints appear.
        grace_s: that the child has for its last checkpoint, once this process is told to stop.

    Raises:
        BaseException: what told this process to stop (KeyboardInterrupt, a cancelled input), after the child has ended
            and what it saved is committed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=cwd,
        env=None if environment is None else {**os.environ, **environment},
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    pump = threading.Thread(target=_pass_on, args=(process.stdout, tail), daemon=True)
    pump.start()
    try:
        with _noting_interrupts() as check:
            _watch(process, run_dir, commit, poll_s, check)
    except BaseException:
        _stop(process, grace_s)
        commit()
        raise
    _end_group(process)  # a rank or a data loader that outlived the launcher
    pump.join(timeout=grace_s)
    commit()
    return Ended(process.returncode, list(tail))


def published(run_dir: Path) -> set[tuple[str, int]]:
    """Name of each checkpoint that has its manifest, which is written last, and the manifest's inode."""
    found = set()
    for folder in checkpoints_of(run_dir):
        try:
            found.add((folder.name, (folder / MANIFEST).stat().st_ino))
        except FileNotFoundError:
            pass  # not whole, or rotated out just now
    return found


@contextmanager
def _noting_interrupts() -> Iterator[Callable[[], None]]:
    """Yields a check that raises the KeyboardInterrupt of a SIGINT that came: Modal's blocking calls swallow it where
    they are answered at that moment.
    """
    noted = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if noted:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(
    process: subprocess.Popen,
    run_dir: Path,
    commit: Callable[[], None],
    poll_s: float,
    check: Callable[[], None],
) -> None:
    committed = published(run_dir)
    while process.poll() is None:
        try:
            process.wait(timeout=poll_s)
        except subprocess.TimeoutExpired:
            now = published(run_dir)
            if now - committed:
                try:
                    commit()
                    committed = now
                except RuntimeError as error:  # open files; the next round, or the end, commits it
                    say(f"the Volume was not committed: {' '.join(str(error).split())}")
                check()


def _stop(process: subprocess.Popen, grace_s: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        say(f"the training did not end within {grace_s:g} s; its last published checkpoint counts")
    _end_group(process)
    process.wait()


def _end_group(process: subprocess.Popen) -> None:
    """Ends what is left of the child's session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _pass_on(stream: BinaryIO, tail: deque[str]) -> None:
    """Each line to standard output and into `tail`."""
    explained = False
    for raw in stream:
        line = raw.decode("utf-8", errors="replace").rstrip("\n")
        if KERNEL_WARNING.search(line):
            if explained:
                continue
            line, explained = _KERNEL_NOTE, True
        tail.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
