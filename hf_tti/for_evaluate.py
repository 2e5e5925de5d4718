"""The metrics as metrics of HuggingFace's `evaluate`: texts and a model in, the numbers of `hf-tti evaluate` out.

    metrics = evaluate.combine(as_evaluate_metrics(["perplexity", "l0"]))
    metrics.compute(predictions=texts, model_id="runs/try")

Called like `evaluate`'s own perplexity. Nothing is fetched but a model that is named by a Hub id.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Features, Value
from torch.utils.data import DataLoader

from hf_tti.components import component_names, load_component
from hf_tti.data import CausalLMCollator, DataConfig
from hf_tti.data._packing import one_per_row, pack, tokenize
from hf_tti.errors import UserError, did_you_mean
from hf_tti.evaluation import evaluate_metrics
from hf_tti.loading import Checkpoint, check_vocabulary, find_checkpoint, load_model, load_tokenizer
from hf_tti.measures import Measures
from hf_tti.metrics.base import Metric

try:
    import evaluate
except ImportError as error:
    raise UserError("evaluate is not installed; pip install 'hf-tti[analysis]'") from error

PERPLEXITY = "perplexity"  # cross-entropy and what follows from it, beside the names of metrics
_OF_CROSS_ENTROPY = ("loss", "perplexity", "num_tokens")
_USAGE = """
Args:
    predictions: texts, a document each; blank ones are left out.
    model_id: a run folder, a checkpoint, a folder with config.json, or a Hub id.
    revision: branch, tag or commit on the Hub.
    batch_size: rows in a forward.
    max_length: tokens in a row. Default: the recipe's block size, else the model's positions, 512 at most.
    device: default: an accelerator, else the CPU.
Returns:
    numbers by the names of `hf-tti evaluate`; NaN where there is nothing to measure.
"""


class InterpMetric(evaluate.Metric):
    """One metric for `evaluate`, made by `as_evaluate_metrics`.

    Texts are joined into rows, each followed by the end-of-text token, as training does (one a row where the model's
    recipe says `packing: false`), and the model is read in float32.

    Attributes:
        greater_is_better: which way is more interpretable; None where neither is claimed.

    Args:
        label: in front of the names of values.
        shared: what this metric and those beside it find in one pass.
        settings: of `evaluate.Metric`. Each has an `experiment_id` of its own, unless given, so that processes that run
            side by side have files of their own.
    """

    def __init__(self, label: str, shared: SharedPass, **settings: Any):
        self.label, self._shared = label, shared
        facts = Measures({name: metric for name, metric in shared.metrics.items() if metric is not None}, {}).facts()
        perplexity = {
            "greater_is_better": False,
            "summary": "Perplexity: exp of the token mean of cross-entropy, in nats.",
        }
        self._facts = facts.get(label, perplexity)
        self.greater_is_better: bool | None = self._facts["greater_is_better"]
        super().__init__(**{"config_name": label, "experiment_id": uuid.uuid4().hex, **settings})
        self.info.module_name = label

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self._facts["summary"],
            citation="",
            inputs_description=_USAGE,
            features=Features({"predictions": Value("string")}),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        model_id: str,
        revision: str | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
        device: str | None = None,
    ) -> dict[str, float]:
        reading = {"batch_size": batch_size, "max_length": max_length, "device": device}
        return self._shared.values(self.label, predictions, find_checkpoint(model_id, revision), reading)


def as_evaluate_metrics(metrics: Iterable[str] | Mapping[str, Metric], **settings: Any) -> list[InterpMetric]:
    """Metrics for `evaluate.combine`, which load the model and run it once for all of them.

    Args:
        metrics: names of built-in metrics, `perplexity`, `package.module:Class`; or label -> Metric.
        settings: of `evaluate.Metric`: `cache_dir`, `keep_in_memory`, ...

    Raises:
        UserError: an unknown name.
    """
    chosen = dict(metrics) if isinstance(metrics, Mapping) else {name: _metric(name, {}) for name in metrics}
    shared = SharedPass(chosen)
    return [InterpMetric(label, shared, **settings) for label in chosen]


def as_evaluate_metric(name: str, *, cache_dir: str | None = None, **fields: Any) -> InterpMetric:
    """One metric for `evaluate`, with its own fields: `as_evaluate_metric("activation_sparsity", threshold=0.05)`.

    Raises:
        UserError: an unknown name or field, a value out of range.
    """
    return InterpMetric(name, SharedPass({name: _metric(name, fields)}), cache_dir=cache_dir)


class SharedPass:
    """What one pass found for several metrics, until each has asked for its part or anything is another.

    Args:
        metrics: label -> Metric, None for `perplexity`.
    """

    def __init__(self, metrics: Mapping[str, Metric | None]):
        self.metrics = dict(metrics)
        self._key: Any = None
        self._waiting: dict[str, dict[str, float]] = {}

    def values(
        self, label: str, texts: Sequence[str], place: Checkpoint, reading: Mapping[str, Any]
    ) -> dict[str, float]:
        """The values of one metric, which nobody is given twice."""
        texts = [stripped for text in texts if (stripped := text.strip())]
        key = (place.source, place.commit, _files(place), _digest(texts), *reading.values())
        if key != self._key or label not in self._waiting:
            found = _measured(
                texts, place, {name: metric for name, metric in self.metrics.items() if metric is not None}, **reading
            )
            self._key, self._waiting = key, {name: _of_label(found, name) for name in self.metrics}
        return self._waiting.pop(label)


def _measured(
    texts: Sequence[str],
    place: Checkpoint,
    metrics: Mapping[str, Metric],
    *,
    batch_size: int,
    max_length: int | None,
    device: str | None,
) -> dict[str, float]:
    if not texts:
        raise UserError("predictions: no text")
    tokenizer, model = load_tokenizer(place), load_model(place)
    check_vocabulary(place, model, tokenizer)
    config = DataConfig(**place.recipe.data) if place.recipe else None
    length = max_length or (config.block_size if config else None)
    if length is None:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        length = min(positions or DataConfig.block_size, DataConfig.block_size)
    documents = tokenize(texts, tokenizer)
    packed = config is None or config.packing
    rows = list(pack(documents, length, keep_tail=True) if packed else one_per_row(documents, length))
    excluded = (place.recipe.training.get("excluded_token_ids") if place.recipe else None) or ()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    model.to(device or accelerator or "cpu")
    found = evaluate_metrics(
        model,
        DataLoader(rows, batch_size=batch_size, collate_fn=CausalLMCollator()),
        metrics,
        eos_token_id=tokenizer.eos_token_id,
        excluded_token_ids=tuple(excluded),
    )
    if not found["num_tokens"]:
        raise UserError("predictions: no token to predict: every row holds a single token")
    return found


def _metric(name: str, fields: Mapping[str, Any]) -> Metric | None:
    if name == PERPLEXITY and not fields:
        return None
    names = sorted([*component_names("metrics"), PERPLEXITY])
    if name not in names and ":" not in name:
        raise UserError(f"metrics: unknown name {name!r}{did_you_mean(name, names)}; choices: {', '.join(names)}")
    if name == PERPLEXITY:
        raise UserError(f"{PERPLEXITY}: has no settings, and {', '.join(fields)} was given")
    try:
        return load_component("metrics", name)(**fields)
    except TypeError as error:  # an unknown field
        raise UserError(f"{name}: {str(error).partition(') ')[2] or error}") from error


def _of_label(found: Mapping[str, float], label: str) -> dict[str, float]:
    own = {key: value for key, value in found.items() if key.startswith(f"{label}/")}
    return own or {key: found[key] for key in _OF_CROSS_ENTROPY}


def _files(place: Checkpoint) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the model's files: a folder that was trained further is another model."""
    folder = Path(place.source)
    stats = {path.name: path.stat() for path in sorted(folder.glob("*")) if path.is_file()} if folder.is_dir() else {}
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
