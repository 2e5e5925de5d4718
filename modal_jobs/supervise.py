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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
    with _Stops() as stops:
        try:
            _watch(process, run_dir, commit, poll_s, stops)
        except BaseException:
            _stop(process, grace_s)
            _is_committed(commit)
            pump.join(timeout=grace_s)
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


class _Stops:
    """SIGINT, by which Modal takes the container away, and SIGUSR1, by which it cancels the input.

    The first one raises what it did before, and `check` raises it again: Modal's blocking calls swallow it where they
    are answered at that moment. Those after it do nothing, so that the child has its time.
    """

    def __init__(self):
        self._before: dict[int, Any] = {}
        self._noted: int | None = None

    def __enter__(self) -> _Stops:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
            if callable(signal.getsignal(signal.SIGUSR1)):
                self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self._noted is None:
            self._noted = number
            self.check()

    def check(self) -> None:
        if self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        if self._noted is not None:
            self._before[self._noted](self._noted, None)


def _watch(process: subprocess.Popen, run_dir: Path, commit: Callable[[], None], poll_s: float, stops: _Stops) -> None:
    committed = published(run_dir)
    while process.poll() is None:
        try:
            process.wait(timeout=poll_s)
        except subprocess.TimeoutExpired:
            now = published(run_dir)
            if now - committed:
                if _is_committed(commit):
                    committed = now
                stops.check()


def _is_committed(commit: Callable[[], None]) -> bool:
    """Says why not where the commit fails; the next round, the end, or Modal at the container's end, does it then."""
    try:
        commit()
    except Exception as error:  # open files, a server that fails: nothing that the training should end for
        say(f"the Volume was not committed: {' '.join(str(error).split()) or type(error).__name__}")
        return False
    return True


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
