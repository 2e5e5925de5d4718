"""Exact running second moments of a layer's units over all tokens. State: 8·D² bytes a layer.

A batch gives n, a shift s (the mean of some of its rows), Σ(x−s) and Σ(x−s)(x−s)ᵀ: centred before the float32
product, so that a large mean cancels nothing, and added up in float64. Records with shifts s and s', with
e = s'−s and d = Σ(x−s'), add as in Chan, Golub & LeVeque 1983:
    Σ(x−s)(x−s)ᵀ = Σ(x−s')(x−s')ᵀ + d eᵀ + e dᵀ + n e eᵀ
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import Record, real_rows, write_norm

_ROWS = 8192  # float32 sums no longer than this
_SAMPLE = 512  # rows, at most, whose mean is near enough to that of all
_CPU_UNITS = 96  # of a symmetric product at a time


def moments(forward: ForwardPass, path: str) -> Record:
    """`num_tokens`, `shift` [D], `sum` [D], `gram` [D, D] around the shift, `write_norm` [D].
    Computed once per forward for all metrics; until the forward is let go, 4·D² bytes a layer.
    """
    return forward.once(("moments", path), partial(_moments, forward, path))


def add_moments(record: Record | None, observation: Record) -> Record:
    """The sum of both; changes `record` in place."""
    if record is None or (record["num_tokens"] == 0 and observation["num_tokens"] > 0):
        copied = {key: value.to(torch.float64, copy=True) for key, value in _tensors(observation).items()}
        return {"num_tokens": observation["num_tokens"], **copied}
    n = observation["num_tokens"]
    if n == 0:
        return record
    difference = observation["shift"] - record["shift"]
    half = observation["sum"] + 0.5 * n * difference
    left, right = torch.stack((half, difference), dim=1), torch.stack((difference, half), dim=1)
    record["gram"].add_(observation["gram"]).addmm_(left, right.T)
    record["sum"].add_(observation["sum"] + n * difference)
    record["num_tokens"] += n
    return record


def scatter(record: Record) -> Tensor:
    """[D, D] float64: Σ(x−μ)(x−μ)ᵀ over all tokens. Zeros without tokens."""
    total = record["sum"]
    return record["gram"].sub(torch.outer(total, total) / max(record["num_tokens"], 1))


def has_broken_units(record: Record) -> bool:
    """Whether an activation was not finite, or too large to be squared: nothing can be said of pairs with that unit."""
    return not bool(torch.isfinite(record["gram"].diagonal()).all())


def raw_gram(record: Record) -> Tensor:
    """[D, D] float64: Σ x xᵀ over all tokens."""
    shift, total, n = record["shift"], record["sum"], record["num_tokens"]
    mean_shift = total + 0.5 * n * shift
    return record["gram"] + torch.outer(mean_shift, shift) + torch.outer(shift, mean_shift)


def normalised(gram: Tensor, alive: Tensor) -> Tensor:
    """[D, D] g_ij / √(g_ii g_jj) within [−1, 1]; NaN in rows and columns of units that are not
    `alive` [D].
    """
    scale = gram.diagonal().clamp_min(0).sqrt()
    scale = torch.where(alive, scale, torch.nan)
    return (gram / torch.outer(scale, scale)).clamp_(-1.0, 1.0)


def mean_off_diagonal(matrix: Tensor, alive: Tensor) -> float:
    """Mean over pairs of different units that are `alive`; NaN with fewer than two."""
    count = int(alive.sum())
    if count < 2:
        return float("nan")
    inner = matrix if bool(alive.all()) else matrix[alive][:, alive]
    return float((inner.sum() - inner.diagonal().sum()) / (count * (count - 1)))


def _moments(forward: ForwardPass, path: str) -> Record:
    site = forward.sites[path]
    rows = real_rows(forward, site)
    width = rows.shape[1]
    sample = rows[:: len(rows) // _SAMPLE + 1]
    shift = sample.sum(dim=0) / max(len(sample), 1)
    total = torch.zeros_like(shift)
    gram = rows.new_zeros(width, width)
    for block in rows.split(_ROWS):
        centred = block - shift
        total += centred.sum(dim=0)
        gram += _product(centred)
    units = _constant(rows, shift, gram.diagonal())
    shift[units] = rows[:1, units].sum(dim=0)  # of one row, or of none
    total[units], gram[units], gram[:, units] = 0.0, 0.0, 0.0
    return {
        "num_tokens": len(rows),
        "shift": shift.double(),
        "sum": total.double(),
        "gram": gram,
        "write_norm": write_norm(site).double(),
    }


def _constant(rows: Tensor, shift: Tensor, squares: Tensor) -> Tensor:
    """The units that have one value on all rows: their variance shall be zero, and not the error of a mean."""
    if not len(rows):
        return torch.empty(0, dtype=torch.int64, device=rows.device)
    nearly = (squares <= len(rows) * (1e-3 * shift).square()).nonzero().squeeze(1)
    return nearly[(rows[:, nearly] == rows[0, nearly]).all(dim=0)]


def _product(rows: Tensor) -> Tensor:
    """XᵀX. On a GPU that may multiply with 10 bits of mantissa (TF32), from parts of that many bits each; on a CPU what
    is below the diagonal is copied.
    """
    if rows.device.type != "cpu":
        return _product_of_parts(rows) if rows.device.type == "cuda" and rows.dtype == torch.float32 else rows.T @ rows
    product = rows.new_empty(rows.shape[1], rows.shape[1])
    for start in range(0, rows.shape[1], _CPU_UNITS):
        end = start + _CPU_UNITS
        product[start:end, start:] = rows[:, start:end].T @ rows[:, start:]
        product[end:, start:end] = product[start:end, end:].T
    return product


def _product_of_parts(rows: Tensor) -> Tensor:
    high = (rows.view(torch.int32) & ~0x1FFF).view(torch.float32)
    low = rows - high
    cross = high.T @ low
    return high.T @ high + cross + cross.T + low.T @ low


def _tensors(record: Record) -> dict[str, Tensor]:
    return {key: value for key, value in record.items() if isinstance(value, Tensor)}
