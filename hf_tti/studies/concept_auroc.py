"""Concept AUROC: how well a single unit tells the tokens of one concept from all others.

AUROC(i, c) = P(aᵢ(t) > aᵢ(s)) + ½ P(aᵢ(t) = aᵢ(s))               t has concept c, s has not
            = (Σ_{t has c} rank aᵢ(t) − P(P+1)/2) / (P·M)         average ranks; P tokens have it, M have not
(c*, sign) = argmax |AUROC(i, c) − ½| on even documents;  value = AUROC of (c*, sign) on odd ones, mean over units
Choosing among K concepts inflates the best on the tokens of the choice; on others ½ is the expectation where a unit
knows nothing. Sources: Hanley & McNeil 1982; detectors and unique detectors as in Bau et al. 2017 (Network Dissection).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from hf_tti.metrics.base import with_mean
from hf_tti.studies._concepts import concept_bank
from hf_tti.studies.base import Study
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject

_UNITS = 64  # units ranked at a time
_ROUNDING = 1e-12  # AUROCs this close are equal


@dataclass(frozen=True, kw_only=True)
class ConceptAuroc(Study):
    """Mean held-out AUROC over units (`layer_<i>`, ½ is chance), and under their names: `in_sample`, the same on the
    documents of the choice, so what selection adds; `beyond_types`, held out, with the choice among concepts that are
    not a single token type; `detectors`, the share of units with a held-out AUROC of at least `threshold`, and
    `unique_detectors`, how many different concepts those have; `per_concept`, the mean over concepts of the held-out
    AUROC of the unit that tells it best, of equals their mean.

    Some token type is at the extreme of nearly every unit, in any basis and with fresh weights too: with types in the
    bank trained models come close to 1; `beyond_types` and `per_concept` leave more room. Read all beside the nulls.

    Arrays: `auroc/` [D] float32, held out; `concept/` [D] int32, an index into the names; `sign/` [D] int8, -1 where
    low activations stand for the concept; `concept_auroc/` [K] float32 and `concept_unit/` [K] int32, of each concept's
    best unit; `concept_names` uint8, the K names as UTF-8, one a line. The bank is that of `studies/_concepts.py`.

    A constant unit has ½ everywhere and stays in the mean. NaN where no concept is common enough, and for a layer with
    activations that are not finite. Ranks and their sums are exact, ties included, so any increasing function of a
    unit's activations gives the same. 16,384 tokens of 1,536 units against 110 concepts: about 2 s a layer on one core.

    Args:
        sites: see `Study`.
        num_types: how many of the sample's frequent token types are concepts.
        min_count: tokens that must have a concept, and lack it, in each half.
        threshold: held-out AUROC from which a unit counts as a detector.
    """

    greater_is_better: ClassVar[bool | None] = True
    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "rotated", "shuffled_labels")

    num_types: int = field(default=32, metadata={"min": 0, "help": "How many frequent token types are concepts."})
    min_count: int = field(
        default=20, metadata={"min": 1, "help": "Tokens that must have a concept, and lack it, in each half."}
    )
    threshold: float = field(
        default=0.9,
        metadata={"exclusive_min": 0.5, "max": 1.0, "help": "Held-out AUROC from which a unit counts as a detector."},
    )

    def run(self, subject: Subject, sample: Sample, reference: Subject | None = None) -> dict[str, float | np.ndarray]:
        bank = concept_bank(sample, num_types=self.num_types, min_count=self.min_count)
        beyond = ~bank.of_one_type
        points = subject.hookpoints(self.sites)
        numbers: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {"concept_names": bank.names_array} if bank.names else {}
        for key, point in zip(self.layer_keys(points), points, strict=True):
            activations = subject.activations(sample, point).numpy()
            if not bank.names or not np.isfinite(activations).all():
                numbers |= {name: float("nan") for name in _number_keys(key)}
                continue
            even, odd = (
                auroc_matrix(activations[half], bank.holds[half]) for half in (~sample.for_scoring, sample.for_scoring)
            )
            of_units = _chosen(even, odd)
            of_concepts, units = _held_out_of_best_units(even, odd)
            detectors = of_units.held_out >= self.threshold
            values = (
                of_units.held_out.mean(),
                of_units.in_sample.mean(),
                _chosen(even[beyond], odd[beyond]).held_out.mean() if beyond.any() else np.nan,
                detectors.mean(),
                len(set(of_units.index[detectors])),
                of_concepts.mean(),
            )
            numbers |= {name: float(value) for name, value in zip(_number_keys(key), values, strict=True)}
            arrays |= {
                f"auroc/{key}": of_units.held_out.astype(np.float32),
                f"concept/{key}": of_units.index.astype(np.int32),
                f"sign/{key}": of_units.sign.astype(np.int8),
                f"concept_auroc/{key}": of_concepts.astype(np.float32),
                f"concept_unit/{key}": units.astype(np.int32),
            }
        return {**with_mean(numbers), **arrays}


def _number_keys(key: str) -> list[str]:
    names = ("", "in_sample/", "beyond_types/", "detectors/", "unique_detectors/", "per_concept/")
    return [f"{name}{key}" for name in names]


class _Choice(NamedTuple):
    """For each unit the concept [D] that was chosen, its sign, and the AUROC with that sign on either half."""

    index: np.ndarray
    sign: np.ndarray
    in_sample: np.ndarray
    held_out: np.ndarray


def _chosen(even: np.ndarray, odd: np.ndarray) -> _Choice:
    """The concept furthest from ½ in `even`, the first among equals; both are [K, D]."""
    index = np.abs(even - 0.5).argmax(axis=0)
    in_sample, held_out = (auroc[index, np.arange(len(index))] for auroc in (even, odd))
    sign = np.where(in_sample < 0.5, -1, 1)
    in_sample, held_out = (np.where(sign < 0, 1 - auroc, auroc) for auroc in (in_sample, held_out))
    return _Choice(index, sign, in_sample, held_out)


def _held_out_of_best_units(even: np.ndarray, odd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[K] in `odd`, the mean over the units that are equally far from ½ in `even`, whatever their order; and [K] the
    first of those units. Both arguments are [K, D].
    """
    distance = np.abs(even - 0.5)
    best = distance >= distance.max(axis=1, keepdims=True) - _ROUNDING
    held_out = np.where(even < 0.5, 1 - odd, odd)
    return (held_out * best).sum(axis=1) / best.sum(axis=1), best.argmax(axis=1)


def auroc_matrix(activations: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """[K, D] float64: the AUROC of units [N, D] float32 for concepts [N, K] bool; NaN for concepts of none or all."""
    holds = holds.astype(np.float64)
    positives = holds.sum(axis=0)[:, None]
    pairs = positives * (len(holds) - positives)
    rank_sums = np.empty((holds.shape[1], activations.shape[1]))
    for start in range(0, activations.shape[1], _UNITS):
        units = slice(start, start + _UNITS)
        rank_sums[:, units] = holds.T @ average_ranks(activations[:, units].T).T
    return (rank_sums - positives * (positives + 1) / 2) / np.where(pairs, pairs, np.nan)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """[D, N] float64 of [D, N] float32: ranks from 1 along the last axis, equals share their mean rank; as
    `scipy.stats.rankdata` gives them, several times as fast where many are equal.
    """
    index = np.arange(values.shape[1], dtype=np.int32)
    bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)).view(np.int32)  # -0 becomes 0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    keys = ascending.astype(np.int64) << 32 | index
    keys.sort(axis=1)
    place, value = keys & 0xFFFFFFFF, (keys >> 32).astype(np.int32)
    differs = value[:, 1:] != value[:, :-1]
    edge = np.ones((len(values), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack((edge, differs)), index, 0), axis=1)
    last = np.where(np.hstack((differs, edge)), index, len(index))
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, place, (first + last) / 2 + 1, axis=1)
    return ranks
