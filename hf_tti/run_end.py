"""The end of a training: noticing on resume that it was there, and the evaluation of what is saved."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerState

from hf_tti.callbacks.early_stopping import EarlyStopping
from hf_tti.errors import UserError
from hf_tti.trainer import InterpTrainer


def load_if_over(trainer: InterpTrainer, checkpoint: Path) -> bool:
    """Whether training had ended at this checkpoint; if so the trainer is as training left it.

    The Trainer itself would do at least one step more before it looks.
    """
    state = _state_of(checkpoint / "trainer_state.json")
    stoppers = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStopping)]
    if state.global_step < state.max_steps and not any(c.has_stopped(trainer.args, state) for c in stoppers):
        return False
    trainer.state = state
    state.is_world_process_zero, state.is_local_process_zero = (
        trainer.is_world_process_zero(),
        trainer.is_local_process_zero(),
    )
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
