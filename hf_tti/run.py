"""One run, from a recipe to a finished folder: data, model, training, evaluation, `final/`,
`result.json`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.callbacks.metrics_jsonl import MetricsJsonl, clean
from hf_tti.callbacks.progress_line import ProgressLine, evaluation_words
from hf_tti.checkpoints import QUARANTINE, resumable
from hf_tti.console import complain, is_main_process, say
from hf_tti.data import DataConfig, PreparedData, prepare_data
from hf_tti.errors import UserError
from hf_tti.from_recipe import (
    blamed_on,
    build_arguments,
    build_callbacks,
    build_metrics,
    build_model,
    build_objectives,
)
from hf_tti.hub import check_hub, push_what_is_left, pushing, section_of
from hf_tti.provenance import git_commit, versions
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import HubSection, TrackingSection
from hf_tti.redaction import masked, printable
from hf_tti.run_end import final_metrics, keep_last_step, load_if_over, save_final, written
from hf_tti.run_figures import headline, num_parameters, tokens_per_step, tokens_seen
from hf_tti.run_folder import (
    RECIPE_FILE,
    RESULT_FILE,
    RUN_FILE,
    RunFolder,
    resolve_paths,
    unwritable,
    write_json,
    write_text,
)
from hf_tti.saving import agreed
from hf_tti.signals import BrokenOff, StopOnSignal, Stopped
from hf_tti.tracking import check_tracker, tracked, tracker_run_id
from hf_tti.trainer import InterpTrainer


@dataclass(frozen=True)
class RunResult:
    """What a finished run's `result.json` says.

    Attributes:
        run_dir: its folder.
        metrics: of the final evaluation, `eval_loss` (nats), `eval_perplexity`, `eval_<label>/mean`
            and per layer; None for what is not finite. num_steps, num_train_tokens: optimizer
            steps, and tokens that they saw.
        num_parameters: of the model, without what objectives own.
        wall_seconds: of the session that finished it.
    """

    run_dir: Path
    metrics: Mapping[str, float | None]
    num_steps: int
    num_train_tokens: int
    num_parameters: int
    wall_seconds: float


def train_run(
    recipe: Recipe, run_dir: Path, *, resume: bool = False, elastic: bool = False, command: str | None = None
) -> RunResult:
    """Trains, evaluates and saves one run. A finished run of the same recipe is left alone.

    Args:
        recipe: one run, as `expand_sweep` gives it.
        run_dir: its folder; made where it is missing.
        resume: go on from the newest checkpoint that is whole, if there is one. So does a run whose result is there
            and whose `final/` is missing or damaged.
        elastic: resume with other processes, batch or accumulation, if their product is the same.
        command: what the user typed, for the record.

    Raises:
        NoValidCheckpoint: `resume`, and there are checkpoints, of which none is whole.
        UserError: a folder that holds something else or cannot be written, data or a model that does not fit, a tracker
            that is missing.
    """
    if recipe.sweep:
        raise UserError(f"{recipe.path}: stands for a sweep; train_run takes one of expand_sweep(recipe)")
    started = time.monotonic()
    recipe = resolve_paths(recipe)
    folder, section = RunFolder(Path(run_dir)), TrackingSection(**recipe.tracking)
    hub = section_of(recipe)
    check_tracker(section)
    args = build_arguments(recipe, folder.path)
    args.elastic_resume = elastic
    _quieten()
    with ExitStack() as stack:
        stopper = stack.enter_context(StopOnSignal(args.world_size, args.process_index).listening())
        result = _on_main(args, lambda: _enter(stack, folder, recipe, hub, resume, elastic))
        if result is not None:
            say(f"{folder.path} is finished: {'  '.join(evaluation_words(result['metrics']))}")
            stopper.training_is_over()
            push_what_is_left(hub, folder, args)
            return _as_result(folder, result)
        with args.main_process_first(local=False, desc="preparing data"):
            progress = is_main_process() and sys.stderr.isatty()
            data = prepare_data(DataConfig(**recipe.data), progress=progress)
        trainer = build_trainer(recipe, args, data)
        _check_training(trainer)
        _on_main(args, lambda: record_run(folder, recipe, data, command))
        pushes = stack.enter_context(pushing(hub, folder, args))
        args.project = section.project
        curves = tracked(
            section,
            run_dir=folder.path,
            run_name=recipe.run_name,
            group=recipe.experiment or recipe.name,
            run_id=tracker_run_id(recipe.digest(), folder.path),
            recipe=recipe,
            metrics=trainer.interp_metrics,
        )
        for callback in stack.enter_context(curves):
            trainer.add_callback(callback)
        say(headline(recipe, folder, trainer, data))
        trainer.add_callback(pushes)
        trainer.add_callback(stopper)  # last: the others have seen the step
        with stopper.noting():
            result = _train(recipe, folder, trainer, data, stopper, resume=resume, started=started)
        if hub.push != "none":
            stopper.raise_if_noted()
        pushes.final()
    return _as_result(folder, result)


def _quieten() -> None:
    """Warnings from the main process only, and no bars while saving."""
    transformers_logging.disable_progress_bar()
    if not is_main_process():
        transformers_logging.set_verbosity_error()
        logging.getLogger("hf_tti").setLevel(logging.ERROR)


def _enter(
    stack: ExitStack, folder: RunFolder, recipe: Recipe, hub: HubSection, resume: bool, elastic: bool
) -> dict[str, Any] | None:
    """The result where the run is finished; else keeps other processes out of the folder."""
    folder.check(recipe, resume=resume, elastic=elastic)
    result = folder.finished()
    if result is None:
        if folder.result() is not None:
            folder.check_final_can_be_written_anew(resume=resume)
            complain(f"{folder.final_problems()[0]}; it is written anew")
        check_hub(hub)
        stack.enter_context(folder.lock())
    return result


def _check_training(trainer: InterpTrainer) -> None:
    """Makes the optimizer and the schedule once, so that what they refuse is said before the folder is claimed."""
    with blamed_on("training"):
        trainer.create_optimizer_and_scheduler(num_training_steps=max(trainer.args.max_steps, 1))
    trainer.optimizer = trainer.lr_scheduler = None
    trainer._created_lr_scheduler = False


def record_run(folder: RunFolder, recipe: Recipe, data: PreparedData, command: str | None) -> None:
    """Makes the folder this run's, unless it is already. Until here a mistake leaves nothing behind."""
    record, begun_on = folder.record(), folder.data_fingerprint()
    if record is not None and begun_on != data.fingerprint:
        raise UserError(
            f"{folder.path} was begun on other data ({begun_on[:8]}) than this "
            f"({data.fingerprint[:8]}); give it the same, or name another folder with --run-dir"
        )
    if record is not None and (folder.path / RECIPE_FILE).is_file():
        return
    digest, commit, libraries = recipe.digest(), git_commit(), versions()
    command = masked(command) if command else None
    header = [
        f"# {recipe.run_name}, resolved from {recipe.path}",
        f"# digest: {digest}",
        f"# versions: {', '.join(f'{name} {version}' for name, version in libraries.items())}",
        *([f"# commit: {commit}"] if commit else []),
        *([f"# command: {command}"] if command else []),
    ]
    record = record or {
        "name": recipe.run_name,
        "experiment": recipe.experiment,
        "digest": digest,
        "recipe": masked(str(recipe.path)),
        "command": command,
        "versions": libraries,
        "git_commit": commit,
        "tracker_run_id": tracker_run_id(digest, folder.path),
        "data_fingerprint": data.fingerprint,
    }
    write_json(folder.path / RUN_FILE, record)  # first: it makes the folder this run's
    header = [printable(masked(line)) for line in header]
    write_text(folder.path / RECIPE_FILE, "\n".join(header) + "\n" + recipe.to_yaml())


def _on_main(args: InterpTrainingArguments, work: Callable[[], Any]) -> Any:
    def on_disk() -> Any:
        try:
            return work()
        except OSError as error:
            raise unwritable(error, Path(args.output_dir)) from error

    return agreed(on_disk if args.process_index == 0 else None, args.world_size)


def build_trainer(recipe: Recipe, args: InterpTrainingArguments, data: PreparedData) -> InterpTrainer:
    """The trainer of one run, with its model, objectives, metrics and callbacks."""
    parts = {
        "model": build_model(recipe, data.tokenizer, seed=args.seed),
        "objectives": build_objectives(recipe),
        "metrics": build_metrics(recipe),
        "callbacks": build_callbacks(recipe),
    }
    with blamed_on("training"):
        trainer = InterpTrainer(
            args=args,
            train_dataset=data.train,
            eval_dataset=data.validation,
            processing_class=data.tokenizer,
            token_counts=torch.as_tensor(data.token_counts),
            **parts,
        )
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, MetricsJsonl | ProgressLine):
            callback.tokens_per_step = tokens_per_step(recipe, args, data)
    return trainer


def _train(
    recipe: Recipe,
    folder: RunFolder,
    trainer: InterpTrainer,
    data: PreparedData,
    stopper: StopOnSignal,
    *,
    resume: bool,
    started: float,
) -> dict[str, Any]:
    args = trainer.args
    checkpoint = None
    if resume:
        checkpoint, damaged = _on_main(args, lambda: resumable(folder.path))
        for problem in damaged:
            say(f"passed over, now in {folder.path / QUARANTINE}: {problem}")
        say(f"resuming from {checkpoint}" if checkpoint else "no checkpoint to resume from; starting anew")
    with suppress(BrokenOff):
        if checkpoint is None or not load_if_over(trainer, checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        metrics = final_metrics(trainer)
    if stopper.number:
        raise _stopped(folder, trainer, stopper)
    if not math.isfinite(metrics.get("eval_loss", 0.0)):
        raise UserError(f"{folder.path}: eval_loss is {metrics['eval_loss']} at the end; nothing is saved as final")
    place = folder.path / RESULT_FILE
    trainer._on_main(lambda: written(place, lambda: place.unlink(missing_ok=True)))  # of a final/ that was damaged
    save_final(trainer, folder.final)
    result = {
        "name": recipe.run_name,
        "experiment": recipe.experiment,
        "digest": recipe.digest(),
        "seed": args.seed,
        "metrics": clean({key: value for key, value in metrics.items() if key.startswith("eval_")}),
        "num_steps": trainer.state.global_step,
        "num_train_tokens": tokens_seen(trainer, data, tokens_per_step(recipe, args, data)),
        "num_parameters": num_parameters(trainer),
        "best_step": trainer.state.best_global_step if args.load_best_model_at_end else None,
        "resumed_from": checkpoint.name if checkpoint else None,
        "wall_seconds": round(time.monotonic() - started, 1),
        "world_size": args.world_size,
        "data_fingerprint": data.fingerprint,
        "versions": versions(),
    }
    trainer._on_main(lambda: written(place, lambda: write_json(place, result)))
    say(f"finished {folder.path}: {'  '.join(evaluation_words(metrics))}")
    return result


def _stopped(folder: RunFolder, trainer: InterpTrainer, stopper: StopOnSignal) -> Stopped:
    """The end that a signal makes, in words that are true of the checkpoints in the folder."""
    step = trainer.state.global_step
    here = folder.path / f"checkpoint-{step}"
    keep_last_step(trainer, here)
    if here.is_dir():
        return stopper.stopped(step)
    newest = folder.newest_checkpoint()
    goes_on = f"goes on from {newest.name}" if newest is not None else "begins anew, without a checkpoint"
    return Stopped(stopper.number, f"after step {step}; the same command with --resume {goes_on}")


def _as_result(folder: RunFolder, result: Mapping[str, Any]) -> RunResult:
    names = ("metrics", "num_steps", "num_train_tokens", "num_parameters", "wall_seconds")
    return RunResult(run_dir=folder.path, **{name: result[name] for name in names})
