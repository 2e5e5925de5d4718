"""A checkpoint of transformers' own Trainer, read without running anything in it.

Weights from `model.safetensors` alone; `optimizer.pt`, `scheduler.pt`, `scaler.pt` and `rng_state*.pth` by
`torch.load(weights_only=True)`, from plain zip archives only, and looked through before use. `training_args.bin` and
`pytorch_model.bin` are never opened.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from hf_tti.checkpoints import MANIFEST, file_sha256
from hf_tti.errors import UserError

WEIGHTS_FILE, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_MOST_VALUES = 200_000  # in a pickle: containers may share parts and be exponentially larger than their file
_LARGEST_STATE = 64 * 2**20  # bytes of trainer_state.json
COUNTS = ("global_step", "max_steps", "num_train_epochs")


@dataclass(frozen=True)
class StockCheckpoint:
    """What such a folder holds, as plain values.

    Attributes:
        state: of trainer_state.json: `global_step`, `max_steps`, `num_train_epochs`, `epoch`, `train_batch_size`, ...
        weights: name -> tensor.
        optimizer, scheduler, scaler: state dicts; `scaler` None where there is none.
        generators: of each process, by rank.
        sha256: of each file that was read, by name.
    """

    folder: Path
    state: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    scaler: Mapping[str, Any] | None
    generators: list[Mapping[str, Any]]
    sha256: Mapping[str, str]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state["global_step"]


def read_stock_checkpoint(folder: Path) -> StockCheckpoint:
    """Everything that resuming needs.

    Raises:
        UserError: not such a folder; a file that is missing, damaged, or holds more than tensors and plain values.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: not a folder of its own; name a checkpoint-<step> folder of transformers' Trainer")
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder}: a checkpoint of hf_tti; resume its run instead")
    if not (folder / WEIGHTS_FILE).exists():
        pickled = f"; {PICKLED_WEIGHTS} is a pickle and is not read" * (folder / PICKLED_WEIGHTS).exists()
        raise UserError(f"{folder / WEIGHTS_FILE}: missing{pickled}; the weights must be one safetensors file")
    ranks = len(list(folder.glob("rng_state_*.pth")))
    generators = [_file(folder, f"rng_state_{rank}.pth") for rank in range(ranks)] or [_file(folder, "rng_state.pth")]
    names = (TRAINER_STATE_NAME, WEIGHTS_FILE, OPTIMIZER_NAME, SCHEDULER_NAME)
    state, weights, optimizer, scheduler = paths = [_file(folder, name) for name in names]
    scaler = _file(folder, SCALER_NAME) if (folder / SCALER_NAME).exists() else None
    return StockCheckpoint(
        folder=folder,
        state=_read_state(state),
        weights=_read_weights(weights),
        optimizer=_mapping(optimizer, _unpickled(optimizer), ("state", "param_groups")),
        scheduler=_mapping(scheduler, _unpickled(scheduler), ("last_epoch",)),
        scaler=_mapping(scaler, _unpickled(scaler), ("scale",)) if scaler else None,
        generators=[_mapping(path, _unpickled(path, numpy=True), ("python", "numpy", "cpu")) for path in generators],
        sha256={path.name: file_sha256(path) for path in [*paths, *generators, *([scaler] if scaler else [])]},
    )


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink():
        raise UserError(f"{path}: a link; copy the file itself")
    if not path.is_file():
        raise UserError(f"{path}: missing; a training cannot go on exactly without it")
    return path


def _read_state(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_STATE:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        state = json.loads(path.read_text(encoding="utf-8"))
        for name in COUNTS:
            if type(state[name]) is not int or not 0 < state[name] < 2**53:
                raise ValueError(f"{name} is {str(state[name])[:40]!r}")
        if not isinstance(state["epoch"], int | float) or not math.isfinite(state["epoch"]):
            raise ValueError(f"epoch is {str(state['epoch'])[:40]!r}")
        if not isinstance(state["log_history"], list) or not all(map(_is_log_line, state["log_history"])):
            raise ValueError("log_history is no list of lines of numbers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a state of transformers' Trainer: {one_line(error)}") from error
    return state


def _is_log_line(line: Any) -> bool:
    plain = str | int | float | None
    return (
        isinstance(line, dict)
        and all(isinstance(value, plain) for value in line.values())
        and type(line.get("step")) is int
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: not a safetensors file, or damaged: {one_line(error)}") from error


def _unpickled(path: Path, *, numpy: bool = False) -> Any:
    """What `torch.save` put there, if it is tensors and plain values in an archive without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        with safe_globals() if numpy else nullcontext():
            value = torch.load(path, map_location="cpu", weights_only=True)
        _look_through(value, path.stat().st_size)
    except Exception as error:  # unpickling raises whatever it stumbles upon, out of memory included
        reason = one_line(error).partition(" Re-running ")[0].replace("Weights only load failed.", "").strip()
        raise UserError(f"{path}: not read: more than tensors and plain values, or damaged: {reason[:200]}") from error
    return value


def _look_through(value: Any, size: int) -> None:
    """Raises a ValueError for what is no plain value, more than a file of this size can hold, or without an end."""
    left = [value]
    for _ in range(_MOST_VALUES):
        if not left:
            return
        item = left.pop()
        if isinstance(item, Tensor | np.ndarray):
            if isinstance(item, Tensor) and (item.layout != torch.strided or item.is_quantized or item.is_meta):
                raise ValueError("a tensor of a kind that no optimizer keeps")
            if item.nbytes > size or isinstance(item, np.ndarray) and item.dtype.hasobject:
                raise ValueError("an array that is larger than its file, or no array of numbers")
        elif isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            left += item
        elif not isinstance(item, str | int | float | bool | None):
            raise ValueError(f"holds a {type(item).__name__}")
    raise ValueError(f"more than {_MOST_VALUES:,} values")


def _mapping(path: Path, value: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    missing = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
    if missing:
        raise UserError(f"{path}: not what transformers' Trainer saves: {missing[0]!r} is missing")
    return value


def one_line(error: BaseException) -> str:
    """What an error says, cut short."""
    return " ".join(str(error).split())[:300] or type(error).__name__
