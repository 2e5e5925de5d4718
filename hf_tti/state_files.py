"""Nested state (optimizers, schedulers, generators) as one safetensors file: tensors in it, structure in its metadata.

Nothing is pickled and nothing is run on reading. Numbers come back with the same bits, mappings with their key types;
NumPy scalars as Python's, subclasses of dict, list and tuple as these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_tti.errors import UserError

_STRUCTURE = "structure"
_PLAIN = (type(None), bool, int, float, str)


def save_state(state: Any, path: Path) -> None:
    """Write dicts, lists, tuples, numbers, texts, tensors and NumPy arrays.

    Raises:
        UserError: a value of another type, names its place; or one that safetensors has no type for.
        OSError, SafetensorError: the disk refuses it.
    """
    tensors: dict[str, Tensor] = {}
    try:
        structure = json.dumps(_encode(state, "", tensors, path))
        save_file(tensors, path, metadata={_STRUCTURE: structure})
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:  # RecursionError is one
        raise UserError(f"{path.name}: cannot be kept: {' '.join(str(error).split())[:300]}") from error


def load_state(path: Path) -> Any:
    """What `save_state` wrote, tensors on the CPU.

    Raises:
        UserError: no such file, or one that is truncated or not of this kind.
    """
    try:
        with safe_open(path, "pt", device="cpu") as stored:
            structure = json.loads((stored.metadata() or {})[_STRUCTURE])
            # copies: else they are views of the file, and change or vanish with it
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}
        return _decode(structure, tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not a state file of hf_tti, or damaged: {' '.join(str(error).split())}") from error


def _encode(value: Any, place: str, tensors: dict[str, Tensor], path: Path) -> Any:
    """JSON: plain values as they are, everything else as a list whose first entry says what it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor | np.ndarray):
        name = f"{len(tensors)}:{place}"
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(value.copy(order="C"))
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return ["tensor" if isinstance(value, Tensor) else "array", name]
    if isinstance(value, dict):
        keys = [key for key in value if type(key) not in _PLAIN]
        if not keys:
            pairs = [[key, _encode(item, f"{place}.{key}", tensors, path)] for key, item in value.items()]
            return ["dict", pairs]
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{place}.{index}", tensors, path) for index, item in enumerate(value)]
        return ["list" if isinstance(value, list) else "tuple", items]
    raise UserError(f"{path.name}: cannot keep {place.lstrip('.') or 'it'}, a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    return items if kind == "list" else tuple(items)
