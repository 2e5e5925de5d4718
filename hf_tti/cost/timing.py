"""How long a run takes on this machine, from a few of its own steps, one evaluation and one checkpoint.

wall = rest + steps · s + evaluations · e + checkpoints · c.  s: the mean step after the first few; e: a pass over the
validation rows, taken from its beginning where they are many; c: a checkpoint; rest: all else that the measurement
took (data, model, first steps, stories, saving). One process, the trainer and the data that `hf-tti train` would use.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from hf_tti.callbacks.early_stopping import EarlyStopping
from hf_tti.cost.estimate import CostEstimate, Schedule, count_work, schedule_of
from hf_tti.cost.gpus import find_gpu
from hf_tti.cost.memory import estimate_memory, precision_of
from hf_tti.cost.speed import model_of
from hf_tti.data import DataConfig, PreparedData, prepare_data
from hf_tti.errors import UserError
from hf_tti.from_recipe import build_arguments
from hf_tti.recipe import Recipe
from hf_tti.run import build_trainer
from hf_tti.run_folder import resolve_paths
from hf_tti.trainer import InterpTrainer

WARM_UP_STEPS = 3
_OF_THE_WHOLE_RUN = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_on_start")


@dataclass(frozen=True)
class Measurement:
    """Seconds on this machine.

    Attributes:
        step: of an optimizer step, the mean. evaluation: of a pass over all validation rows. checkpoint: of one.
        rest: of a run without those.
        num_steps: steps that were timed.
    """

    step: float
    evaluation: float
    checkpoint: float
    rest: float
    num_steps: int

    def wall(self, schedule: Schedule, num_checkpoints: int) -> float:
        """Seconds of a run with this schedule."""
        return (
            self.rest
            + schedule.num_steps * self.step
            + schedule.num_evaluations * self.evaluation
            + num_checkpoints * self.checkpoint
        )


class StepClock(TrainerCallback):
    """Notes when optimizer steps and the checkpoint end, on a device that has done its work."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ends: list[float] = []
        self.saved = math.nan

    def now(self) -> float:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return self._clock()

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(self.now())

    def on_save(self, args, state, control, **kwargs):
        self.saved = self.now()


def measure(recipe: Recipe, *, num_steps: int = 20, clock: Callable[[], float] = time.monotonic) -> Measurement:
    """Trains `WARM_UP_STEPS + num_steps` steps in a temporary folder, evaluates and saves, and times it.

    Args:
        clock: seconds; `time.process_time` leaves out what other processes took.

    Raises:
        UserError: what `hf-tti train` would raise for this recipe; several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--measure: times one process; start it without a launcher")
    steps = StepClock(clock)
    started = steps.now()
    recipe = _shortened(resolve_paths(recipe), WARM_UP_STEPS + num_steps)
    with tempfile.TemporaryDirectory(prefix="hf_tti_measure.") as folder, _silence():
        args = build_arguments(recipe, Path(folder))
        data = prepare_data(DataConfig(**recipe.data), progress=False)
        trainer = build_trainer(recipe, args, data)
        trainer.remove_callback(EarlyStopping)
        trainer.add_callback(steps)
        trainer.train()
        before = steps.now()
        evaluation = _time_evaluation(trainer, data, steps)
        evaluated = steps.now() - before
        trainer.save_model(str(Path(folder) / "final"))
        total = steps.now() - started
    timed = steps.ends[WARM_UP_STEPS - 1 :]
    step = (timed[-1] - timed[0]) / (len(timed) - 1)
    checkpoint = steps.saved - steps.ends[-1]
    return Measurement(
        step=step,
        evaluation=evaluation,
        checkpoint=checkpoint,
        rest=max(0.0, total - evaluated - checkpoint - len(steps.ends) * step),
        num_steps=len(timed) - 1,
    )


def measured_estimate(recipe: Recipe, *, gpu: str | None = None, num_steps: int = 20) -> CostEstimate:
    """What one run of the recipe costs on this machine, by `measure`.

    Args:
        gpu: what this machine is, for the price and the MFU.
        num_steps: steps to time.

    Raises:
        UserError: as `measure` and `hf_tti.cost.estimate`.
    """
    card = None if gpu is None else find_gpu(gpu)
    recipe = resolve_paths(recipe)
    peak = None if card is None else card.peak(precision_of(recipe))
    schedule = schedule_of(recipe)
    measured = measure(recipe, num_steps=num_steps)
    work = count_work(recipe, schedule, model_of(recipe))
    num_checkpoints = num_checkpoints_of(recipe.training, schedule.num_steps)
    hours = measured.wall(schedule, num_checkpoints) / 3600
    memory, of_memory = estimate_memory(recipe)
    rate = work.step / measured.step
    return CostEstimate(
        gpu=gpu or "this machine",
        num_gpus=1,
        flops_per_step=work.step,
        flops=work.step * schedule.num_steps + work.evaluation * schedule.num_evaluations,
        memory_bytes=int(memory[-1]["bytes"]),
        gpu_memory_bytes=_memory_here(),
        hours=hours,
        dollars=None if card is None else hours * card.dollars_per_hour,
        mfu=None if peak is None else rate / peak,
        num_steps=schedule.num_steps,
        assumptions=[
            f"measured here ({_device()}): {measured.step:.4g} s a step over {measured.num_steps} steps "
            f"({rate / 1e12:.3g} TFLOP/s), {measured.evaluation:.3g} s an evaluation, {measured.checkpoint:.3g} s a "
            f"checkpoint, {measured.rest:.3g} s for the rest of a run; data that was not prepared is in the rest",
            f"{num_checkpoints} checkpoints; steps that log force ratios are not counted apart",
            *([] if card is None else [f"${card.dollars_per_hour:g} an hour ({card.source})"]),
            *work.notes[:-1],
            *of_memory,
        ],
    )


def _shortened(recipe: Recipe, num_steps: int) -> Recipe:
    training = {key: value for key, value in recipe.training.items() if key not in _OF_THE_WHOLE_RUN}
    training |= {"max_steps": num_steps, "eval_strategy": "no", "save_strategy": "steps", "save_steps": num_steps}
    return dataclasses.replace(recipe, training=training, tracking={}, hub={})


def _time_evaluation(trainer: InterpTrainer, data: PreparedData, steps: StepClock) -> float:
    """Seconds of an evaluation of all rows: of the whole, or of its first batches, which metrics see, and as many
    more, which they do not.
    """
    num_rows, batch = len(data.validation), trainer.args.eval_batch_size
    measured = max(1, trainer.args.metric_batches) * batch
    if num_rows <= 2 * measured:
        return _seconds(trainer, data, num_rows, steps)
    first, both = (_seconds(trainer, data, rows, steps) for rows in (measured, 2 * measured))
    return first + max(0.0, both - first) * (num_rows - measured) / measured


def _seconds(trainer: InterpTrainer, data: PreparedData, num_rows: int, steps: StepClock) -> float:
    before = steps.now()
    trainer.evaluate(data.validation.select(range(num_rows)))
    return steps.now() - before


def num_checkpoints_of(training: dict[str, Any], num_steps: int) -> int:
    """Checkpoints that a run writes, the one at its end too."""
    strategy = training.get("save_strategy", "steps")
    if strategy != "steps":
        return 0 if strategy == "no" else 1
    every = training.get("save_steps", 500)
    every = math.ceil(every * num_steps) if every < 1 else int(every)
    return math.ceil(num_steps / every)


def _memory_here() -> int:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).name
    return f"CPU, {torch.get_num_threads()} threads"


@contextmanager
def _silence() -> Iterator[None]:
    """Progress lines and stories are part of the time and not of the answer."""
    transformers_logging.disable_progress_bar()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
