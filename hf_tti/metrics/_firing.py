"""How often each unit fires, counted in integers, for the metrics that ask about sparsity.

A write is u_i = |a_i|·‖W_out,i‖. It is below threshold where u_i < threshold · max_j u_j of the
same token, and where it is zero. A unit fires where a_i > 0 on ReLU-like layers, elsewhere where
its write is not below threshold. A layer is ReLU-like where no activation of the whole pass is
negative and some are exactly zero; the decision is taken at the end, from counts, so that it cannot
depend on how the data was split. State: 3 integers per unit.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial

import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import Record, real_rows, write_norm

FIRING = ("auto", "positive", "nonzero", "write")
_CPU_BLOCK = 1 << 18  # values, of which a core's cache holds a copy


def threshold_field() -> float:
    """The dataclass field of a metric that calls a write small relative to its token's largest."""
    return field(
        default=0.01,
        metadata={
            "exclusive_min": 0.0,
            "exclusive_max": 1.0,
            "help": "A write is small below this share of its token's largest.",
        },
    )


def firing_counts(forward: ForwardPass, path: str, threshold: float) -> Record:
    """`num_tokens`, `num_broken` (of them with an activation that is not finite) and `counts` [3, D] int64: tokens on
    which a unit is positive, is not zero, has a write not below threshold. Counted once per forward for all metrics
    that use the same threshold.
    """
    return forward.once(("firing", path, threshold), partial(_count, forward, path, threshold))


def add_counts(record: Record | None, observation: Record) -> Record:
    """The sum of both, a new record."""
    if record is None:
        return {key: value.clone() if isinstance(value, Tensor) else value for key, value in observation.items()}
    return {key: value + observation[key] for key, value in record.items()}


def fired(record: Record, firing: str) -> Tensor:
    """[D] int64: the number of tokens on which each unit fires.

    Args:
        firing: `positive`, `nonzero` or `write` (not below threshold), or `auto` for the rule of
            the module's docstring.
    """
    positive, nonzero, written = record["counts"]
    if firing == "auto":
        no_negative = bool((positive == nonzero).all())
        some_zero = bool((nonzero < record["num_tokens"]).any())
        firing = "positive" if no_negative and some_zero else "write"
    return {"positive": positive, "nonzero": nonzero, "write": written}[firing]


def _count(forward: ForwardPass, path: str, threshold: float) -> Record:
    site = forward.sites[path]
    rows, norm = real_rows(forward, site), write_norm(site)
    counts = torch.zeros(3, rows.shape[1], dtype=torch.int64, device=rows.device)
    num_broken = torch.zeros((), dtype=torch.int64, device=rows.device)
    size = max(_CPU_BLOCK // rows.shape[1], 1) if rows.device.type == "cpu" else 1 << 16
    for block in rows.split(size):
        write = block.abs()
        if site.out_weight is not None:
            write.mul_(norm)
        cut = write.amax(dim=1, keepdim=True).mul_(threshold).clamp_min_(torch.finfo(write.dtype).tiny)
        num_broken += (~torch.isfinite(cut)).sum()
        # In place, ones and zeros stay floats: faster than bool, and exact below 2^24 rows.
        counts[2] += write.ge_(cut).sum(dim=0).long()
        counts[1] += write.copy_(block).ne_(0).sum(dim=0).long()
        counts[0] += write.copy_(block).gt_(0).sum(dim=0).long()
    return {"num_tokens": len(rows), "counts": counts, "num_broken": num_broken}


def has_broken_tokens(record: Record) -> bool:
    """Whether a token had an activation that is not finite: how often units fire cannot be said."""
    return bool(record["num_broken"])
