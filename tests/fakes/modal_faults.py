"""What happens to the containers of `fakes.modal`: each fault comes in the middle of a training that holds for it.

A recipe with the callback `modal_hold:Hold` announces that it is at the end of the fault's step, and stays there until
the fault has reached it. A container that ends before it has announced anything has no fault.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modal_proto import api_pb2


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        after_step: of the training that the container runs; the end of its first step where it begins after that.
        happen: what is done to the container's process; returns what Modal would say of the attempt, or None.
        look: called while the training holds, before anything happens.
    """

    after_step: int
    happen: Callable[[subprocess.Popen], api_pb2.GenericResult | None]
    look: Callable[[], None] = _nothing

    def environment(self, announcement: Path) -> dict[str, str]:
        """For `modal_hold:Hold` in the container."""
        return {"HOLD_AFTER": str(self.after_step), "HOLD_FILE": str(announcement)}

    def come(self, process: subprocess.Popen, announcement: Path) -> api_pb2.GenericResult | None:
        """Waits for the training to hold, or to end without."""
        while not announcement.exists():
            if process.poll() is not None:
                return None
            time.sleep(0.01)
        self.look()
        return self.happen(process)


def preempt(after_step: int, look: Callable[[], None] = _nothing) -> Fault:
    """SIGINT, and SIGKILL 30 seconds later."""

    def happen(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            _kill([*_descendants(process.pid), process.pid])

    return Fault(after_step, happen, look)


def lose(after_step: int, look: Callable[[], None] = _nothing) -> Fault:
    """The machine is gone: SIGKILL for the container and all its processes."""

    def happen(process: subprocess.Popen) -> None:
        _kill([*_descendants(process.pid), process.pid])

    return Fault(after_step, happen, look)


def time_out(after_step: int, look: Callable[[], None] = _nothing) -> Fault:
    """The attempt's time is over."""

    def happen(process: subprocess.Popen) -> api_pb2.GenericResult:
        _kill([*_descendants(process.pid), process.pid])
        return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, exception="timeout")

    return Fault(after_step, happen, look)


def crash(after_step: int, look: Callable[[], None] = _nothing) -> Fault:
    """SIGKILL for what the body started, as where memory is out."""

    def happen(process: subprocess.Popen) -> None:
        _kill(_descendants(process.pid))

    return Fault(after_step, happen, look)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Of a process, the farthest first."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [*_descendants(int(child)), int(child)]
    return found
