"""From the `data:` section of a recipe to packed data sets, a tokenizer and token counts.

Prepared data is kept under a fingerprint of everything it depends on: the corpus's content, the
tokenizer and the settings that shape rows. The same fingerprint means the same rows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from hf_tti.components import load_component
from hf_tti.data._cache import build_folder, default_cache_dir, discard_folder
from hf_tti.data._config import DataConfig
from hf_tti.data._packing import Row, one_per_row, pack, tokenize, until
from hf_tti.data._rows import load_rows, read_meta, save_rows, write_meta
from hf_tti.data._tokenizers import (
    DEFAULT_VOCAB_SIZE,
    load_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
    trained_tokenizer_key,
    training_chars,
)
from hf_tti.data.base import Split, StoryBuilder, fingerprint_of
from hf_tti.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
STREAM_COUNTED_TOKENS = 1_000_000
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class PreparedData:
    """What a run trains and evaluates on.

    `train` and `validation` hold rows `{"input_ids": list[int]}`, with `attention_mask` where
    packing is off. `token_counts` is int64 `[V]`, V = len(tokenizer): how often each id occurs in
    the training rows; of a stream, in about its first 1,000,000 tokens. `num_train_tokens` is None
    for a stream.
    """

    train: "Dataset | IterableDataset"
    validation: "Dataset"
    tokenizer: "PreTrainedTokenizerBase"
    token_counts: np.ndarray
    num_train_tokens: int | None
    num_validation_tokens: int
    fingerprint: str


@dataclass(frozen=True)
class PreparedValidation:
    """What a model is evaluated on: rows as in `PreparedData.validation`."""

    rows: "Dataset"
    num_tokens: int
    fingerprint: str


def prepare_data(
    config: DataConfig,
    *,
    cache_dir: Path | None = None,
    base_dir: Path | None = None,
    progress: bool = True,
) -> PreparedData:
    """Tokenises and packs a corpus, or loads what an earlier call prepared.

    Args:
        cache_dir: default $HF_TTI_CACHE, else ~/.cache/hf_tti.
        base_dir: where relative paths start; default the current directory.
        progress: bars on standard error.

    Raises:
        UserError: an unknown corpus, missing files or columns, no text, less text than one block.
    """
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    builder = load_component("data", config.name)(config, Path.cwd() if base_dir is None else Path(base_dir))
    tokenizer = _tokenizer(builder, cache_dir)
    fingerprint = _fingerprint(builder, tokenizer)
    folder = cache_dir / "prepared" / _folder_name(config, fingerprint)
    meta = _build(folder, partial(_fill, builder=builder, tokenizer=tokenizer, splits=SPLITS, progress=progress))
    return PreparedData(
        train=_stream(builder, tokenizer) if config.streaming else _loaded(load_rows, folder / "train"),
        validation=_loaded(load_rows, folder / "validation"),
        tokenizer=tokenizer,
        token_counts=_loaded(np.load, folder / "token_counts.npy"),
        num_train_tokens=meta["num_tokens"].get("train"),
        num_validation_tokens=meta["num_tokens"]["validation"],
        fingerprint=fingerprint,
    )


def prepare_validation(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    cache_dir: Path | None = None,
    base_dir: Path | None = None,
    progress: bool = True,
) -> PreparedValidation:
    """The validation rows alone, for a tokenizer at hand: equal to those of `prepare_data` where it has that tokenizer.

    Args:
        tokenizer: wins over what `config` says of one.
        cache_dir, base_dir, progress: as in `prepare_data`.

    Raises:
        UserError: as `prepare_data`, for the validation split.
    """
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    builder = load_component("data", config.name)(config, Path.cwd() if base_dir is None else Path(base_dir))
    shape = [config.block_size, config.packing, builder.max_tokens("validation")]
    corpus, reader = builder.fingerprint("validation"), tokenizer_fingerprint(tokenizer)
    fingerprint = fingerprint_of("validation", FORMAT_VERSION, corpus, reader, shape)
    folder = cache_dir / "prepared" / _folder_name(config, fingerprint)
    fill = partial(_fill, builder=builder, tokenizer=tokenizer, splits=("validation",), progress=progress)
    meta = _build(folder, fill)
    return PreparedValidation(_loaded(load_rows, folder / "validation"), meta["num_tokens"]["validation"], fingerprint)


def _loaded(load: Callable[[Path], Any], path: Path) -> Any:
    try:
        return load(path)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:  # pyarrow's own among them
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{path}: not what was prepared ({reason[:200]}); remove {path.parent}") from error


def _build(folder: Path, fill: Callable[[Path], None]) -> dict[str, Any]:
    """The record of the folder, filled unless it is there whole."""
    meta = read_meta(build_folder(folder, fill))
    if meta is None:
        logger.warning("prepared data in %s is damaged; preparing it again", folder)
        discard_folder(folder)
        meta = read_meta(build_folder(folder, fill))
        assert meta is not None, folder
    return meta


def make_rows(builder: StoryBuilder, tokenizer: "PreTrainedTokenizerBase", split: Split) -> Iterator[Row]:
    """The rows of one split, made on the fly."""
    config = builder.config
    documents = tokenize(builder.stories(split), tokenizer)
    if config.packing:
        rows = pack(documents, config.block_size, keep_tail=split == "validation")
    else:
        rows = one_per_row(documents, config.block_size)
    yield from until(rows, builder.max_tokens(split))


def _tokenizer(builder: StoryBuilder, cache_dir: Path) -> "PreTrainedTokenizerBase":
    config = builder.config
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer, builder.base_dir)
    vocab_size = config.vocab_size or DEFAULT_VOCAB_SIZE
    num_chars = training_chars(builder.max_tokens("train"))
    key = trained_tokenizer_key(builder.fingerprint("train"), vocab_size, num_chars)

    def fill(folder: Path) -> None:
        stories = builder.stories("train")
        first = next(stories, None)
        if first is None:
            raise _no_rows(builder, "train", num_tokens=0)
        tokenizer = train_tokenizer(chain([first], stories), vocab_size, num_chars)
        tokenizer.save_pretrained(folder)

    folder = build_folder(cache_dir / "tokenizers" / _folder_name(config, key), fill)
    return load_tokenizer(str(folder.resolve()), builder.base_dir)


def _fingerprint(builder: StoryBuilder, tokenizer: "PreTrainedTokenizerBase") -> str:
    config = builder.config
    shape = [
        config.block_size,
        config.packing,
        config.streaming,
        [builder.max_tokens(s) for s in SPLITS],
    ]
    corpus = [builder.fingerprint(split) for split in SPLITS]
    return fingerprint_of("prepared", FORMAT_VERSION, corpus, tokenizer_fingerprint(tokenizer), shape)


def _folder_name(config: DataConfig, key: str) -> str:
    return f"{config.name.replace(':', '.')}-{key[:16]}"


def _fill(
    folder: Path,
    *,
    builder: StoryBuilder,
    tokenizer: "PreTrainedTokenizerBase",
    splits: Sequence[Split],
    progress: bool,
) -> None:
    counts = {}
    for split in splits:
        rows, limit = make_rows(builder, tokenizer, split), builder.max_tokens(split)
        if builder.config.streaming and split == "train":
            limit = min(limit or STREAM_COUNTED_TOKENS, STREAM_COUNTED_TOKENS)
            rows = until(rows, limit)
        bar = tqdm(
            total=limit,
            desc=f"preparing {split}",
            unit="tok",
            unit_scale=True,
            disable=not progress,
        )
        with bar:
            counts[split] = save_rows(
                rows,
                folder / split,
                num_ids=len(tokenizer),
                masks=not builder.config.packing,
                advance=bar.update,
            )
        if not counts[split].any():
            num_tokens = sum(map(len, tokenize(builder.stories(split), tokenizer)))
            raise _no_rows(builder, split, num_tokens=num_tokens)
    if "train" in counts:
        np.save(folder / "token_counts.npy", counts["train"])
    counted = [split for split in splits if not (builder.config.streaming and split == "train")]
    num_tokens = {split: int(counts[split].sum()) for split in counted}
    write_meta(folder, num_tokens=num_tokens)


def _stream(builder: StoryBuilder, tokenizer: "PreTrainedTokenizerBase") -> "IterableDataset":
    from datasets import IterableDataset

    return IterableDataset.from_generator(
        make_rows, gen_kwargs={"builder": builder, "tokenizer": tokenizer, "split": "train"}
    )


def _no_rows(builder: StoryBuilder, split: Split, *, num_tokens: int) -> UserError:
    config = builder.config
    if num_tokens:
        return UserError(
            f"data.block_size: the {split} text of {config.name!r} has {num_tokens} tokens, fewer "
            f"than one "
            f"block of {config.block_size}; give more text or a smaller block_size"
        )
    where = {"train": config.train, "validation": config.validation or config.train}[split]
    hint = ""
    if split == "validation" and config.validation is None and where is not None:
        hint = " held out of it (too few documents for 1 in 20); give data.validation"
    return UserError(f"data.{split}: no text in {where or config.name!r}{hint}")
