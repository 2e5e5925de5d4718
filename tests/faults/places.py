"""A callback for recipes, `places:Announce`: says where in its run a rank is, and stays there until it is let go.

What `PLACES_WANTED` names, "step:3" say, is announced by a file in the folder `PLACES_FOLDER`, beside each rank's pid;
the rank waits there, for a minute at most, until the folder has a file `go`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from transformers import TrainerCallback

import hf_tti.checkpoints
import hf_tti.saving

POINTS = {"optimizer written": "save", "weights written": "final"}
_PATIENCE_S = 60
_now = {"step": 0}


def here(place: str) -> None:
    """Announce and wait, where this place in this step is wanted; once."""
    folder, wanted = os.environ.get("PLACES_FOLDER"), os.environ.get("PLACES_WANTED")
    announcement = Path(folder or "") / f"at.{_rank()}"
    if folder is None or wanted != f"{place}:{_now['step']}" or announcement.exists():
        return
    announcement.touch()
    end = time.monotonic() + _PATIENCE_S
    while not (Path(folder) / "go").exists() and time.monotonic() < end:
        time.sleep(0.01)


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _reached(point: str) -> None:
    if point in POINTS:
        here(POINTS[point])


hf_tti.checkpoints.reached = hf_tti.saving.reached = _reached


class Announce(TrainerCallback):
    """Places "begin", "step" (between two micro-batches), "evaluation", "save" and "final" of a step."""

    def __init__(self) -> None:
        if "PLACES_FOLDER" in os.environ:
            staged = Path(os.environ["PLACES_FOLDER"]) / f".pid.{_rank()}"
            staged.write_text(str(os.getpid()))
            os.replace(staged, staged.with_name(f"pid.{_rank()}"))
        here("begin")

    def on_train_begin(self, args, state, control, **kwargs):
        _now["step"] = state.global_step

    def on_substep_end(self, args, state, control, **kwargs):
        here("step")

    def on_step_end(self, args, state, control, **kwargs):
        _now["step"] = state.global_step

    def on_prediction_step(self, args, state, control, **kwargs):
        here("evaluation")
