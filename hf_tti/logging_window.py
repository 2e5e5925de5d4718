"""A Trainer whose logged means are of whole logging windows, wherever the run was stopped in one.

Each checkpoint keeps, of every rank, the sums of the window that it lies in; the run that resumes from it adds to them.
One that has none (an older one, one of the stock Trainer) resumes with a window that begins there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import IntervalStrategy

from hf_tti.errors import UserError
from hf_tti.evaluating import EvaluatingTrainer
from hf_tti.logs import RunningMeans, mean_of
from hf_tti.signals import due_after
from hf_tti.state_files import load_state, save_state

WINDOW_FILE = "logging_window.safetensors"


class WindowTrainer(EvaluatingTrainer):
    """A Trainer that measures plus the logging window in its checkpoints."""

    _means: RunningMeans
    _windows: list[Any]  # of every rank, while a checkpoint is written
    _resumed_window: Mapping[str, Any] | None = None  # until training goes on
    _last_update: tuple[Any, Any] = (None, None)  # its gradient's norm and its learning rate

    def train(self, *args, **kwargs):
        """Stock, from an empty window or the checkpoint's."""
        self._means.clear()
        self._resumed_window, self._last_update = None, (None, None)
        return super().train(*args, **kwargs)

    # ---- Saving ----

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        """Stock; before a resumed run's first update, what is logged is of the last one."""
        if kwargs.get("learning_rate") is None:
            grad_norm, kwargs["learning_rate"] = self._last_update
        self._last_update = grad_norm, kwargs["learning_rate"]
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        self._windows = self._of_all_ranks(self._window() if self.is_in_train else None)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir):
        """Stock, and the windows beside them, by rank 0 as well."""
        super()._save_rng_state(output_dir)
        if self.args.process_index == 0 and self._windows[0] is not None:
            save_state(self._windows, Path(output_dir) / WINDOW_FILE)

    def _window(self) -> dict[str, Any]:
        grad_norm, learning_rate = self._last_update
        return {
            "loss": self._tr_loss.detach().cpu(),
            "num_steps": self.state.global_step - self._globalstep_last_logged,
            "means": self._means.state(),
            "grad_norm": None if grad_norm is None else float(grad_norm),
            "learning_rate": learning_rate,
        }

    # ---- Resuming ----

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        path = Path(checkpoint or "") / WINDOW_FILE
        if checkpoint is not None and path.is_file():
            windows = load_state(path)
            try:
                self._resumed_window = self._window_of(windows)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise UserError(f"{path}: not the sums of a logging window") from error

    def _window_of(self, windows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """This rank's; the mean over all ranks where there were others, which is all that is logged of them."""
        if len(windows) == self.args.world_size:
            window = dict(windows[self.args.process_index])
        else:
            loss = sum(window["loss"] for window in windows) / len(windows)
            window = {**windows[0], "loss": loss, "means": mean_of([window["means"] for window in windows])}
        return {
            "loss": window["loss"].to(self.args.device),
            "num_steps": int(window["num_steps"]),
            "means": RunningMeans.checked(window["means"], self.args.device),
            "grad_norm": window["grad_norm"],
            "learning_rate": window["learning_rate"],
        }

    def _run_epoch(self, **kwargs):
        """Stock, in the window that the checkpoint was in."""
        self._go_on_with_window(
            kwargs["model"], kwargs["trial"], kwargs["epoch"], kwargs["ignore_keys_for_eval"], kwargs["start_time"]
        )
        super()._run_epoch(**kwargs)

    def _finalize_training(self, trial, num_train_samples, start_time):
        """Stock; a run that stopped at the end of its last epoch has no epoch to go on in."""
        self._go_on_with_window(self.model_wrapped, trial, self.state.epoch, None, start_time)
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _go_on_with_window(self, model, trial, epoch, ignore_keys_for_eval, start_time) -> None:
        """Takes the checkpoint's window over, and logs it where it ended with the epoch and a stop left that out."""
        window, self._resumed_window = self._resumed_window, None
        if window is None:
            return
        self._tr_loss = window["loss"]
        self._globalstep_last_logged = self.state.global_step - window["num_steps"]
        self._means.restore(window["means"])
        self._last_update = window["grad_norm"], window["learning_rate"]
        by_epoch = self.args.logging_strategy == IntervalStrategy.EPOCH
        if by_epoch and window["num_steps"] and due_after(self.args, self.state).should_log:
            self.control.should_log = True
            self._maybe_log_save_evaluate(self._tr_loss, None, model, trial, epoch, ignore_keys_for_eval, start_time)
            self.control.should_log = False
