"""What the observing callbacks share: a clock that counts training only, and random numbers put
back as they were.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class TrainingClock:
    """Time between the first step after a log line and the next log line: evaluation and saving do
    not count.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._first_step = 0

    def step_begins(self, step: int) -> None:
        """Called before every step; `step` is the number of finished ones."""
        if self._start is None:
            self._start, self._first_step = time.perf_counter(), step

    def seconds_per_step(self, step: int) -> float | None:
        """Mean over the window that ends here, or None where it is empty. The next step opens a
        new window.
        """
        if self._start is None or step <= self._first_step:
            return None
        seconds = (time.perf_counter() - self._start) / (step - self._first_step)
        self._start = None
        return seconds


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators (CPU and current device) seeded inside and
    restored after.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
