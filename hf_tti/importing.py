"""A stock Trainer's checkpoint taken over by a run of a recipe, which then goes on from it with `--resume`.

What the checkpoint says of its training must be what the recipe says; what it does not say (seed, content and order of
the data, clipping) is taken from the recipe, and so stands in the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_tti.checkpoints import checkpoints_of
from hf_tti.console import say
from hf_tti.data import DataConfig, prepare_data
from hf_tti.errors import UserError
from hf_tti.from_recipe import build_arguments
from hf_tti.recipe import Recipe
from hf_tti.run import build_trainer, record_run
from hf_tti.run_folder import RUN_FILE, RunFolder, resolve_paths, write_json
from hf_tti.saving import agreed, generator_states, set_generator_states
from hf_tti.stock_checkpoint import COUNTS, WEIGHTS_FILE, StockCheckpoint, one_line, read_stock_checkpoint
from hf_tti.trainer import InterpTrainer


def import_checkpoint(recipe: Recipe, checkpoint: Path, run_dir: Path, *, command: str | None = None) -> Path:
    """Makes a run's folder whose first checkpoint is a stock Trainer's; returns that checkpoint's place.

    Args:
        recipe: one run without objectives, which says what the stock training did.
        checkpoint: a `checkpoint-<step>` folder that transformers' Trainer wrote.
        run_dir: where no run has a checkpoint yet.

    Raises:
        UserError: a checkpoint that cannot be read safely, or is of another training than the recipe's; a folder that
            holds a run with checkpoints. No run and no checkpoint is left then.
    """
    if recipe.objectives:
        raise UserError(
            f"{recipe.path}: has objectives ({', '.join(recipe.objectives)}), and the stock Trainer trained without; "
            "import into a recipe without any, or start a new run from the weights: model.pretrained"
        )
    recipe, folder = resolve_paths(recipe), RunFolder(Path(run_dir))
    stock = read_stock_checkpoint(Path(checkpoint))
    args = build_arguments(recipe, folder.path)
    with ExitStack() as stack:
        _on_main(args, lambda: _claim(stack, folder, recipe))
        with args.main_process_first(local=False, desc="preparing data"):
            data = prepare_data(DataConfig(**recipe.data))
        trainer = build_trainer(recipe, args, data)
        adopt(trainer, stock)
        _on_main(args, lambda: _record(folder, recipe, data, command, stock))
        trainer._save_checkpoint(trainer.model, None)
    say(f"{stock.folder} is checkpoint-{stock.step} of {folder.path}; seed, data and clipping are the recipe's")
    say(f"go on with: hf-tti resume {folder.path}")
    return folder.path / f"checkpoint-{stock.step}"


def _on_main(args, work) -> None:
    agreed(work if args.process_index == 0 else None, args.world_size)


def _claim(stack: ExitStack, folder: RunFolder, recipe: Recipe) -> None:
    folder.check(recipe, resume=True)
    if folder.result() is not None or checkpoints_of(folder.path):
        raise UserError(f"{folder.path} holds a run with checkpoints; name another folder with --run-dir")
    stack.enter_context(folder.lock())


def _record(folder: RunFolder, recipe: Recipe, data, command: str | None, stock: StockCheckpoint) -> None:
    record_run(folder, recipe, data, command)
    origin = {"checkpoint": str(stock.folder.resolve()), "step": stock.step, "sha256": stock.sha256}
    write_json(folder.path / RUN_FILE, {**folder.record(), "imported": origin})


def adopt(trainer: InterpTrainer, stock: StockCheckpoint) -> None:
    """Put an `InterpTrainer` where the checkpoint was: weights, optimizer, schedule, global generators, state.

    Which checkpoint was the best is not taken over: the stock Trainer's eval_loss is a mean over rows or batches.

    Raises:
        UserError: another model, optimizer, schedule, batch, number of processes or of rows: was and is, in one line.
    """
    values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    trainer.create_optimizer_and_scheduler(num_training_steps=values[-1])
    place = stock.folder
    _raise_for(place, _of_the_state(trainer, stock, values))
    _raise_for(place, _of_the_optimizer(trainer.optimizer, stock.optimizer))
    _raise_for(place, _of_the_schedule(trainer.lr_scheduler, stock))
    _load_weights(trainer.model, stock)
    try:
        _load_optimizer(trainer, stock)
        _load_generators(stock.generators[trainer.args.process_index])
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{place}: not what transformers' Trainer saves: {one_line(error)}") from error
    state, of = trainer.state, stock.state
    state.train_batch_size = trainer.args.train_batch_size
    state.compute_steps(trainer.args, values[-1])
    for name in (*COUNTS, "epoch", "log_history"):
        setattr(state, name, of[name])
    for name in ("num_input_tokens_seen", "total_flos"):
        setattr(state, name, of[name] if isinstance(of.get(name), int | float) else 0)


def _raise_for(place: Path, wrong: Iterator[tuple[str, Any, Any]]) -> None:
    lines = [f"{name} was {_short(was)}, is {_short(now)}" for name, was, now in wrong]
    if lines:
        raise UserError(f"{place}: of another training than the recipe's: {'; '.join(lines)}")


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:80]


def _of_the_state(trainer: InterpTrainer, stock: StockCheckpoint, values: tuple[int, ...]) -> Iterator[tuple]:
    """(name, was, is) of what differs; `values` are those of `set_initial_training_values`."""
    epochs, steps_per_epoch, *_, batches_per_epoch, max_steps = values
    args, state = trainer.args, stock.state
    yield from _unless_equal("processes", len(stock.generators), args.world_size)
    yield from _unless_equal("max_steps", state["max_steps"], max_steps)
    yield from _unless_equal("num_train_epochs", state["num_train_epochs"], epochs)
    if state.get("train_batch_size") is not None:
        yield from _unless_equal("per_device_train_batch_size", state["train_batch_size"], args.train_batch_size)
    if not 0 < stock.step <= max_steps:
        yield "global_step", stock.step, f"at most {max_steps}"
    whole, rest = divmod(stock.step, steps_per_epoch)
    epoch = whole + rest * args.gradient_accumulation_steps / batches_per_epoch
    if not math.isclose(epoch, state["epoch"], rel_tol=1e-9):
        what = f"epoch at step {stock.step} (by rows, batch and accumulation)"
        yield what, state["epoch"], epoch
    has_scaler = getattr(trainer.accelerator, "scaler", None) is not None
    yield from _unless_equal("fp16", stock.scaler is not None, has_scaler)


def _unless_equal(name: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if was != now:
        yield name, was, now


_HOW_IT_RUNS = {
    "params",
    "lr",
    "initial_lr",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "decoupled_weight_decay",
}


def _of_the_optimizer(optimizer: torch.optim.Optimizer, was: Mapping[str, Any]) -> Iterator[tuple]:
    groups = was["param_groups"]
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        yield "optimizer.pt param_groups", type(groups).__name__, "a list of groups"
        return
    sizes = [len(group["params"]) if isinstance(group.get("params"), list) else None for group in groups]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    yield from _unless_equal("parameters in the optimizer's groups", sizes, expected)
    for group, fresh in zip(groups, optimizer.param_groups, strict=False):
        names = {*group, *fresh} - _HOW_IT_RUNS
        for name in sorted(names, key=str):
            left, right = group.get(name, "not there"), fresh.get(name, "not there")
            same = _same(left, right)
            if not same:
                yield f"optimizer's {name}", left, right
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = was["state"]
    if not isinstance(moments, Mapping) or set(moments) != set(range(len(parameters))):
        kept = len(moments) if isinstance(moments, Mapping) else 0
        yield "parameters with a state in optimizer.pt", kept, len(parameters)
        return
    for index, parameter in enumerate(parameters):
        for name, value in moments[index].items() if isinstance(moments[index], Mapping) else [("state", "none")]:
            fits = value is None or isinstance(value, int | float)
            if isinstance(value, Tensor):
                fits = value.numel() == 1 or value.shape == parameter.shape and value.dtype == parameter.dtype
            if not fits:
                what = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else value
                yield f"optimizer's {name} of parameter {index}", what, f"{parameter.dtype} {list(parameter.shape)}"
                return


def _same(left: Any, right: Any) -> bool:
    """Of numbers, truth values and pairs of them; a tensor among them is never the same."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return not isinstance(left, Tensor) and not isinstance(right, Tensor) and left == right


def _of_the_schedule(scheduler: Any, stock: StockCheckpoint) -> Iterator[tuple]:
    was, fresh = stock.scheduler, scheduler.state_dict()
    if stock.scaler is None:  # which leaves steps out
        yield from _unless_equal("steps of the schedule", was["last_epoch"], stock.step)
    elif type(was["last_epoch"]) is not int:
        yield "steps of the schedule", was["last_epoch"], "a number"
    if "base_lrs" in fresh and not _same(was.get("base_lrs"), fresh["base_lrs"]):
        yield "learning_rate", was.get("base_lrs"), fresh["base_lrs"]
    elif isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) and type(was["last_epoch"]) is int:
        steps = was["last_epoch"]
        rates = [base * rate(steps) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        if not _same(was.get("_last_lr"), rates):
            yield f"learning rate after {steps} steps (lr_scheduler_type, warmup)", was.get("_last_lr"), rates


def _load_weights(model: torch.nn.Module, stock: StockCheckpoint) -> None:
    own = model.state_dict()
    for name, value in stock.weights.items():
        there = own.get(name)
        if there is None:
            raise UserError(f"{stock.folder}: of another model than the recipe's: {name} is not there")
        if there.shape != value.shape or there.dtype != value.dtype:
            was, now = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (value, there))
            raise UserError(f"{stock.folder}: of another model than the recipe's: {name} was {was}, is {now}")
    given = {own[name].data_ptr() for name in stock.weights}  # tied ones are saved once
    missing = [name for name, value in own.items() if name not in stock.weights and value.data_ptr() not in given]
    if missing:
        raise UserError(f"{stock.folder / WEIGHTS_FILE}: lacks {len(missing)} tensors, {missing[0]} among them")
    model.load_state_dict(stock.weights, strict=False)


def _load_optimizer(trainer: InterpTrainer, stock: StockCheckpoint) -> None:
    """The moments and the rates; hyper-parameters are the same and stay the trainer's own."""
    state, rates = trainer.optimizer.state_dict(), stock.optimizer["param_groups"]
    groups = [{**fresh, "lr": float(was["lr"])} for fresh, was in zip(state["param_groups"], rates, strict=True)]
    trainer.optimizer.load_state_dict({"state": dict(stock.optimizer["state"]), "param_groups": groups})
    fresh = trainer.lr_scheduler.state_dict()
    trainer.lr_scheduler.load_state_dict({**fresh, **{k: v for k, v in stock.scheduler.items() if k in fresh}})
    if stock.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(dict(stock.scaler))


def _load_generators(states: Mapping[str, Any]) -> None:
    before = generator_states()
    version, numbers, gauss = states["python"]
    states = {**states, "python": (version, tuple(numbers), gauss)}
    if isinstance(states.get("cuda"), list) and torch.cuda.is_available():  # of all devices, where there are ranks
        states["cuda"] = states["cuda"][torch.cuda.current_device()]
    try:
        set_generator_states(states)
    except Exception:
        set_generator_states(before)
        raise
