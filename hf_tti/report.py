"""What one evaluated checkpoint is: where it comes from, what it was measured on, and what came out.

report.json           everything but arrays; NaN and infinity are null
arrays.safetensors    per-unit values, matrices, top contexts, under the metrics' own names

Reading a report loads no torch. The arrays carry a digest of the JSON, which is written last: either both are of the
same evaluation, or `load` says that they are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from safetensors.numpy import save_file

from hf_tti.errors import UserError
from hf_tti.recipe.sections import NULL_ROWS
from hf_tti.report_form import from_json
from hf_tti.run_folder import write_text

REPORT_FILE, ARRAYS_FILE, REPORT_DIR, SAE_DIR = "report.json", "arrays.safetensors", "report", "sae"
__all__ = ["NULL_ROWS", "DataFacts", "LossShards", "ModelFacts", "Report", "find_report", "vocabulary_arrays"]

FORMAT_VERSION = 2
_DIGEST = "report_sha256"
_VOCABULARY = "vocabulary"  # of arrays: ids, and their texts as UTF-8 with the end of each


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Which weights.

    Attributes:
        source: folder or Hub id, as it was given.
        revision, commit: what was asked for, and the commit that it is; None for folders.
        model_type, num_parameters: architecture; parameters, tied ones once.
        weights_sha256: of every tensor's name, shape and values in the evaluated type; not of the file.
    """

    source: str
    revision: str | None
    commit: str | None
    model_type: str
    num_parameters: int
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Which tokens.

    Attributes:
        name: the corpus: a builder of `hf_tti/data`, or `package.module:Class`.
        fingerprint: equal for equal rows: text, tokenizer, block size, packing and bound.
        split, num_tokens: tokens prepared; a row's first is not predicted.
        tokenizer_sha256: of what decides a text's ids.
        settings: the `data:` keys that were set.
    """

    name: str
    fingerprint: str
    split: str
    num_tokens: int
    tokenizer_sha256: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LossShards:
    """Cross-entropy by shard of whole documents, for intervals over documents.

    A document's shard is its number in the corpus modulo the number of shards: the same in every report on the same
    rows.

    Attributes:
        loss_sums: [G] nats, over the predicted tokens of each shard; they add up to the whole. None: not finite.
        num_tokens: [G] predicted tokens.
    """

    loss_sums: list[float | None]
    num_tokens: list[int]

    def __post_init__(self):
        object.__setattr__(self, "loss_sums", [_finite(value) for value in self.loss_sums])
        if len(self.loss_sums) != len(self.num_tokens) or min(self.num_tokens, default=0) < 0:
            raise UserError("loss_shards: a sum and a number of tokens of at least 0 are wanted for each shard")


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluated checkpoint.

    Attributes:
        name: of the run, or of the folder or Hub id.
        model, data: which weights, which tokens.
        step: optimizer steps behind the weights, None where nothing says.
        seed: the run's `training.seed`.
        recipe: the run's resolved recipe, None where there is none.
        metrics: name -> value as `evaluate_metrics` names them (`loss` in nats, `<label>/mean`); None for what is not
            finite.
        loss_shards: cross-entropy by shard of documents.
        nulls: what the same measures say of something without structure: row of `NULL_ROWS` -> name -> value, for the
            names that the row can change. `random_init`: the architecture with fresh weights; `rotated`: activations
            turned by a random rotation of the site; `shuffled_labels`: tokens (or labels) permuted over places.
        metric_settings: label -> `metric` (or `study`) and the values of all its fields.
        metric_facts: label -> `greater_is_better` (true, false, or null where neither is claimed) and `summary`, the
            definition in one line.
        evaluation: batch_size, metric_batches (None is all), excluded_token_ids, dtype, device; of the studies' sample
            its labels, tokens and fingerprint.
        versions: of hf_tti and its libraries. git_commit: of the checkout of hf_tti that measured.
        arrays: name -> array; of a loaded report, read from its file when asked for.
    """

    format_version: ClassVar[int] = FORMAT_VERSION

    name: str
    model: ModelFacts
    step: int | None
    seed: int | None
    recipe: dict[str, Any] | None
    data: DataFacts
    metrics: dict[str, float | None]
    loss_shards: LossShards
    nulls: dict[str, dict[str, float | None]]
    metric_settings: dict[str, dict[str, Any]]
    metric_facts: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "metrics", _finite_values(self.metrics))
        object.__setattr__(self, "nulls", {row: _finite_values(values) for row, values in self.nulls.items()})

    def to_dict(self) -> dict[str, Any]:
        """What `report.json` holds: plain containers, the format's version first."""
        facts = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "arrays"}
        facts |= {name: dataclasses.asdict(facts[name]) for name in _PARTS}
        return {"format_version": FORMAT_VERSION, **facts}

    def save(self, folder: str | Path, files: Path | None = None) -> Path:
        """Writes the arrays and then the JSON, each whole or not at all. Returns the folder.

        Args:
            files: a folder whose entries are moved into `folder` in place of older ones; an older report's SAEs go.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot hold a report: {error.strerror}") from error
        text = self._text()
        temporary = folder / f".{ARRAYS_FILE}.{os.getpid()}.tmp"
        try:
            save_file(self._contiguous(), temporary, metadata={_DIGEST: _sha256(text)})
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            if files is not None and (folder / REPORT_FILE).is_file():
                shutil.rmtree(folder / SAE_DIR, ignore_errors=True)
            for entry in sorted(files.iterdir()) if files is not None else ():
                shutil.rmtree(folder / entry.name, ignore_errors=True)
                shutil.move(entry, folder / entry.name)
            os.replace(temporary, folder / ARRAYS_FILE)
        except SafetensorError as error:  # a full disk, say
            raise UserError(f"{folder}: cannot hold a report: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        write_text(folder / REPORT_FILE, text)
        shutil.copymode(folder / REPORT_FILE, folder / ARRAYS_FILE)  # safetensors makes files for the owner alone
        return folder

    def to_bytes(self) -> tuple[bytes, bytes]:
        """The contents of the two files that `save` writes."""
        text = self._text()
        return text.encode(), serialize(self._contiguous(), metadata={_DIGEST: _sha256(text)})

    def _text(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _contiguous(self) -> dict[str, np.ndarray]:
        return {key: np.ascontiguousarray(array) for key, array in self.arrays.items()}

    @classmethod
    def load(cls, path: str | Path, *, need_arrays: bool = True) -> Report:
        """The report in a folder, at the path of a `report.json`, or in the `report/` of a run folder.

        Args:
            need_arrays: False: a report whose arrays are not beside it has none.

        Raises:
            UserError: none there, a truncated or foreign file, another format version, arrays of another evaluation.
        """
        path = find_report(Path(path))
        text = _read(path)
        report = from_json(cls, _PARTS, path, text, version=FORMAT_VERSION)
        if not need_arrays and not path.with_name(ARRAYS_FILE).is_file():
            return report
        arrays = _StoredArrays(path.with_name(ARRAYS_FILE))
        if arrays.digest != _sha256(text):
            raise UserError(f"{path}: {ARRAYS_FILE} beside it is of another evaluation; run hf-tti evaluate again")
        return dataclasses.replace(report, arrays=arrays)

    def token_texts(self) -> dict[int, str]:
        """Token id -> text, of the tokens that the arrays speak of; empty where there are none."""
        if f"{_VOCABULARY}/ids" not in self.arrays:
            return {}
        ids, text, ends = (self.arrays[f"{_VOCABULARY}/{name}"] for name in ("ids", "text", "ends"))
        raw = text.tobytes()
        starts = [0, *ends[:-1]]
        return {
            int(token): raw[start:end].decode("utf-8", errors="replace")
            for token, start, end in zip(ids, starts, ends, strict=True)
        }


def vocabulary_arrays(texts: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Arrays from which `Report.token_texts` reads them again."""
    encoded = [text.encode("utf-8", errors="replace") for text in texts.values()]
    return {
        f"{_VOCABULARY}/ids": np.array(list(texts), dtype=np.int32),
        f"{_VOCABULARY}/text": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        f"{_VOCABULARY}/ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
    }


_PARTS = {"model": ModelFacts, "data": DataFacts, "loss_shards": LossShards}


def find_report(path: Path) -> Path:
    """The `report.json` that a path stands for.

    Raises:
        UserError: there is none.
    """
    choices = [path] if path.is_file() else [path / REPORT_FILE, path / REPORT_DIR / REPORT_FILE]
    for choice in choices:
        if choice.is_file():
            return choice
    raise UserError(f"{path}: holds no report ({REPORT_FILE}); make one with hf-tti evaluate")


class _StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a file, each read when it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        if not path.is_file():
            raise UserError(f"{path}: missing; the report is incomplete, run hf-tti evaluate again")
        try:
            with safe_open(path, "numpy") as stored:
                self._names = tuple(stored.keys())
                self.digest = (stored.metadata() or {}).get(_DIGEST)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path}: truncated or not a safetensors file ({error}); run hf-tti evaluate again"
            ) from error

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "numpy") as stored:
            return stored.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _finite_values(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: _finite(value) for key, value in values.items()}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
