"""`metrics.jsonl` in the run's folder: every log line as one JSON object, in the order of training.

A resumed run drops the lines beyond the step that it resumes from, so that every step is there
once. All values but `tokens_per_second` are reproducible; NaN and infinity become null.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_tti.callbacks._observe import TrainingClock
from hf_tti.console import complain
from hf_tti.run_folder import METRICS_FILE, write_text

_OF_THE_CLOCK = re.compile(r"(train|eval)(_\w+)?_(runtime|model_preparation_time|(samples|steps|tokens)_per_second)")
_SUMMARY = "train_runtime"  # the line that the Trainer logs when training ends


@dataclass(kw_only=True, eq=False)
class MetricsJsonl(TrainerCallback):
    """Appends every log line to `<output_dir>/metrics.jsonl`; always on in a run.

    Attributes:
        tokens_per_step: real tokens in one optimizer step over all processes, for
            `tokens_per_second`; set by the run.
    """

    def __post_init__(self) -> None:
        self.tokens_per_step: float | None = None
        self._clock = TrainingClock()
        self._is_over = False

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            truncate_metrics(Path(args.output_dir) / METRICS_FILE, state.global_step)
        self._is_over = False

    def on_step_begin(self, args, state, control, **kwargs):
        self._clock.step_begins(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self._is_over = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or _SUMMARY in logs:
            return
        line = {"step": state.global_step, **clean(logs)}
        seconds = self._clock.seconds_per_step(state.global_step) if "loss" in logs else None
        if seconds and self.tokens_per_step:
            line["tokens_per_second"] = round(self.tokens_per_step / seconds, 1)
        if self._is_over:
            line["final"] = True
        with open(Path(args.output_dir) / METRICS_FILE, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def clean(values: dict[str, float]) -> dict[str, float | None]:
    """The values without those that depend on the clock, as JSON knows them: null for NaN and
    infinity.
    """
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
        if not _OF_THE_CLOCK.fullmatch(key)
    }


def truncate_metrics(path: Path, step: int) -> None:
    """Keeps the lines that a run at `step` had written: none beyond it, no final evaluation, no torn last line.

    Lines that no run wrote, of a failing disk say, are dropped with a warning.
    """
    if not path.is_file():
        return
    *texts, torn = path.read_bytes().split(b"\n")
    lines = [(text, _line_of(text)) for text in texts if text]
    damaged = sum(line is None for _, line in lines)
    if damaged:
        complain(f"{path}: dropped {damaged} damaged line{'s' * (damaged > 1)}")
    if torn and (line := _line_of(torn)) is not None:
        lines.append((torn, line))
    kept = [text for text, line in lines if line is not None and line["step"] <= step and "final" not in line]
    write_text(path, "".join(f"{text.decode()}\n" for text in kept))


def _line_of(text: bytes) -> dict[str, Any] | None:
    """A line as `on_log` writes it, or None."""
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(line, dict) and type(line.get("step")) is int
    return line if is_ours else None
