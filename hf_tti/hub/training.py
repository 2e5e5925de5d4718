"""Pushing while a run trains: promises after each checkpoint, the final model at the end, then a bounded wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from hf_tti.checkpoints import checkpoints_of, problems_of
from hf_tti.console import complain, say
from hf_tti.hub.check import check_hub
from hf_tti.hub.errors import push_command, unfinished
from hf_tti.hub.outbox import Outbox
from hf_tti.hub.queue import PushQueue
from hf_tti.hub.remote import Remote
from hf_tti.pushes import MAIN, is_delivered
from hf_tti.recipe.sections import HubSection
from hf_tti.run_folder import RunFolder

LEAVING_S = 5.0  # that a run which is stopped waits for pushes; a preempted machine is gone after 30


class PushCheckpoints(TrainerCallback):
    """Promises each checkpoint that the schedule asked for to its branch.

    Args:
        queue: None where nothing is pushed.
        steps: whether checkpoints are, or the final model alone.
    """

    def __init__(self, queue: PushQueue | None, args: TrainingArguments, *, steps: bool):
        self._queue, self._args, self._steps = queue, args, steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.take_up()

    def on_save(self, args, state, control, **kwargs):
        if self._queue is not None and self._steps and is_scheduled(args.save_strategy, state):
            self._queue.promise(f"step{state.global_step}", Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def take_up(self) -> None:
        """What an earlier session left: promises, and checkpoints that it had no time to promise."""
        if self._queue is None:
            return
        ledger = self._queue.outbox.ledger
        for branch in [*ledger.staged_branches(), *ledger.pending()]:
            if branch != MAIN:
                self._queue.adopt(branch)
        for folder in checkpoints_of(Path(self._args.output_dir)) if self._steps else ():
            branch = f"step{folder.name.rpartition('-')[2]}"
            if (
                not ledger.is_known(branch)
                and not problems_of(folder)
                and is_scheduled(self._args.save_strategy, state_of(folder))
            ):
                self._queue.promise(branch, folder)

    def final(self) -> None:
        """The run's `final/` and its result are written: promises them to `main`."""
        if self._queue is not None:
            self.take_up()
            self._queue.promise(MAIN)


def is_scheduled(save_strategy: str, state: TrainerState) -> bool:
    """Whether a checkpoint is one of the schedule's, not one of a signal's: those depend on the machine."""
    if save_strategy == SaveStrategy.STEPS:
        return state.global_step % max(state.save_steps, 1) == 0 or state.global_step >= state.max_steps
    if save_strategy == SaveStrategy.EPOCH:
        return state.global_step >= state.max_steps or float(state.epoch or 0.0).is_integer()
    return True


def state_of(checkpoint: Path) -> TrainerState:
    """The trainer's state in a checkpoint."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


@contextmanager
def pushing(section: HubSection, run: RunFolder, args: TrainingArguments) -> Iterator[PushCheckpoints]:
    """Pushes in the background inside the block, on the main process; at its end waits for what is left, until there
    was no progress for `hub.wait_minutes`.

    A block that is left by an exception (a signal, a loss that is not finite) waits a few seconds; the run that resumes
    delivers the rest.

    Raises:
        PushError: the block is done, and something has not arrived; says what, and the command that pushes it.
    """
    if section.push == "none" or args.process_index:
        yield PushCheckpoints(None, args, steps=False)
        return
    remote = Remote(section.repo, private=section.private)
    queue = PushQueue(Outbox(run, remote))
    try:
        yield PushCheckpoints(queue, args, steps=section.push == "steps")
    except BaseException:
        left = queue.finish(LEAVING_S, at_most=True)
        if left:
            names = ", ".join(branch for branch, _ in left)
            command = push_command(run.path, section.repo, private=section.private)
            complain(f"not pushed yet: {names}; the run that resumes does it, or {command}")
        raise
    missing = queue.finish(section.wait_minutes * 60)
    if missing:
        raise unfinished(run.path, section.repo, missing, private=section.private)
    say(f"pushed to {remote.url}: {', '.join(queue.outbox.arrived)}")


def push_what_is_left(section: HubSection, run: RunFolder, args: TrainingArguments) -> None:
    """For a run that is finished: what it promised and has not delivered, its final model among it.

    Raises:
        UserError: as `check_hub`. PushError: as `pushing`.
    """
    if section.push == "none" or args.process_index:
        return
    if is_delivered(run.path, section.repo or ""):
        return
    check_hub(section)
    with run.lock(), pushing(section, run, args) as pushes:
        pushes.final()
