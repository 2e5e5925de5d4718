"""How an evaluation reads a model: as a stream for metrics, on a sample for studies; each with its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_tti.cross_entropy import DocumentShards
from hf_tti.data import CausalLMCollator
from hf_tti.evaluation import MetricAccumulator, accumulate
from hf_tti.metrics.base import Metric
from hf_tti.nulls import ShuffledTokens, rotated_forward
from hf_tti.report import NULL_ROWS, LossShards
from hf_tti.studies.base import Study
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject, random_init, rotated

_OF_CROSS_ENTROPY = ("loss", "perplexity", "num_tokens")


@dataclass
class Found:
    """What came out so far, as the report names it."""

    metrics: dict[str, float] = field(default_factory=dict)
    nulls: dict[str, dict[str, float]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def add_null(self, row: str, values: Mapping[str, float]) -> None:
        self.nulls.setdefault(row, {}).update(values)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Validation rows in their order, and how they are read."""

    rows: Any
    batch_size: int
    rows_continue: bool
    eos_token_id: int
    excluded_token_ids: tuple[int, ...]
    metric_batches: int | None
    progress: bool = False

    def measure(
        self, model: PreTrainedModel, metrics: Mapping[str, Metric], nulls: Sequence[str], found: Found
    ) -> LossShards:
        """Metrics and nulls into `found`; two passes, the second for the model with fresh weights."""
        shards = DocumentShards(self.eos_token_id, rows_continue=self.rows_continue)
        main = self._accumulator(model, metrics, shards=shards)
        views = {"rotated": rotated_forward, "shuffled_labels": ShuffledTokens()}
        also = {
            row: self._accumulator(model, _speaking(metrics, row), view=view)
            for row, view in views.items()
            if row in nulls
        }
        self._run(model, main, list(also.values()), "metrics")
        found.metrics |= main.finalize()
        found.arrays |= main.arrays()
        for row, accumulator in also.items():
            values = accumulator.finalize()
            found.add_null(row, {key: value for key, value in values.items() if key not in _OF_CROSS_ENTROPY})
        if "random_init" in nulls:
            fresh = random_init(model)
            accumulator = self._accumulator(fresh, _speaking(metrics, "random_init"))
            self._run(fresh, accumulator, [], "metrics, random init")
            found.add_null("random_init", accumulator.finalize())
        return LossShards(loss_sums=shards.loss_sums.tolist(), num_tokens=shards.num_tokens.tolist())

    def _accumulator(self, model: PreTrainedModel, metrics: Mapping[str, Metric], **others: Any) -> MetricAccumulator:
        return MetricAccumulator(
            model,
            metrics,
            max_batches=self.metric_batches,
            eos_token_id=self.eos_token_id,
            excluded_token_ids=self.excluded_token_ids,
            **others,
        )

    def _run(
        self, model: PreTrainedModel, main: MetricAccumulator, also: Sequence[MetricAccumulator], description: str
    ) -> None:
        loader = DataLoader(self.rows, batch_size=self.batch_size, collate_fn=CausalLMCollator())
        accumulate(model, loader, main, also=also, progress=self.progress, description=description)


def _speaking(measures: Mapping[str, Any], row: str) -> dict[str, Any]:
    """The measures that a null can tell something of."""
    return {label: measure for label, measure in measures.items() if row in measure.null_rows}


# ---- Studies -----------------------------------------------------------------------------------


def run_studies(
    model: PreTrainedModel,
    sample: Sample,
    studies: Mapping[str, Study],
    nulls: Sequence[str],
    found: Found,
    *,
    reference: PreTrainedModel | None = None,
    files: Path | None = None,
    progress: bool = False,
) -> None:
    """Studies and their nulls into `found`; one subject's activations in memory at a time.

    Args:
        files: folder for what studies of the model itself leave in files; None drops it.
    """
    sites = tuple(dict.fromkeys(site for study in studies.values() for site in study.sites))
    other = None if reference is None else Subject(reference.to(model.device), sites, name="reference")
    rows = {"": studies, **{row: _speaking(studies, row) for row in NULL_ROWS if row in nulls}}
    shuffled = rows.pop("shuffled_labels", {})  # on the trained model's activations, while they are there
    with tqdm(total=sum(map(len, rows.values())) + len(shuffled), desc="studies", disable=not progress) as bar:
        for row, chosen in rows.items():
            if not chosen:
                continue
            subject = _subject(model, sites, row)
            for label, study in chosen.items():
                if files is not None and not row:
                    results = study.run_and_save(subject, sample, files, other)
                else:
                    results = study.run(subject, sample, other)
                _keep(found, row, label, results)
                bar.update()
            for label, study in shuffled.items() if not row else ():
                _keep(found, "shuffled_labels", label, study.run(subject, sample.with_shuffled_labels(), None))
                bar.update()


def _subject(model: PreTrainedModel, sites: Sequence[str], row: str) -> Subject:
    if row == "random_init":
        return Subject(random_init(model), sites, name=row)
    return Subject(model, sites, name=row or "trained", view=rotated if row == "rotated" else None)


def _keep(found: Found, row: str, label: str, results: Mapping[str, float | np.ndarray]) -> None:
    numbers = {f"{label}/{key}": value for key, value in results.items() if not isinstance(value, np.ndarray)}
    if row:
        found.add_null(row, numbers)
        return
    found.metrics |= numbers
    found.arrays |= {f"{label}/{key}": value for key, value in results.items() if isinstance(value, np.ndarray)}
