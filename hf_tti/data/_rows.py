"""Rows of token ids on disk: memory-mapped Arrow data sets, written batch by batch."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tti.data._packing import Row

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_PER_WRITE = 1000
_META = "meta.json"


def save_rows(
    rows: Iterable[Row], folder: Path, *, num_ids: int, masks: bool, advance: Callable[[int], Any]
) -> np.ndarray:
    """Writes a data set (ids int32, masks int8) that `datasets.load_from_disk` reads.

    Args:
        num_ids: V; every id is below it.
        advance: called with the number of tokens of each batch written.

    Returns:
        How often each id occurs, int64 `[V]`.
    """
    import datasets
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    columns = {"input_ids": pa.int32()} | ({"attention_mask": pa.int8()} if masks else {})
    features = datasets.Features({name: datasets.List(datasets.Value(str(t))) for name, t in columns.items()})
    counts = np.zeros(num_ids, dtype=np.int64)
    rows = iter(rows)
    raw = folder.with_name(f"{folder.name}.arrow")
    with ArrowWriter(path=str(raw), features=features) as writer:
        while batch := list(islice(rows, _ROWS_PER_WRITE)):
            arrays = {name: pa.array([row[name] for row in batch], pa.list_(t)) for name, t in columns.items()}
            writer.write_table(pa.table(arrays))
            ids = arrays["input_ids"].values.to_numpy()
            counts += np.bincount(ids, minlength=num_ids)
            advance(len(ids))
        writer.finalize()
    if counts.any():
        _save_quietly(datasets.Dataset.from_file(str(raw)), folder)
    raw.unlink()
    return counts


def load_rows(folder: Path) -> "Dataset":
    """The data set that `save_rows` wrote, memory-mapped."""
    import datasets

    return datasets.load_from_disk(str(folder))


def write_meta(folder: Path, **values: Any) -> None:
    """Records values, and the size of every file, in meta.json."""
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    (folder / _META).write_text(json.dumps({**values, "files": files}, indent=1) + "\n")


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The recorded values; None when meta.json or a file is missing or has changed in size."""
    try:
        meta = json.loads((folder / _META).read_text())
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if sizes == meta["files"] else None


def _save_quietly(dataset: "Dataset", folder: Path) -> None:
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        dataset.save_to_disk(str(folder))
    finally:
        if not were_disabled:
            enable_progress_bars()
