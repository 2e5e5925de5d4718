"""L0: how many units fire on a token, on average, per layer.

    L0 = (1/N) Σ_t #{i : unit i fires on token t}

A unit fires where a_i > 0 on ReLU-like layers (no negative activation in the whole pass, some exact
zeros), elsewhere where its write |a_i|·‖W_out,i‖ is not below `threshold` times the token's
largest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hf_tti.activations import ForwardPass
from hf_tti.metrics._firing import FIRING, add_counts, fired, firing_counts, has_broken_tokens, threshold_field
from hf_tti.metrics._per_layer import PerLayerMetric, Record, ratio


@dataclass(frozen=True, kw_only=True)
class L0(PerLayerMetric):
    """Mean number of units that fire per token, in [0, D] (`layer_<i>`). NaN without tokens.

    Invariant under a→c·a, W_out→W_out/c. State: 3 integers per unit.

    Args:
        sites: see `Metric`.
        threshold: a write is small below this share of its token's largest, in (0, 1).
        firing: `auto` as above, or `positive` (a > 0), `nonzero` (a ≠ 0, for AbsTopK), `write` (not
            below threshold).
    """

    greater_is_better: ClassVar[bool | None] = False

    threshold: float = threshold_field()
    firing: str = field(default="auto", metadata={"choices": FIRING, "help": "What counts as firing."})

    def observe(self, forward: ForwardPass, path: str) -> Record:
        return firing_counts(forward, path, self.threshold)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_counts(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_tokens(record)

    def summarise(self, record: Record) -> dict[str, float]:
        return {"": ratio(int(fired(record, self.firing).sum()), record["num_tokens"])}
