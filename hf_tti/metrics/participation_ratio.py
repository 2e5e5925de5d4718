"""Participation ratio: in how many directions a layer's writes vary.

    (Σ λ)² / Σ λ² = tr(C)² / tr(C²),   C the centred covariance of a_i·‖W_out,i‖, λ its eigenvalues

D for D independent units of equal variance, 1 where one direction is all there is; never above N−1.
The two traces need no eigenvalues. Source: Gao et al. 2017, bioRxiv 214262; Litwin-Kumar et al.
2017.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from hf_tti.activations import ForwardPass
from hf_tti.metrics._moments import add_moments, has_broken_units, moments, scatter
from hf_tti.metrics._per_layer import PerLayerMetric, Record, ratio


@dataclass(frozen=True, kw_only=True)
class ParticipationRatio(PerLayerMetric):
    """tr(C)²/tr(C²) in [1, D] (`layer_<i>`), and the loudest unit's share of tr(C)
    (`largest_unit_share/`): where that is near 1 the ratio speaks of one unit.

    NaN with fewer than two tokens or without variance. Invariant under a→c·a, W_out→W_out/c, and
    under a rotation of an unprivileged site. State: 8·D² bytes a layer (19 MB at D = 1536).

    Args:
        sites: see `Metric`.
        skip_positions: leave out the first tokens of each document, whose outliers can be all the
            variance.
    """

    skip_positions: int = field(
        default=0,
        metadata={"min": 0, "help": "Leave out this many tokens at the start of each document."},
    )

    def observe(self, forward: ForwardPass, path: str) -> Record:
        if self.skip_positions:
            later = forward.positions >= self.skip_positions
            forward = replace(forward, token_mask=forward.token_mask & later)
        return moments(forward, path)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_moments(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_units(record)

    def summarise(self, record: Record) -> dict[str, float]:
        # tr(D S D) and tr((D S D)²) for D = diag(‖W_out‖); S is positive semidefinite, so rounding
        # alone goes below 0.
        norm = record["write_norm"]
        products = scatter(record) * torch.outer(norm, norm)
        variances = products.diagonal().clamp_min(0)
        trace, squares = float(variances.sum()), float(products.square().sum())
        return {
            "": ratio(trace * trace, squares),
            "largest_unit_share": ratio(float(variances.max()), trace),
        }
