"""Intervals for differences: over seeds (paired) and over documents (grouped jackknife), never mixed.

    seeds      d̄ ± t(n−1)·s/√n,  d_s = method_s − baseline_s: both runs of a seed share weights and data order
    documents  θ ± t(G−1)·√((G−1)/G Σ_g (θ₍g₎ − θ₍.₎)²),  θ = Σ_g (A_g − B_g) / Σ_g N_g, θ₍g₎ without shard g
    sign flip  share of the 2ⁿ sign vectors ε with |Σ ε_s d_s| ≥ |Σ d_s|; never below 2^(1−n)
Source: Student 1908; Tukey 1958, Wolter, Introduction to Variance Estimation, ch. 4; Fisher 1935.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.checks import Floats, finite_array, open_share
from hf_tti.errors import UserError

MAX_SIGN_FLIPS = 22


class Interval(NamedTuple):
    """A two-sided interval at a stated level."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and how far it may be off.

    Attributes:
        value: the estimate.
        standard_error: None where a single seed or shard leaves nothing to estimate it from.
        num_groups: the seeds or shards that it is over.
        interval: Student's t with `num_groups` − 1 degrees of freedom; None where there is no standard error.
    """

    value: float
    standard_error: float | None
    num_groups: int
    interval: Interval | None


def mean_estimate(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Mean of independent values `[n]`, one a seed, with its t interval.

    Raises:
        UserError: no value, or one that is not finite.
    """
    array = finite_array(values, what="values over seeds")
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"values over seeds: expected a list of at least one number, got shape {array.shape}")
    error = float(array.std(ddof=1)) / np.sqrt(array.size) if array.size > 1 else None
    return _with_t_interval(float(array.mean()), error, array.size, level)


def jackknife_estimate(value: float, leave_one_out: ArrayLike, *, level: float = 0.95) -> Estimate:
    """An estimate from all groups with the delete-one-group standard error.

    Args:
        value: the estimate from all groups.
        leave_one_out: `[G]`, the estimate without each group in turn.
        level: of the interval.

    Raises:
        UserError: no group, or a value that is not finite.
    """
    array = finite_array(leave_one_out, what="leave-one-out estimates")
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"leave-one-out estimates: expected at least one number, got shape {array.shape}")
    error = float(np.sqrt((array.size - 1) * array.var())) if array.size > 1 else None
    return _with_t_interval(float(value), error, array.size, level)


def _with_t_interval(value: float, error: float | None, num_groups: int, level: float) -> Estimate:
    open_share(level, what="level")
    if error is None:
        return Estimate(value=value, standard_error=None, num_groups=num_groups, interval=None)
    half = float(special.stdtrit(num_groups - 1, (1 + level) / 2)) * error
    interval = Interval(value - half, value + half, level)
    return Estimate(value=value, standard_error=float(error), num_groups=num_groups, interval=interval)


@dataclass(frozen=True, kw_only=True)
class PairedDifferences:
    """Method minus baseline by seed.

    Attributes:
        seeds: those that both sides have, in order.
        values: `[n]`, the difference at each.
        unpaired: seeds that one side lacks; they are left out.
    """

    seeds: tuple[int, ...]
    values: Floats
    unpaired: tuple[int, ...]

    def estimate(self, *, level: float = 0.95) -> Estimate:
        """The mean difference with its t interval over seeds."""
        return mean_estimate(self.values, level=level)


def paired_differences(
    method: Mapping[int, float], baseline: Mapping[int, float], *, what: str = "method"
) -> PairedDifferences:
    """Differences at the seeds that both have.

    Args:
        method: seed to value.
        baseline: seed to value.
        what: the method's name in an error.

    Raises:
        UserError: no seed in common, or a value at a common seed that is not finite.
    """
    seeds = tuple(sorted(set(method) & set(baseline)))
    if not seeds:
        sides = f"it has {sorted(method)}, the baseline has {sorted(baseline)}"
        raise UserError(f"{what}: no seed in common with the baseline: {sides}")
    left = finite_array([method[seed] for seed in seeds], what=f"{what}, by seed", labels=[seeds])
    right = finite_array([baseline[seed] for seed in seeds], what="baseline, by seed", labels=[seeds])
    unpaired = tuple(sorted(set(method) ^ set(baseline)))
    return PairedDifferences(seeds=seeds, values=left - right, unpaired=unpaired)


class SignFlip(NamedTuple):
    """An exact two-sided p, and the smallest that this number of seeds can give."""

    p: float
    smallest_p: float


def sign_flip(differences: ArrayLike) -> SignFlip:
    """Exact sign-flip test that paired differences `[n]` are symmetric about 0. Three seeds cannot go below p = 0.25.

    Raises:
        UserError: no difference, one that is not finite, or more than 22 (four million sign vectors).
    """
    array = finite_array(differences, what="differences over seeds")
    if array.ndim != 1 or not 1 <= array.size <= MAX_SIGN_FLIPS:
        raise UserError(f"differences over seeds: expected 1 to {MAX_SIGN_FLIPS} numbers, got shape {array.shape}")
    sums = array[:1]  # half of the sign vectors: the other half mirrors it
    for value in array[1:]:
        sums = np.concatenate([sums + value, sums - value])
    rounding = 1e-12 * np.abs(array).sum()
    return SignFlip(float(np.mean(np.abs(sums) >= abs(array.sum()) - rounding)), 2.0 ** (1 - array.size))


def document_difference(
    method_loss_sums: ArrayLike, baseline_loss_sums: ArrayLike, token_counts: ArrayLike, *, level: float = 0.95
) -> Estimate:
    """Difference of token-mean cross-entropy in nats with its grouped jackknife interval over document shards.

    It says how much the difference depends on the choice of evaluation documents, for these trained models; what
    another seed would give is `PairedDifferences.estimate`. Shards are of whole documents, since the tokens of one
    document are not independent; 20 shards are usual.

    Args:
        method_loss_sums: `[G]` sums of cross-entropy over each shard's tokens, nats; or `[S, G]`, averaged over seeds.
        baseline_loss_sums: the same shape, on the same documents.
        token_counts: `[G]`, tokens of each shard; above 0.
        level: of the interval.

    Raises:
        UserError: shapes that do not agree, a shard without tokens, or a sum that is not finite.
    """
    method = finite_array(method_loss_sums, what="loss sums of the method")
    baseline = finite_array(baseline_loss_sums, what="loss sums of the baseline")
    counts = finite_array(token_counts, what="token counts of the shards")
    if counts.ndim != 1 or counts.size == 0 or method.ndim not in (1, 2) or 0 in method.shape:
        shapes = f"loss sums {method.shape}, token counts {counts.shape}"
        raise UserError(f"document shards: expected loss sums [G] or [S, G] and token counts [G], got {shapes}")
    if method.shape != baseline.shape or method.shape[-1] != counts.size:
        shapes = f"method {method.shape}, baseline {baseline.shape}, token counts {counts.shape}"
        raise UserError(f"document shards: both models need the same seeds and shards, got {shapes}")
    if counts.min() <= 0:
        raise UserError(f"document shards: shard {counts.argmin()} has {counts.min():g} tokens; use fewer shards")
    differences = (method - baseline).reshape(-1, counts.size).mean(axis=0)  # [G]
    value = float(differences.sum() / counts.sum())
    if counts.size == 1:
        return jackknife_estimate(value, [value], level=level)
    without = (differences.sum() - differences) / (counts.sum() - counts)
    return jackknife_estimate(value, without, level=level)
