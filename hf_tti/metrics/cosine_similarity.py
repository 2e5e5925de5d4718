"""Cosine similarity between units over tokens: the mean of |cos| over pairs of different units, per
layer.

    cos_ij = Σ_t a_ti a_tj / √(Σ_t a_ti² · Σ_t a_tj²),   value = mean over i ≠ j of |cos_ij|

Over all tokens of the pass, never a sample of them: for N independent tokens |cos| of independent
units is √(2/(πN)), which a sample inflates. Source: the published study's orthogonality metric,
without the diagonal and without PAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_tti.activations import ForwardPass
from hf_tti.metrics._moments import add_moments, has_broken_units, mean_off_diagonal, moments, normalised, raw_gram
from hf_tti.metrics._per_layer import PerLayerMetric, Record


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(PerLayerMetric):
    """Mean |cos| off the diagonal in [0, 1] (`layer_<i>`), the share of `dead/` units (zero on
    every token; left out of the mean) and the signed matrix `matrix/` [D, D] float32, NaN where a
    unit is dead.

    NaN without tokens or with fewer than two live units. Invariant under a scale of its own for
    each unit. |cos| is exact to 1e-5. State: 8·D² bytes a layer (1.2 MB at D = 384, 19 MB at 1536).

    Args:
        sites: see `Metric`; `mlp.out` as published. There a rotation changes the value and no
            neuron.
    """

    greater_is_better: ClassVar[bool | None] = False

    sites: tuple[str, ...] = ("mlp.out",)

    def observe(self, forward: ForwardPass, path: str) -> Record:
        return moments(forward, path)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_moments(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_units(record)

    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        gram = raw_gram(record)
        alive = gram.diagonal() > 0
        cosine = normalised(gram, alive)
        return {
            "": mean_off_diagonal(cosine.abs(), alive),
            "dead": float((~alive).double().mean()) if record["num_tokens"] else float("nan"),
            "matrix": cosine.float().cpu().numpy(),
        }
