"""Activation sparsity: the share of units that write next to nothing, per layer.

    u_i = |a_i|·‖W_out,i‖,   share of (token, unit) pairs with u_i < threshold · max_j u_j(token)

A share relative to the token's own largest write cannot be had by scaling (a→c·a, W_out→W_out/c),
as a share below a fixed 0.01 can. Source: the published study's share below 0.01, in units of what
is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_tti.activations import ForwardPass
from hf_tti.metrics._firing import add_counts, firing_counts, has_broken_tokens, threshold_field
from hf_tti.metrics._per_layer import PerLayerMetric, Record, ratio


@dataclass(frozen=True, kw_only=True)
class ActivationSparsity(PerLayerMetric):
    """Share of writes below threshold (`layer_<i>`), and of activations that are exactly zero
    (`zeros/layer_<i>`).

    Both in [0, 1]; NaN without tokens. A token whose writes are all zero counts as all below
    threshold. Invariant under a→c·a, W_out→W_out/c for each layer, and for each unit apart. State:
    3 integers per unit.

    Args:
        sites: see `Metric`.
        threshold: below this share of the token's largest write, in (0, 1).
    """

    greater_is_better: ClassVar[bool | None] = True

    threshold: float = threshold_field()

    def observe(self, forward: ForwardPass, path: str) -> Record:
        return firing_counts(forward, path, self.threshold)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_counts(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_tokens(record)

    def summarise(self, record: Record) -> dict[str, float]:
        _, nonzero, written = record["counts"]
        pairs = record["num_tokens"] * len(written)
        return {
            "": ratio(pairs - int(written.sum()), pairs),
            "zeros": ratio(pairs - int(nonzero.sum()), pairs),
        }
