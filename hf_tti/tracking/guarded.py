"""A tracker's callback that cannot end a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from hf_tti.console import complain


class Guarded(TrainerCallback):
    """Passes on what happens until the tracker raises; that is said, and the training goes on without it."""

    def __init__(self, tracker: str, callback: TrainerCallback):
        self._tracker = tracker
        self._callback: TrainerCallback | None = callback

    def _pass_on(self, event: Callable[[TrainerCallback], Any]) -> None:
        if self._callback is None:
            return
        try:
            event(self._callback)
        except Exception as error:  # whatever the tracker raises
            self._callback = None
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            complain(f"{self._tracker} failed ({reason}); the curves go on in the run's own log file")

    def on_train_begin(self, args, state, control, **kwargs):
        self._pass_on(lambda callback: callback.on_train_begin(args, state, control, **kwargs))

    def on_log(self, args, state, control, **kwargs):
        self._pass_on(lambda callback: callback.on_log(args, state, control, **kwargs))

    def on_train_end(self, args, state, control, **kwargs):
        self._pass_on(lambda callback: callback.on_train_end(args, state, control, **kwargs))
