"""Hostile caches, labels and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_list import add, nothing
from world import (
    Bomb,
    Case,
    edit,
    link,
)

from hf_tti.data import DataConfig, prepare_data
from hf_tti.labels import build_sample
from hf_tti.loading import find_checkpoint, load_tokenizer
from tiny_runs import write_stories


def _prepare(case: Case) -> None:
    write_stories(case.folder)
    config = DataConfig(name="text_files", train="stories.jsonl", vocab_size=280, block_size=32)
    data = prepare_data(config, cache_dir=case.folder / "cache", base_dir=case.folder, progress=False)
    data.tokenizer.save_pretrained(case.out / "tokenizer")
    assert len(data.train) and data.token_counts.any()


def _in_cache(pattern: str, content: Callable[[Case, Path], object]):
    """A whole cache, and in it a file whose size the record confirms."""

    def plant(case: Case) -> None:
        _prepare(case)
        (path,) = (case.folder / "cache").glob(pattern)
        content(case, path)
        for meta in (case.folder / "cache").glob("prepared/*/meta.json"):
            sizes = {
                p.relative_to(meta.parent).as_posix(): p.stat().st_size
                for p in meta.parent.rglob("*")
                if p.is_file() and p != meta
            }
            edit(meta, files=sizes)

    return plant


def _pickled(case: Case, path: Path) -> None:
    path.write_bytes(case.pickle)


def _pickled_array(case: Case, path: Path) -> None:
    np.save(path, np.array([Bomb(case.code)], dtype=object), allow_pickle=True)


add(
    "cache: a pickled array as token_counts.npy",
    _in_cache("prepared/*/token_counts.npy", _pickled_array),
    _prepare,
    refused=True,
)
add("cache: a pickle as token_counts.npy", _in_cache("prepared/*/token_counts.npy", _pickled), _prepare, refused=True)
add("cache: a pickle as an Arrow file", _in_cache("prepared/*/train/*.arrow", _pickled), _prepare, refused=True)
add(
    "cache: a pickle as dataset_info.json",
    _in_cache("prepared/*/train/dataset_info.json", _pickled),
    _prepare,
    refused=True,
)
add("cache: a pickle as the tokenizer", _in_cache("tokenizers/*/tokenizer.json", _pickled), _prepare, refused=True)
add(
    "cache: the tokenizer a link out",
    _in_cache("tokenizers/*/tokenizer.json", lambda case, path: link(path, case.outside / "secret.json")),
    _prepare,
    refused=True,
)


def _labels(text: str):
    def use(case: Case) -> None:
        (case.folder / "labels.jsonl").write_text(text, encoding="utf-8")
        config = DataConfig(name="synthetic_stories", block_size=32)
        tokenizer = load_tokenizer(find_checkpoint(case.world.base / "model"))
        build_sample(tokenizer, data=config, labels="labels.jsonl", base_dir=case.folder, max_tokens=64, max_length=32)

    return use


add("labels: nested deeply", nothing, _labels("[" * 100_000), refused=True)
add(
    "labels: a number of 10,000 digits",
    nothing,
    _labels('{"words": ["a"], "pos": [' + "9" * 10_000 + "]}"),
    refused=True,
)
add(
    "labels: control characters",
    nothing,
    _labels('{"words": ["a\\u001b[31m", "\\u202eb"], "pos": ["X\\n", "=1+1"]}\n' * 3),
)


def _data(name: str, content: bytes):
    def use(case: Case) -> None:
        (case.folder / name).write_bytes(content)
        prepare_data(
            DataConfig(name="text_files", train=name, vocab_size=280, block_size=32),
            cache_dir=case.folder / "cache",
            progress=False,
        )

    return use


add("data: JSON nested deeply", nothing, _data("deep.json", b"[" * 100_000), refused=True)
add("data: JSON lines nested deeply", nothing, _data("deep.jsonl", b"[" * 100_000), refused=True)
add(
    "data: a pickle as parquet",
    lambda case: (case.folder / "x.parquet").write_bytes(case.pickle),
    lambda case: _data("x.parquet", case.pickle)(case),
    refused=True,
)
