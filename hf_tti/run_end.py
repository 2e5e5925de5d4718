"""The end of a training: noticing on resume that it was there, and the evaluation of what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer_utils import align_special_tokens

from hf_tti.callbacks.early_stopping import EarlyStopping
from hf_tti.callbacks.metrics_jsonl import truncate_metrics
from hf_tti.checkpoints import FINAL, clear_leftovers, publish, staging_folder
from hf_tti.errors import UserError
from hf_tti.run_folder import METRICS_FILE
from hf_tti.signals import evaluation_is_missing
from hf_tti.trainer import InterpTrainer

Value = TypeVar("Value")


def load_if_over(trainer: InterpTrainer, checkpoint: Path) -> bool:
    """Whether training had ended at this checkpoint; if so the trainer is as training left it.

    The Trainer itself would do at least one step more before it looks. Where a stop left out the last evaluation, it
    is the Trainer's to do, before it loads the best checkpoint.
    """
    state = _state_of(checkpoint / "trainer_state.json")
    stoppers = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStopping)]
    if state.global_step < state.max_steps and not any(c.has_stopped(trainer.args, state) for c in stoppers):
        return False
    if evaluation_is_missing(trainer.args, state):
        return False
    trainer.state = state
    state.is_world_process_zero, state.is_local_process_zero = (
        trainer.is_world_process_zero(),
        trainer.is_local_process_zero(),
    )
    if state.is_world_process_zero:
        truncate_metrics(Path(trainer.args.output_dir) / METRICS_FILE, state.global_step)
    if trainer.processing_class is not None:
        align_special_tokens(trainer.model, trainer.processing_class)  # as where training begins
    trainer._load_from_checkpoint(str(checkpoint))
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None:
        trainer._load_best_model()
    trainer.callback_handler.on_train_end(trainer.args, state, trainer.control)
    return True


def _state_of(path: Path) -> TrainerState:
    try:
        state = TrainerState.load_from_json(str(path))
        steps = state.global_step, state.max_steps
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not a state of transformers' Trainer: {error}") from error
    if not all(isinstance(step, int) for step in steps):
        raise UserError(f"{path}: not a state of transformers' Trainer: its steps are no whole numbers")
    return state


def final_metrics(trainer: InterpTrainer) -> dict[str, float]:
    """The evaluation of the weights that are saved: the last step's if it was evaluated, else a
    new one.
    """
    if not trainer.args.load_best_model_at_end:
        for line in reversed(trainer.state.log_history):
            if line["step"] < trainer.state.global_step:
                break
            if "eval_perplexity" in line:  # else of another Trainer, whose loss is no token mean
                return line
    return trainer.evaluate()


def keep_last_step(trainer: InterpTrainer, checkpoint: Path) -> None:
    """A checkpoint of the weights that training ended with, where there is none and they are still loaded."""
    if not trainer.args.load_best_model_at_end and trainer.optimizer is not None and trainer.state.global_step > 0:
        if not trainer._on_main(checkpoint.is_dir):
            trainer._save_checkpoint(trainer.model_wrapped, None)


def save_final(trainer: InterpTrainer, place: Path) -> None:
    """The model that is loaded, whole at `place` or not there: published as a checkpoint is. Every rank calls.

    Raises:
        UserError: the disk refused; what was at `place` is there still.
    """
    try:
        staged = trainer._on_main(lambda: written(place, lambda: staging_folder(place.parent, FINAL)))
        trainer._everywhere(lambda: written(place, lambda: trainer.save_model(str(staged))))
        step = trainer.state.global_step
        trainer._on_main(lambda: written(place, lambda: publish(staged, place, step=step, facts={})))
    except UserError:
        if trainer.args.process_index == 0:
            clear_leftovers(place.parent)
        raise


def written(place: Path, work: Callable[[], Value]) -> Value:
    """The value of `work`, which writes `place`.

    Raises:
        UserError: the disk refused.
    """
    try:
        return work()
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise UserError(
            f"{place} could not be written: {reason}; checkpoints are as they were: make room and go on with --resume"
        ) from error
