"""Token selectivity: the share of a unit's variance between frequent token types, beyond chance.

    x = w / (|w| + mean_j |w_j|),  w_i = a_i·‖W_out,i‖     token by token; bounded in (−1, 1)
    between = Σ_{c<d} p_c p_d (2 D_cd − W_c − W_d),  within = Σ_c p_c W_c
    share = between / (between + within)

D_cd, W_c: half the mean squared difference of pairs of distinct tokens from c and d, within c;
p_c = n_c/N. 0 in expectation, at every N, where x does not depend on the token. Source: ANOVA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import PerLayerMetric, Record, write_norm
from hf_tti.metrics._token_types import add_tables, add_tokens, has_broken_sums

_CONSTANT = 1e-12  # variance of a bounded x that is rounding


@dataclass(frozen=True, kw_only=True)
class TokenSelectivity(PerLayerMetric):
    """Mean share over units that vary (`layer_<i>`, up to sampling error in [0, 1]), the share of
    units that do not (`dead/`), of tokens inside the classes (`coverage/`), and the arrays `share/`
    [D], NaN for dead units, and `classes/` [C], the token ids: compare at equal classes only.

    Classes are the `num_classes` most frequent types of the whole pass (smaller id first among
    equals) that have two tokens. The squash needs a scale that is known before the pass, or sums
    would not add: the token's own mean write. It is invariant under a→c·a, W_out→W_out/c, and one
    loud unit moves it by 1/D of its loudness, where a token's largest write would make every other
    unit look selective for that unit's tokens.

    NaN with fewer than two classes, and for a layer in which no unit varies. State: 16·U·D bytes a
    layer for U types seen, and up to a quarter of room (246 to 307 MB at U = 10,000, D = 1536),
    twice that with `null`.

    Args:
        sites: see `Metric`.
        num_classes: at most this many classes, ≥ 2.
        null: also give `null/layer_<i>`, the same value when every token's activations are paired
            with the type of the token half a row further on; 0 in expectation.
    """

    greater_is_better: ClassVar[bool | None] = True
    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "rotated", "shuffled_labels")

    num_classes: int = field(default=256, metadata={"min": 2, "help": "How many of the most frequent token types."})
    null: bool = field(
        default=False,
        metadata={"help": "Also measure with tokens shuffled; twice the time and memory."},
    )

    def extend(self, record: dict[str, Record] | None, forward: ForwardPass, path: str) -> dict[str, Record]:
        values = partial(_bounded_moments, norm=write_norm(forward.sites[path]))
        tables = {"observed": False, "null": True} if self.null else {"observed": False}
        return {
            name: add_tokens(record[name] if record else None, forward, path, values, shuffled=shuffled)
            for name, shuffled in tables.items()
        }

    def absorb(self, record: dict[str, Record] | None, observation: dict[str, Record]) -> dict[str, Record]:
        return add_tables(record, observation)

    def is_broken(self, record: dict[str, Record]) -> bool:
        return has_broken_sums(record["observed"])

    def summarise(self, record: dict[str, Record]) -> dict[str, float | np.ndarray]:
        table = record["observed"]
        chosen = _frequent(table, self.num_classes)
        share = _shares(table, chosen)
        tokens = int(table["counts"].sum())
        known = len(chosen) >= 2
        values: dict[str, float | np.ndarray] = {
            "": float(share.nanmean()),
            "dead": float(share.isnan().double().mean()) if known else float("nan"),
            "coverage": float(table["counts"][chosen].sum()) / tokens if tokens else float("nan"),
        }
        if self.null:
            null = record["null"]
            values["null"] = float(_shares(null, _frequent(null, self.num_classes)).nanmean())
        return {**values, "share": share.cpu().numpy(), "classes": table["types"][chosen].numpy()}


def _bounded_moments(rows: Tensor, norm: Tensor) -> list[Tensor]:
    """x and x² [n, D]; zeros on a token that writes nothing."""
    write = rows * norm
    size = write.abs()
    scale = size.mean(dim=1, keepdim=True).clamp_min(torch.finfo(write.dtype).tiny)
    bounded = write.div_(size.add_(scale))
    return [bounded, bounded.square()]


def _frequent(table: Record, num_classes: int) -> Tensor:
    """Row indices of the most frequent types that have two tokens, by falling count, then by id."""
    by_id = table["types"].argsort()
    order = by_id[table["counts"][by_id].argsort(descending=True, stable=True)[:num_classes]]
    return order[table["counts"][order] >= 2]


def _shares(table: Record, chosen: Tensor) -> Tensor:
    """[D] between / (between + within) over the chosen classes; NaN for units without variance.

    With m the class means and v the unbiased class variances,
    2 D_cd − W_c − W_d = (m_c − m_d)² − v_c/n_c − v_d/n_d.
    """
    device = table["sums"].device
    n = table["counts"][chosen].double().to(device).unsqueeze(1)
    sums, squares = table["sums"][:, chosen.to(device)]
    if len(chosen) < 2:
        return sums.new_full((sums.shape[1],), torch.nan)
    p, mean, square = n / n.sum(), sums / n, squares / n
    variance = ((square - mean * mean) * n / (n - 1)).clamp_min(0)
    centred = mean - (p * mean).sum(dim=0)
    # Σ_{c<d} p_c p_d (m_c − m_d)² = Σ_c p_c (m_c − m)²
    between = (p * centred * centred).sum(dim=0) - (p * (1 - p) * variance / n).sum(dim=0)
    within = (p * variance).sum(dim=0)
    total = between + within
    return torch.where(total > _CONSTANT, between / total, torch.nan)
