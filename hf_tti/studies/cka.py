"""Centred kernel alignment: how alike two layers represent the same tokens, whatever the rotation or scale.

HSIC₁(K, L) = [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1 / ((N−1)(N−2)) − 2/(N−2)·1ᵀK̃L̃1] / (N(N−3))
CKA(X, Y) = HSIC₁(K, L) / √(HSIC₁(K, K)·HSIC₁(L, L))
K = XXᵀ, L = YYᵀ [N, N], K̃ and L̃ without their diagonals. HSIC₁ is unbiased: independent features average 0 at any N,
where the plain estimator nears 1 for N < D. Sources: Song et al. 2012 (eq. 5); Kornblith et al. 2019
(arXiv:1905.00414); Nguyen et al. 2021 (arXiv:2010.15327).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hf_tti.errors import UserError
from hf_tti.metrics.base import with_mean
from hf_tti.sites import Hookpoint
from hf_tti.studies.base import Study
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject

_ROWS = 2048  # tokens made float64 at a time


@dataclass(frozen=True, kw_only=True)
class Cka(Study):
    """CKA of each layer with the next (`layer_<i>`; the last has none) and of all pairs (the array `matrix` [L, L]
    float64). With a reference model also of the layers of the same number (`reference/layer_<i>`) and of the subject's
    layers × the reference's (`reference_matrix` [L, R]). With several sites `mlp.out/layer_<i>`, and the matrices have
    the sites in turn.

    At most 1, up to sampling error not below 0. NaN with fewer than four tokens and for a layer that hardly varies
    (HSIC₁(K, K) ≤ 0). O(N·D²) a pair, float64: six layers of 384 units, 16,384 tokens, 3 s on one core; 40 s of 1,536
    units. The default is the residual stream: no rotation of a site changes anything here.
    """

    greater_is_better: ClassVar[bool | None] = None
    null_rows: ClassVar[tuple[str, ...]] = ("random_init",)

    sites: tuple[str, ...] = ("resid",)

    def run(self, subject: Subject, sample: Sample, reference: Subject | None = None) -> dict[str, float | np.ndarray]:
        points = subject.hookpoints(self.sites)
        keys = self.layer_keys(points)
        layers = _layers(subject, sample, points)
        matrix = cka_matrix(layers, layers)
        prefixes = [key.rpartition("layer_")[0] for key in keys]
        numbers = {f"{prefix}mean": float("nan") for prefix in prefixes}  # stays so with a single layer
        for prefix in dict.fromkeys(prefixes):
            own = [i for i, other in enumerate(prefixes) if other == prefix]
            numbers |= with_mean({keys[i]: float(matrix[i, j]) for i, j in pairwise(own)})
        arrays = {"matrix": matrix}
        if reference is not None:
            _check_reference(subject, reference, sample)
            others = reference.hookpoints(self.sites)
            matrix = cka_matrix(layers, _layers(reference, sample, others))
            columns = {key: j for j, key in enumerate(self.layer_keys(others))}
            shared = [(i, key) for i, key in enumerate(keys) if key in columns]
            numbers |= with_mean({f"reference/{key}": float(matrix[i, columns[key]]) for i, key in shared})
            arrays["reference_matrix"] = matrix
        return {**numbers, **arrays}


def _layers(subject: Subject, sample: Sample, points: Sequence[Hookpoint]) -> list[Tensor]:
    return [subject.activations(sample, point) for point in points]


def cka_matrix(rows: Sequence[Tensor], columns: Sequence[Tensor]) -> np.ndarray:
    """[L, R] float64: unbiased linear CKA of features [N, D] with features [N, D'] of the same N tokens, for all pairs
    of the two lists. Symmetric with ones on the diagonal where they are the same list.
    """
    left = [_Features(x) for x in rows]
    right = left if columns is rows else [_Features(y) for y in columns]
    result = np.empty((len(left), len(right)))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            result[i, j] = result[j, i] if right is left and j < i else _cka(x, y)
    return result


class _Features:
    """Features of N tokens around their mean, made float64 a block at a time. HSIC₁ does not see the mean, and without
    it the sums over rows of K̃ are minus its diagonal.
    """

    def __init__(self, rows: Tensor):
        self._rows = rows
        if len(rows):
            mean, low = rows.mean(dim=0, dtype=torch.float64), rows.amin(dim=0)
            self._mean = torch.where(low == rows.amax(dim=0), low.double(), mean)  # a constant becomes exactly zero
        self.squares = torch.cat([rows.new_zeros(0).double(), *(block.square().sum(dim=1) for block in self.blocks())])
        self.hsic = _hsic(self, self)

    def blocks(self) -> Iterator[Tensor]:
        for block in self._rows.split(_ROWS) if len(self._rows) else ():
            yield block.double() - self._mean


def _hsic(x: _Features, y: _Features) -> float:
    """HSIC₁; NaN with fewer than four tokens."""
    n = len(x.squares)
    if n < 4:
        return float("nan")
    product = sum(a.T @ b for a, b in zip(x.blocks(), y.blocks(), strict=True))
    diagonals = x.squares @ y.squares
    # tr(K̃L̃) = ‖XᵀY‖² − k·l,  K̃1 = −k,  1ᵀK̃L̃1 = k·l
    total = product.square().sum() - diagonals * n / (n - 2)
    total += x.squares.sum() * y.squares.sum() / ((n - 1) * (n - 2))
    return float(total) / (n * (n - 3))


def _cka(x: _Features, y: _Features) -> float:
    if x is y:
        return 1.0 if x.hsic > 0 else float("nan")
    scale = x.hsic * y.hsic if min(x.hsic, y.hsic) > 0 else float("nan")
    return _hsic(x, y) / math.sqrt(scale)


def _check_reference(subject: Subject, reference: Subject, sample: Sample) -> None:
    own, other = (one.model.config.get_text_config() for one in (subject, reference))
    if own.vocab_size != other.vocab_size:
        raise UserError(
            f"reference: its vocabulary has {other.vocab_size:,} tokens, the model's {own.vocab_size:,}; both must "
            "read the same tokens: name a model with the same tokenizer"
        )
    longest = max(map(len, sample.rows), default=0)
    positions = getattr(other, "max_position_embeddings", None)
    if positions is not None and positions < longest:
        raise UserError(f"reference: it takes {positions:,} positions, the sample's longest document has {longest:,}")
