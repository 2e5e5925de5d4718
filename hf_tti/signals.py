"""SIGTERM, SIGINT and SIGUSR1 end a run, on all ranks alike; so does the death of the launcher that started it.

While it trains they are noted: ranks agree at each step's end, and save a checkpoint, and at each batch of an
evaluation, which is broken off and done again on resume. Before training, and after it, they end the run at once. A
second SIGINT, a second or more after the first, is Python's own KeyboardInterrupt.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tti.errors import UserError
from hf_tti.processes import LOST, SIGNALS, launched_by, launcher

ORPHANED = signal.SIGHUP  # what the death of the launcher counts as: the lowest, so that a signal itself is named first
_ONE_INTERRUPT_S = 1.0  # a Ctrl-C may come twice, from the terminal and from a parent that passes it on
_BEFORE = "before training began; the same command with --resume does it"
_PEER_IS_GONE = re.compile("(closed|reset) by peer|broken pipe|remote process exited", re.IGNORECASE)  # gloo's, nccl's
_AFTER = "after training was over; the same command with --resume does what is left"


class Stopped(UserError):
    """A signal ended the run early; its exit code is the shell's, 128 + the signal's number."""

    def __init__(self, number: int, when: str):
        name = signal.Signals(number).name
        super().__init__(f"stopped {f'by {name}' if number != ORPHANED else 'as its launcher was gone'} {when}")
        self.exit_code = 128 + number
        self._said = number, when

    def __reduce__(self):
        return Stopped, self._said


class LeftAlone(UserError):
    """Another process of the run died, and this one cannot go on without it."""

    exit_code = LOST

    def __init__(self):
        super().__init__(
            "another process of the run is gone; the same command with --resume goes on from the newest checkpoint"
        )


class BrokenOff(Exception):
    """Training or an evaluation was left where it was, on every rank."""


class StopOnSignal(TrainerCallback):
    """Ends training at the end of the step in which a signal came.

    Args:
        rank, world_size: of this process; ranks have to agree.

    Attributes:
        number: of the signal that all ranks agreed on; 0 is none.
    """

    def __init__(self, world_size: int = 1, rank: int = 0):
        self._world_size, self._rank = world_size, rank
        self._launcher = launcher()
        self._noted, self._noted_at = 0, 0.0
        self._when: str | None = None  # of a run that a signal ends at once; None: it is noted
        self._group = None
        self.number = 0

    @contextmanager
    def listening(self) -> Iterator[StopOnSignal]:
        """Signals end the block at once, except inside `noting`; outside the main thread they do what they did."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        # The line is rank 0's. Another rank mostly waits for it, in a call where no handler of Python's would run.
        self._listen(self._handle if self._rank == 0 else signal.SIG_DFL, _BEFORE)
        try:
            if launched_by() is not None:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what came since it started this rank comes now
            yield self
        except BaseException as error:
            if self._launcher is not None:  # it sends the ranks that are left a SIGTERM when the first is gone
                before = dict.fromkeys(before, signal.SIG_IGN)
            if self._world_size > 1 and isinstance(error, RuntimeError) and _PEER_IS_GONE.search(str(error)):
                # hf-tti's own launcher says which process it was
                raise (LeftAlone() if launched_by() is None else SystemExit(LOST)) from error
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Inside `listening`: signals are noted, for `agreed`; still so when an exception ends the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._listen(self._handle, None)
        yield
        self.training_is_over()

    def training_is_over(self) -> None:
        """From here on a signal ends the run at once, in other words than before."""
        self._when = _AFTER

    def raise_if_noted(self) -> None:
        """Raises Stopped where a signal came that nobody acted on, since training was over."""
        if self._noted:
            raise Stopped(self._noted, _AFTER)

    def stopped(self, step: int) -> Stopped:
        """The end of a run that all ranks agreed on after this step."""
        return Stopped(self.number, f"after step {step}; the same command with --resume goes on from there")

    def _listen(self, handler, when: str | None) -> None:
        self._when = when
        for number in SIGNALS:
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        again = self._noted == number == signal.SIGINT and self._launcher is None
        if again and time.monotonic() - self._noted_at >= _ONE_INTERRUPT_S:
            raise KeyboardInterrupt
        if not again:
            self._noted, self._noted_at = number, time.monotonic()
        when, self._when = self._when, None
        if when is not None:
            raise Stopped(number, when)

    def agreed(self) -> bool:
        """Whether a rank was told to stop, or lost its launcher; all ranks call it together."""
        noted = self._noted
        if not noted and self._launcher is not None and os.getppid() != self._launcher:
            noted = ORPHANED
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

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.number:  # the checkpoint is there; what belongs to the end of an epoch or of training is left out
            raise BrokenOff

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.agreed():
            raise BrokenOff


def with_deaf_workers(loader: DataLoader) -> DataLoader:
    """The loader, as accelerate prepared it. Its workers leave signals to the process that they work for, which needs
    them until it has stopped: torch takes the end of one for a crash. They end with it.
    """
    if loader.num_workers > 0:
        told = partial(_make_deaf, loader.worker_init_fn)
        loader.worker_init_fn = told  # what a loader that skips batches copies
        loader.base_dataloader.worker_init_fn = told  # what starts the workers
    return loader


def _make_deaf(then: Callable[[int], None] | None, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)


def due_after(args: TrainingArguments, state: TrainerState) -> TrainerControl:
    """What the schedule asks for after the state's step, at the end of an epoch or of training for that as well."""
    flow, control = DefaultFlowCallback(), TrainerControl()
    if state.global_step > 0:
        flow.on_step_end(args, state, control)
        if state.global_step >= state.max_steps or bool(state.epoch) and state.epoch % 1 == 0:
            flow.on_epoch_end(args, state, control)
    return control


def evaluation_is_missing(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the evaluation after the last step was due and is not in the log, since a stop left it out."""
    is_due = due_after(args, state).should_evaluate
    return is_due and not any(is_evaluation(line, state.global_step) for line in state.log_history)


def is_evaluation(line: Mapping[str, Any], step: int) -> bool:
    """Whether a line of the log is of an evaluation after this step: of several data sets each has one."""
    return line["step"] == step and any(key.startswith("eval_") and key.endswith("loss") for key in line)
