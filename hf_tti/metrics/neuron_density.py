"""Neuron density: on which share of tokens each unit fires, and how many units are dead, rare or
always on.

    density_i = #{t : unit i fires on token t} / N

Firing as in `l0`. `dead` means never: a unit that fires on one token in a hundred is rare, not
dead. The mean density is L0 / D. Compare dead shares at equal numbers of tokens: longer passes find
fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hf_tti.activations import ForwardPass
from hf_tti.metrics._firing import FIRING, add_counts, fired, firing_counts, has_broken_tokens, threshold_field
from hf_tti.metrics._per_layer import PerLayerMetric, Record


@dataclass(frozen=True, kw_only=True)
class NeuronDensity(PerLayerMetric):
    """Mean density (`layer_<i>`), shares of units that are `dead/`, `rare/`, `always_on/`, and the
    array `density/` [D].

    All in [0, 1]; NaN without tokens. Invariant under a→c·a, W_out→W_out/c. State: 3 integers per
    unit.

    Args:
        sites: see `Metric`.
        threshold, firing: as in `L0`.
        rare_below: a unit is rare where 0 < density < rare_below.
        always_on_from: a unit is always on where density ≥ always_on_from.
    """

    threshold: float = threshold_field()
    firing: str = field(default="auto", metadata={"choices": FIRING, "help": "What counts as firing."})
    rare_below: float = field(
        default=0.01,
        metadata={
            "exclusive_min": 0.0,
            "exclusive_max": 1.0,
            "help": "A rare unit fires on fewer tokens than this.",
        },
    )
    always_on_from: float = field(
        default=0.99,
        metadata={
            "exclusive_min": 0.0,
            "exclusive_max": 1.0,
            "help": "A unit that fires this often is always on.",
        },
    )

    def observe(self, forward: ForwardPass, path: str) -> Record:
        return firing_counts(forward, path, self.threshold)

    def absorb(self, record: Record | None, observation: Record) -> Record:
        return add_counts(record, observation)

    def is_broken(self, record: Record) -> bool:
        return has_broken_tokens(record)

    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        counts = fired(record, self.firing).cpu().numpy()
        num_tokens = record["num_tokens"]
        density = counts / num_tokens if num_tokens else np.full(len(counts), np.nan)
        shares = {
            "dead": density == 0,
            "rare": (density > 0) & (density < self.rare_below),
            "always_on": density >= self.always_on_from,
        }
        values = {name: float(units.mean()) if num_tokens else float("nan") for name, units in shares.items()}
        return {"": float(density.mean()), **values, "density": density}
