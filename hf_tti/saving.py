"""A Trainer whose checkpoints are whole or not there, hold no pickle, and resume only the run that wrote them.

Each checkpoint is staged and published as `hf_tti.checkpoints` says; optimizer, scheduler, scaler and random generators
lie in it as safetensors. On resume its files are verified, and the run is held to what the manifest says it was.
"""

from __future__ import annotations

import errno
import functools
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.callback_states import check_callbacks, room_for_states
from hf_tti.checkpoints import (
    MANIFEST,
    check_space,
    checkpoints_of,
    clear_leftovers,
    problems_of,
    publish,
    reached,
    read_manifest,
    resumable,
    rotate,
    staging_folder,
)
from hf_tti.errors import UserError
from hf_tti.facts import differences, facts_of_arguments, facts_of_model, rows_sha256
from hf_tti.signals import Stopped
from hf_tti.state_files import load_state, save_state

_MAY_NOT = (errno.EROFS, errno.EACCES, errno.EPERM)
_OF_THE_DISK = (OSError, RuntimeError, SafetensorError, UserError)
OPTIMIZER_FILE, SCHEDULER_FILE, SCALER_FILE = "optimizer.safetensors", "scheduler.safetensors", "scaler.safetensors"


def rng_file(rank: int) -> str:
    """The name of a rank's random generators in a checkpoint."""
    return f"rng_state_{rank}.safetensors"


def generator_states() -> dict[str, Any]:
    """Of Python's, NumPy's and torch's global generators."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state()
    return states


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Put the global generators where `generator_states` found them."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.random.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.random.set_rng_state(states["cuda"])


class SavingTrainer(Trainer):
    """Stock Trainer plus staged, verified checkpoints without pickles."""

    args: InterpTrainingArguments
    _staged: Path | None = None
    _generators: list[dict[str, Any]]

    def run_facts(self) -> dict[str, Any]:
        """What a checkpoint and the run that resumes it must agree on, by name."""
        data = self.train_dataset
        return {
            **facts_of_arguments(self.args),
            **facts_of_model(self.model.config),
            "num_train_rows": len(data) if hasattr(data, "__len__") else None,
            "train_rows_sha256": self._sampled_rows,
        }

    @functools.cached_property
    def _sampled_rows(self) -> str | None:
        before = generator_states()  # a row may be drawn
        try:
            return rows_sha256(self.train_dataset)
        finally:
            set_generator_states(before)

    # ---- Saving ----

    def _get_output_dir(self, trial):
        return str(self._staged) if self._staged is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        """Stock into a staging folder, then published in one rename; what fails fails on every rank alike."""
        run_dir, step = Path(super()._get_output_dir(trial)), self.state.global_step
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        best_step, self.state.best_global_step = self.state.best_global_step, None  # stock would look in the staging
        self.state.stateful_callbacks = room_for_states([*self.callback_handler.callbacks, self.control])
        try:
            staged = self._on_main(lambda: self._stage(run_dir, step))
            self._staged, self._generators = staged, self._of_all_ranks(generator_states())
            self._everywhere(lambda: super(SavingTrainer, self)._save_checkpoint(model, trial))
            self._staged, self.state.best_global_step = None, best_step
            best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{best_step}"
            if best_step and (best_step == step or best.is_dir() and self._is_scheduled(best_step)):
                self.state.best_model_checkpoint = str(best)
            self._on_main(lambda: self._publish(staged, run_dir / name))
        except UserError:
            if self.args.process_index == 0:
                clear_leftovers(run_dir)  # gives a full disk its room back
            raise
        finally:
            self._staged, self.state.best_global_step = None, best_step

    def _is_scheduled(self, step: int) -> bool:
        """Whether a checkpoint of this step is no accident of where the run was stopped."""
        every_so_often = self.args.save_strategy == SaveStrategy.STEPS
        return not every_so_often or step % self.state.save_steps == 0 or step >= self.state.max_steps

    def _stage(self, run_dir: Path, step: int) -> Path:
        reached("saving begins")
        run_dir.mkdir(parents=True, exist_ok=True)
        folder = staging_folder(run_dir, step)
        newest = next(iter(reversed(checkpoints_of(run_dir))), None)
        if newest is not None:
            check_space(run_dir, sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()))
        return folder

    def _publish(self, staged: Path, place: Path) -> None:
        self.state.save_to_json(str(staged / place.name / TRAINER_STATE_NAME))
        reached("trainer state written")
        publish(staged / place.name, place, step=self.state.global_step, facts=self.run_facts())
        shutil.rmtree(staged)
        best = self.state.best_model_checkpoint
        rotate(place.parent, limit=self.args.save_total_limit, keep=Path(best) if best else None)
        reached("saving ends")

    def _save(self, output_dir=None, state_dict=None):
        """What stock saves without its last file, a pickle of the arguments: weights, configuration, tokenizer."""
        writes, gathers = self.args.should_save, getattr(self.model, "is_distributed_loading_by_transformers", False)
        if not (writes or gathers):  # of a model that was sharded as it was loaded, every rank holds a part
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        # Resuming reads a checkpoint by the names that modules have; what is exported has those of its first authors.
        names = {"save_original_format": self._staged is None}
        model.save_pretrained(folder, state_dict=state_dict, is_main_process=writes, **names)
        tokenizer = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        if writes and tokenizer is not None:
            tokenizer.save_pretrained(folder)
        reached("weights written")

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.args.should_save:
            reached("model written")
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_state(self.optimizer.state_dict(), Path(output_dir) / OPTIMIZER_FILE)
            reached("optimizer written")
            save_state(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)
            reached("scheduler written")

    def _save_scaler(self, output_dir):
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_state(scaler.state_dict(), Path(output_dir) / SCALER_FILE)

    def _save_rng_state(self, output_dir):
        """Of all ranks, by rank 0: another rank may be on a machine that does not see the staging folder."""
        if self.args.process_index == 0:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            for rank, states in enumerate(self._generators):
                save_state(states, Path(output_dir) / rng_file(rank))
            reached("generators written")

    # ---- Resuming ----

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """Stock; True resumes from the newest checkpoint in `output_dir` that verifies.

        Raises:
            NoValidCheckpoint: none of them does.
            UserError: a checkpoint that is damaged, or of another run; a callback that cannot resume.
        """
        check_callbacks(self.callback_handler.callbacks)
        if resume_from_checkpoint is True:
            found, _ = self._on_main(lambda: resumable(Path(self.args.output_dir)))
            if found is None:
                raise UserError(f"{self.args.output_dir}: no checkpoint to resume from")
            resume_from_checkpoint = str(found)
        if resume_from_checkpoint:
            self._on_main(lambda: self._check_checkpoint(Path(resume_from_checkpoint)))
        self._forget_evaluations_wrapping()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _forget_evaluations_wrapping(self) -> None:
        """An evaluation before training marks the model as prepared: stock, its ranks would then train on their own."""
        if self.args.world_size == 1:
            return
        if not isinstance(self.model_wrapped, DistributedDataParallel):
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # takes autocast off its forward
            vars(self.model).pop("_is_accelerate_prepared", None)
            self.model_wrapped = self.model

    def _run_epoch(self, **kwargs):
        """Stock, which would do one step more before it notices that the run it resumes had ended."""
        if 0 < self.state.max_steps <= self.state.global_step:
            self._load_rng_state(kwargs["resume_from_checkpoint"])
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _check_checkpoint(self, folder: Path) -> None:
        if not (folder / MANIFEST).is_file() and (folder / TRAINER_STATE_NAME).is_file():
            raise UserError(f"{folder}: a checkpoint of another Trainer, without {MANIFEST}; train from its weights")
        _verify(folder)
        wrong = differences(read_manifest(folder).facts, self.run_facts(), elastic=self.args.elastic_resume)
        if wrong:
            raise UserError(f"{folder}: of another run than this: {'; '.join(wrong)}")
        state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if not hasattr(self.train_dataset, "__len__") and (state.epoch or 0) > 1:
            raise UserError(f"{folder}: its training data are a stream that had begun again; it has no length")
        best, here = state.best_model_checkpoint, Path(self.args.output_dir)
        elsewhere = folder.parent.resolve() != here.resolve()
        if elsewhere and self.args.load_best_model_at_end and best and not (here / Path(best).name).is_dir():
            raise UserError(
                f"{folder}: the best so far is {Path(best).name}, which is not in {here}; resume in the run's own "
                "folder, or without load_best_model_at_end"
            )

    def _load_best_model(self):
        """Stock, after the checkpoint was verified."""
        if self.state.best_model_checkpoint is not None:
            self._on_main(lambda: _verify(Path(self.state.best_model_checkpoint)))
        super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            self.optimizer.load_state_dict(load_state(Path(checkpoint) / OPTIMIZER_FILE))
            self.lr_scheduler.load_state_dict(load_state(Path(checkpoint) / SCHEDULER_FILE))

    def _load_scaler(self, checkpoint):
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None and (Path(checkpoint) / SCALER_FILE).is_file():
            scaler.load_state_dict(load_state(Path(checkpoint) / SCALER_FILE))

    def _load_rng_state(self, checkpoint):
        if checkpoint is None:
            return
        path = Path(checkpoint) / rng_file(self.args.process_index)
        if self.args.elastic_resume and not path.is_file():  # on more processes than there were
            return
        set_generator_states(load_state(path))

    # ---- All ranks alike ----

    def _on_main(self, work: Callable[[], Any]) -> Any:
        """The value of `work` on rank 0, on every rank; what it raises is raised on every rank."""
        return agreed(work if self.args.process_index == 0 else None, self.args.world_size)

    def _of_all_ranks(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values = [value]
        if self.args.world_size > 1:
            values = [None] * self.args.world_size
            dist.all_gather_object(values, value)
        return values

    def _everywhere(self, work: Callable[[], Any]) -> None:
        """`work` on every rank; where one of them fails, all of them raise."""
        failure = None
        try:
            work()
        except Exception as error:  # of any kind: the other ranks wait
            failure = error
        failures = self._of_all_ranks(failure and _as_user_error(failure))
        if failure is not None and not isinstance(failure, _OF_THE_DISK):
            raise failure
        first = next((error for error in failures if error is not None), None)
        if first is not None:
            raise _as_user_error(first) from failure


def _verify(folder: Path) -> None:
    problems = problems_of(folder)
    if problems:
        raise UserError(problems[0])


def agreed(work: Callable[[], Any] | None, world_size: int) -> Any:
    """The value of `work` of the one rank that has some, on all of them; what it raises is raised on all."""
    outcome: list[Any] = [None, None]
    if work is not None:
        try:
            outcome[0] = work()
        except Stopped:  # a signal ends the other ranks as well, and they may be gone
            raise
        except _OF_THE_DISK as error:
            outcome[1] = _as_user_error(error)
    if world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _as_user_error(error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
    if isinstance(error, OSError) and error.errno in _MAY_NOT and error.filename:
        return UserError(f"{error.filename}: {reason.lower()}")
    return UserError(f"the checkpoint could not be written: {reason}; earlier checkpoints are as they were")
