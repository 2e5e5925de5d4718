"""Whether `final/`, the model that a run ends with, is as it was written.

It is staged and published as a checkpoint is (`hf_tti.checkpoints`), and its manifest verifies in the same way. Runs
of earlier versions have no manifest in it: of those the weights' headers and sizes and the form of the JSON files are
looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_tti.checkpoints import MANIFEST, is_still_whole, problems_of

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def problems_of_final(folder: Path) -> list[str]:
    """What is wrong with a run's `final/`, one line a file; empty where nothing is. Moves and writes nothing.

    Files that this process found whole, and nobody touched since, are not read again.
    """
    if not folder.is_dir():
        return [f"{folder}: missing"]
    try:
        if (folder / MANIFEST).exists() or folder.is_symlink():
            return [] if is_still_whole(folder) else problems_of(folder)
        return list(_without_manifest(folder))
    except OSError as error:
        return [f"{folder}: cannot be read: {error.strerror or error}"]


def _without_manifest(folder: Path) -> Iterator[str]:
    there = {path.name for path in folder.iterdir() if path.is_file()}
    needed = {_CONFIG, *(_shards(folder / _INDEX) if _INDEX in there else [_WEIGHTS])}
    yield from (f"{folder / name}: missing" for name in sorted(needed - there))
    for name in sorted(there):
        if name.endswith(".json") and _json(folder / name) is None:
            yield f"{folder / name}: damaged: not JSON"
        elif name.endswith(".safetensors") and (reason := _reason(folder / name)):
            yield f"{folder / name}: damaged: {reason}"


def _shards(index: Path) -> set[str]:
    content = _json(index)
    files = content.get("weight_map") if isinstance(content, dict) else None
    return {str(name) for name in files.values()} if isinstance(files, dict) else set()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def _reason(path: Path) -> str:
    """Why a safetensors file cannot be whole: its header, or a size that is not the header's; else nothing."""
    try:
        with safe_open(path, framework="numpy"):
            return ""
    except (SafetensorError, OSError, ValueError) as error:
        return " ".join(str(error).split())[:200]
