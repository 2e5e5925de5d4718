"""SIGTERM, SIGINT and SIGUSR1 end a run at the end of its step, on all ranks alike, with a checkpoint.

The handler notes the signal; ranks agree on the largest note at each step's end and at each batch of an evaluation,
which is broken off and done again on resume. A second SIGINT is Python's own KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_tti.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(UserError):
    """A signal ended the run early; its exit code is the shell's, 128 + the signal's number."""

    def __init__(self, number: int, step: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; the same command with --resume goes on from there")
        self.exit_code = 128 + number


class EvaluationStopped(Exception):
    """An evaluation was broken off on every rank."""


class StopOnSignal(TrainerCallback):
    """Ends training at the end of the step in which a signal came.

    Args:
        world_size: ranks that have to agree.
    """

    def __init__(self, world_size: int = 1):
        self._world_size = world_size
        self._noted = 0
        self._group = None
        self.number = 0  # of the signal that all ranks agreed on; 0: none

    @contextmanager
    def listening(self) -> Iterator[StopOnSignal]:
        """Notes signals inside the block; elsewhere, and outside the main thread, they do what they did."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self._noted == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number

    def agreed(self) -> bool:
        """Whether a rank was told to stop; all ranks call it together."""
        noted = self._noted
        if self._world_size > 1:
            if self._group is None:
                self._group = dist.new_group(backend="gloo")  # between processes alone: no device is waited for
            flag = torch.tensor(noted)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            noted = int(flag)
        self.number = self.number or noted
        return bool(self.number)

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.agreed():
            raise EvaluationStopped


def evaluation_is_missing(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the evaluation after the last step was due and is not in the log, since a stop left it out."""
    by_steps = args.eval_strategy == IntervalStrategy.STEPS
    is_due = by_steps and state.global_step > 0 and state.global_step % state.eval_steps == 0
    return is_due and not any(line["step"] == state.global_step and "eval_loss" in line for line in state.log_history)
