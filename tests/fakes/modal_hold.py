"""A callback for recipes, `modal_hold:Hold`: at the end of the step that a fault of `fakes.modal_faults` waits for, the
training announces itself by a file and stays there until a signal has come. So the fault meets it in that step, however
fast the training is and however busy the machine.

`HOLD_AFTER` is the step, or a later one where the attempt begins later; `HOLD_FILE` the file. Without them it does
nothing. `fakes.modal` copies this file into its containers.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from pathlib import Path

from transformers import TrainerCallback

_PATIENCE_S = 60  # for a fault that does not come, which is a mistake of the test


class Hold(TrainerCallback):
    """Of the first rank; the others wait for it at the end of their step."""

    def on_step_end(self, args, state, control, **kwargs):
        after, announcement = os.environ.get("HOLD_AFTER"), Path(os.environ.get("HOLD_FILE", ""))
        if after is None or not state.is_world_process_zero or state.global_step < int(after) or announcement.exists():
            return
        _announce_and_wait(announcement)


def _announce_and_wait(announcement: Path) -> None:
    """Until the handler of a signal has run in this process, which is its main thread."""
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno())
    try:
        announcement.touch()
        if not select.select([ours], [], [], _PATIENCE_S)[0]:
            raise RuntimeError(f"no signal came within {_PATIENCE_S} s of {announcement}")
    finally:
        signal.set_wakeup_fd(before)
        ours.close()
        pythons.close()
