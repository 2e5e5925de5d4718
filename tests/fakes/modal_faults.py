"""What happens to the containers of `fakes.modal`: each fault waits for `when()` and says what Modal would, or None."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from modal_proto import api_pb2

Fault = Callable[[subprocess.Popen], api_pb2.GenericResult | None]


def preempt(when: Callable[[], bool]) -> Fault:
    """SIGINT as soon as `when()`, SIGKILL 30 seconds later."""

    def fault(process: subprocess.Popen) -> None:
        _wait(process, when)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            _kill([*_descendants(process.pid), process.pid])

    return fault


def lose(when: Callable[[], bool]) -> Fault:
    """The machine is gone as soon as `when()`: SIGKILL for the container and all its processes."""

    def fault(process: subprocess.Popen) -> None:
        _wait(process, when)
        _kill([*_descendants(process.pid), process.pid])

    return fault


def time_out(when: Callable[[], bool]) -> Fault:
    """The attempt's time is over as soon as `when()`."""

    def fault(process: subprocess.Popen) -> api_pb2.GenericResult:
        lose(when)(process)
        return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, exception="timeout")

    return fault


def crash(when: Callable[[], bool]) -> Fault:
    """SIGKILL for what the body started (as where memory is out), as soon as `when()`."""

    def fault(process: subprocess.Popen) -> None:
        _wait(process, when)
        _kill(_descendants(process.pid))

    return fault


def _wait(process: subprocess.Popen, when: Callable[[], bool]) -> None:
    while process.poll() is None and not when():
        time.sleep(0.01)


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
