"""What a run says while it trains: a bar on a terminal, a plain line for each log line everywhere
else.

`step 200/1000  loss 3.211  ce 3.052  orthogonality 0.1592  12.3k tokens/s  1:23 left`, where an
objective shows its value before the weight.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tqdm import tqdm
from transformers import TrainerCallback

from hf_tti.callbacks._observe import TrainingClock
from hf_tti.console import say
from hf_tti.table import duration, format_number, headline_metrics


@dataclass(kw_only=True, eq=False)
class ProgressLine(TrainerCallback):
    """Takes the place of transformers' progress callbacks; always on in a run.

    Args:
        bar: a bar at the bottom of the terminal; None means where standard error is a terminal.

    Attributes:
        tokens_per_step: real tokens in one optimizer step over all processes, for tokens/s; set by
            the run.
    """

    bar: bool | None = field(default=None, metadata={"help": "Show a bar; default: on a terminal."})

    def __post_init__(self) -> None:
        self.tokens_per_step: float | None = None
        self._clock = TrainingClock()
        self._bar: tqdm | None = None
        self._max_steps = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._max_steps = state.max_steps
        show = sys.stderr.isatty() if self.bar is None else self.bar
        if show and state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_begin(self, args, state, control, **kwargs):
        self._clock.step_begins(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            say("  ".join([self._step(state.global_step), *self._training(logs, state.global_step)]))
        elif "eval_loss" in logs:
            say("  ".join([self._step(state.global_step), "evaluation", *evaluation_words(logs)]))

    def _step(self, step: int) -> str:
        total = str(self._max_steps)
        return f"step {step:>{len(total)}}/{total}"

    def _training(self, logs: dict[str, float], step: int) -> list[str]:
        words = [f"loss {format_number(logs['loss'])}"]
        if "ce_loss" in logs:
            words.append(f"ce {format_number(logs['ce_loss'])}")
        for key, value in logs.items():
            if key.startswith("objective/") and key.count("/") == 1:
                words.append(f"{key.removeprefix('objective/')} {format_number(value)}")
        seconds = self._clock.seconds_per_step(step)
        if seconds:
            if self.tokens_per_step:
                words.append(f"{_short(self.tokens_per_step / seconds)} tokens/s")
            words.append(f"{duration((self._max_steps - step) * seconds)} left")
        return words


def evaluation_words(metrics: Mapping[str, float | None]) -> list[str]:
    """`loss 3.2`, `perplexity 24.5` and the mean of each interpretability metric."""
    values = {"loss": metrics["eval_loss"], **headline_metrics(metrics)}
    return [f"{name} {format_number(value)}" for name, value in values.items()]


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"
