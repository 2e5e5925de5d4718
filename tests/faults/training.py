"""A tiny training that fault scripts kill: GPT-2 with dropout, accumulation 2, a save at every step, two epochs.

With `hf_tti` an objective with parameters and a running statistic of its own trains beside it; `stock` is transformers'
own Trainer with the same model, data and arguments; `run` is what `hf-tti train --resume` does, from a recipe to a
finished folder. What a finished training leaves is a digest of every part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401  once, before children are forked
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from hf_tti import InterpTrainer, InterpTrainingArguments, Objective, Term
from hf_tti.checkpoints import checkpoints_of
from hf_tti.data import CausalLMCollator
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from tiny import rows, tiny_model, without_dropout
from tiny_runs import write_recipe

transformers_logging.disable_progress_bar()

STEPS = 14  # ten to an epoch
OUTCOME = "outcome.json"
RECIPES = Path(tempfile.gettempdir()) / f"hf_tti-faults-{os.getpid()}"
_OF_THE_CLOCK = ("runtime", "per_second", "preparation_time", "total_flos", "train_loss")


class _Predictor(nn.Module):
    """Linear maps, and how many batches they saw."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width) for width in widths)
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class NextActivation(Objective):
    """Linear maps learn to predict the next activation; the model is pulled towards what they can predict.

    Args:
        anneals: by the number of batches that it saw, which differs with the number of processes.
    """

    anneals: bool = True

    def own_module(self, setup):
        return _Predictor([point.width for point in setup.hookpoints])

    def terms(self, forward, scope):
        scope.own.num_batches += 1
        shrink = 1 / (1 + scope.own.num_batches / 20) if self.anneals else 1.0
        errors = []
        for site, linear in zip(forward.sites.values(), scope.own.maps, strict=True):
            x = site.activations.float()
            errors.append(shrink * ((linear(x[:, :-1]) - x[:, 1:]) ** 2 * 100).mean(dim=-1).sum())
        return {"error": Term(torch.stack(errors).sum(), to="both")}


def build(trainer: str, folder: Path, *, by_batch: bool = True, **changes: Any) -> Trainer:
    """A fresh trainer ("hf_tti" or "stock") that saves into `folder`.

    Args:
        by_batch: with what depends on how a global batch is split: dropout, and annealing by batches.
    """
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "logging_steps": 1 if trainer == "stock" else 3,  # the stock Trainer forgets the window that it was in
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        "data_seed": 1,
        "dataloader_pin_memory": False,
        "logging_nan_inf_filter": False,
        **changes,
    }
    common = {
        "model": tiny_model() if by_batch else without_dropout(),
        "train_dataset": rows(40, 16, ragged=True),
        "eval_dataset": rows(8, 16, seed=9),
    }
    if trainer == "stock":
        common["model"].loss_type = "ForCausalLM"
        collator = CausalLMCollator(pad_token_id=0)
        return Trainer(args=TrainingArguments(**settings), data_collator=collator, **common)
    objectives = [NextActivation(anneals=by_batch).weighted(0.05)]
    return InterpTrainer(args=InterpTrainingArguments(**settings), objectives=objectives, metrics={}, **common)


def train(trainer: str, folder: Path, *, resume_from: Path | None = None, **changes: Any) -> None:
    """Begin, or resume as a person would without looking; at the end leave OUTCOME in the folder."""
    if trainer == "run":
        train_recipe(folder)
        return
    built = build(trainer, folder, **changes)
    if resume_from is not None:
        resume: Any = str(resume_from)
    elif trainer == "stock":
        resume = get_last_checkpoint(folder) if folder.is_dir() else None
    else:
        resume = bool(checkpoints_of(folder) or list(folder.glob(".replaced-*"))) or None
    built.train(resume_from_checkpoint=resume)
    if built.args.process_index == 0:
        ours = isinstance(built, InterpTrainer)
        outcome = {
            "weights": digest(built.model.state_dict()),
            "objectives": digest(built.own.state_dict()) if ours else None,
            "optimizer": digest(built.optimizer.state_dict()),
            "scheduler": digest(built.lr_scheduler.state_dict()),
            "generators": digest({"torch": torch.random.get_rng_state(), "numpy": np.random.get_state()}),
            "ledger": ledger(built.state.log_history),
        }
        leave(outcome, folder)


@contextmanager
def write_recipes() -> Iterator[None]:
    """`RECIPES` with a tiny recipe and its data, as long as this lasts; before children are forked."""
    RECIPES.mkdir()
    try:
        training = {"save_steps": 1, "save_total_limit": 3, "max_steps": 8, "gradient_accumulation_steps": 2}
        write_recipe(RECIPES, training=training)
        yield
    finally:
        shutil.rmtree(RECIPES)


def train_recipe(folder: Path) -> None:
    """A recipe of tests/tiny_runs.py, saved at every step; data and tokenizer lie in a cache beside the folder."""
    os.environ["HF_TTI_CACHE"] = str(RECIPES / "cache")
    recipe = expand_sweep(load_recipe(RECIPES / "tiny.yaml"))[0]
    train_run(recipe, folder, resume=True)
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    outcome = {
        "files": digest({path.name: path.read_bytes() for path in (folder / "final").iterdir()}),
        "metrics.jsonl": [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines],
        "result.json": {k: v for k, v in result.items() if k not in ("resumed_from", "wall_seconds")},
        "stories.txt": (folder / "stories.txt").read_text(),
    }
    leave(outcome, folder)


def leave(outcome: dict[str, Any], folder: Path) -> None:
    """Write OUTCOME whole or not at all."""
    staged = folder.parent / f".{folder.name}.{OUTCOME}"
    staged.write_text(json.dumps(outcome))
    os.replace(staged, folder / OUTCOME)


def ledger(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every logged line of training and evaluation, without what depends on the clock."""
    lines = [{k: v for k, v in line.items() if not k.endswith(_OF_THE_CLOCK)} for line in history]
    return [line for line in lines if line.keys() - {"step", "epoch"}]


def digest(value: Any) -> str:
    """sha256 of nested tensors, arrays, numbers and texts, bits and types."""
    state = hashlib.sha256()

    def add(item: Any) -> None:
        state.update(type(item).__name__.encode())
        if isinstance(item, torch.Tensor):
            item = item.detach().contiguous().numpy()
        if isinstance(item, np.ndarray):
            state.update(f"{item.dtype}{item.shape}".encode())
            state.update(item.tobytes())
        elif isinstance(item, Mapping):
            for key in sorted(item, key=str):
                add(key)
                add(item[key])
        elif isinstance(item, list | tuple):
            for entry in item:
                add(entry)
        else:
            state.update(repr(item).encode())

    add(value)
    return state.hexdigest()


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """What a finished training left, or None."""
    path = folder / OUTCOME
    return json.loads(path.read_text()) if path.is_file() else None


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the parts of two outcomes that are not bitwise the same."""
    return [name for name in one if one[name] != other[name]]
