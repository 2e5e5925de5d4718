"""Correlation between units over tokens: mean squared correlation beyond what a sample of
independent tokens shows.

    ρ_ij = cov(a_i, a_j) / (σ_i σ_j),   value = mean over i ≠ j of ρ_ij² − 1/(N−1)

0 in expectation for independent units at every N. Tokens of one text are not independent, so the
floor is a lower bound. Source: DeCov (Cogswell 2015, 1511.06068), Barlow Twins (Zbontar 2021,
2103.03230).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_tti.activations import ForwardPass
from hf_tti.metrics._moments import add_moments, has_broken_units, mean_off_diagonal, moments, normalised, scatter
from hf_tti.metrics._per_layer import PerLayerMetric, Record


@dataclass(frozen=True, kw_only=True)
class Correlation(PerLayerMetric):
    """Mean ρ² off the diagonal minus 1/(N−1) (`layer_<i>`), mean |ρ| (`abs/`), the share of `dead/`
    units (variance not above the floor; left out of both means), and the matrix `matrix/` [D, D]
    float32, NaN where a unit is dead.

    NaN with fewer than two tokens or two live units. Invariant under a scale and an offset of its
    own for each unit as long as the unit stays above the floor. State: 8·D² bytes a layer (19 MB at
    D = 1536).

    Args:
        sites: see `Metric`.
        variance_floor: a unit with at most this variance over the pass is dead, ≥ 0.
    """

    greater_is_better: ClassVar[bool | None] = False

    variance_floor: float = field(
        default=1e-12,
        metadata={"min": 0.0, "help": "A unit with at most this variance is left out as dead."},
    )

    def observe(self, forward: ForwardPass, path: str) -> Record:
        return moments(forward, path)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_moments(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_units(record)

    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        num_tokens = record["num_tokens"]
        products = scatter(record)
        alive = products.diagonal() / max(num_tokens, 1) > self.variance_floor
        rho = normalised(products, alive)
        floor = 1.0 / (num_tokens - 1) if num_tokens > 1 else float("nan")
        return {
            "": mean_off_diagonal(rho.square(), alive) - floor,
            "abs": mean_off_diagonal(rho.abs(), alive),
            "dead": float((~alive).double().mean()) if num_tokens else float("nan"),
            "matrix": rho.float().cpu().numpy(),
        }
