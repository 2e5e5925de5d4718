"""Token entropy (the published polysemanticity metric): how many token types a unit is spread over.

    p_i(v) = Σ_{t: x_t = v} |a_ti| / Σ_t |a_ti|,   H_i = −Σ_v p_i(v) ln p_i(v),   mean over units i

At corpus level, in nats, from 0 (one type) to ln U. It grows with the corpus, its vocabulary and
dense activations: compare at equal data, and with `unigram`, the entropy of a unit that does not
look at the token. Source: the published study's README; PAD left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import PerLayerMetric, Record
from hf_tti.metrics._token_types import add_tables, add_tokens, has_broken_sums, sums_by_type


@dataclass(frozen=True, kw_only=True)
class TokenEntropy(PerLayerMetric):
    """Mean entropy in nats over units with mass (`layer_<i>`), the share of units without
    (`massless/`), the entropy of the token counts (`unigram/`), and the array `entropy/` [D], NaN
    for units without mass.

    NaN without tokens; `layer_<i>` is NaN where no unit has mass. Invariant under a scale of its
    own for each unit.
    State: 8·U·D bytes a layer for U types seen, and up to a quarter of room (31 to 38 MB at U = 10,000,
    D = 384), twice that with `null`.

    Args:
        sites: see `Metric`; `mlp.out` as published. There a rotation changes the value and no
            neuron.
        null: also give `null/layer_<i>`, the same value when every token's activations are paired
            with the type of the token half a row further on.
    """

    greater_is_better: ClassVar[bool | None] = False
    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "rotated", "shuffled_labels")

    sites: tuple[str, ...] = ("mlp.out",)
    null: bool = field(
        default=False,
        metadata={"help": "Also measure with tokens shuffled; twice the time and memory."},
    )

    def extend(self, record: dict[str, Record] | None, forward: ForwardPass, path: str) -> dict[str, Record]:
        tables = {"observed": False, "null": True} if self.null else {"observed": False}
        return {
            name: add_tokens(record[name] if record else None, forward, path, _mass, shuffled=shuffled)
            for name, shuffled in tables.items()
        }

    def absorb(self, record: dict[str, Record] | None, observation: dict[str, Record]) -> dict[str, Record]:
        return add_tables(record, observation)

    def is_broken(self, record: dict[str, Record]) -> bool:
        return has_broken_sums(record["observed"])

    def summarise(self, record: dict[str, Record]) -> dict[str, float | np.ndarray]:
        entropy = _entropy(sums_by_type(record["observed"])[0])
        counts = record["observed"]["counts"].double().unsqueeze(1)
        values: dict[str, float | np.ndarray] = {
            "": float(entropy.nanmean()),
            "massless": float(entropy.isnan().double().mean()) if len(counts) else float("nan"),
            "unigram": float(_entropy(counts)),
        }
        if self.null:
            values["null"] = float(_entropy(sums_by_type(record["null"])[0]).nanmean())
        return {**values, "entropy": entropy.cpu().numpy()}


def _mass(rows: Tensor) -> list[Tensor]:
    return [rows.abs()]


def _entropy(mass: Tensor) -> Tensor:
    """[D] from mass [U, D]: ln M − Σ m ln m / M, in nats; NaN where M = 0."""
    total = mass.sum(dim=0)
    weighted = torch.special.entr(mass).sum(dim=0)
    entropy = total.log() + weighted / total
    return torch.where(total > 0, entropy.clamp_min(0), torch.nan)
