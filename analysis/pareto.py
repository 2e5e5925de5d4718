"""What cross-entropy buys: the Pareto set, its hypervolume, and the baseline at equal cross-entropy.

    a dominates b        iff a is at least as good in every coordinate and better in one
    hypervolume          volume that the points dominate within the box that the reference point bounds
    baseline at equal CE the line through the baseline's own (CE, metric) points, read at the method's CE
Volumes compare only at the same reference point. Interval: delete-one-seed jackknife of the volume of the seed means.
Source: Zitzler & Thiele 1999 (hypervolume); While et al. 2006 (by slicing objectives).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.checks import Floats, finite_array
from analysis.intervals import Estimate, jackknife_estimate
from hf_tti.errors import UserError, did_you_mean

Direction = Literal["lower", "higher"]
DIRECTIONS: tuple[Direction, ...] = ("lower", "higher")


def sign_of(direction: str, *, what: str) -> int:
    """−1 for `lower` (is better), +1 for `higher`.

    Raises:
        UserError: another word.
    """
    if direction not in DIRECTIONS:
        guess = did_you_mean(str(direction), DIRECTIONS)
        raise UserError(f"{what}: direction {direction!r} is not one of {', '.join(DIRECTIONS)}{guess}")
    return 1 if direction == "higher" else -1


def pareto_set(
    points: ArrayLike, directions: Sequence[Direction] = ("lower", "higher"), *, labels: Sequence[str] = ()
) -> NDArray[np.bool_]:
    """Which points `[n, d]` no other point dominates. Equal points are in the set together.

    Args:
        points: a row each, say (cross-entropy, benefit).
        directions: what is better, by column.
        labels: names of the rows, for errors.

    Raises:
        UserError: a value that is not finite, or as many directions as there are not columns.
    """
    return _nondominated(_costs(points, directions, "points", [labels] if len(labels) else []))


def hypervolume(
    points: ArrayLike, reference: Sequence[float], directions: Sequence[Direction] = ("lower", "higher")
) -> float:
    """Volume between the Pareto set of `points` `[n, d]` and the reference point, in the product of their units.

    Exact: a sweep in two dimensions, slices of it above. A point that is not better than the reference in every
    coordinate adds nothing.

    Args:
        points: a row each; no row gives 0.
        reference: the worst corner, by column. State it: the volume means nothing without.
        directions: what is better, by column.

    Raises:
        UserError: a value that is not finite, or numbers of columns that do not agree.
    """
    corner = _costs([reference], directions, "reference point", [["its row"]])[0]
    costs = _costs(points, directions, "points", []) if len(points) else np.empty((0, len(directions)))
    return _volume(costs[(costs < corner).all(axis=1)], corner)


@dataclass(frozen=True, kw_only=True)
class HypervolumeEstimate:
    """Hypervolume over seeds.

    Attributes:
        estimate: of the points' means over seeds, with the interval of leaving one seed out; no interval at one seed.
        per_seed: each seed's own volume. Their mean lies above the estimate: a front picks the luckiest points.
        reference: the worst corner, by column.
        directions: what is better, by column.
    """

    estimate: Estimate
    per_seed: tuple[float, ...]
    reference: tuple[float, ...]
    directions: tuple[Direction, ...]


def hypervolume_over_seeds(
    points: ArrayLike,
    reference: Sequence[float],
    directions: Sequence[Direction] = ("lower", "higher"),
    *,
    level: float = 0.95,
) -> HypervolumeEstimate:
    """Hypervolume of the methods' means over seeds, `points` `[S, n, d]`: the same n methods at each seed.

    Raises:
        UserError: another shape, a value that is not finite, or numbers of columns that do not agree.
    """
    array = finite_array(points, what="points by seed, method and coordinate")
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"points over seeds: expected [seeds, methods, coordinates], got shape {array.shape}")
    num_seeds = len(array)
    value = hypervolume(array.mean(axis=0), reference, directions)
    without = [np.delete(array, seed, axis=0).mean(axis=0) for seed in range(num_seeds)] if num_seeds > 1 else array
    volumes = [hypervolume(means, reference, directions) for means in without]
    return HypervolumeEstimate(
        estimate=jackknife_estimate(value, volumes, level=level),
        per_seed=tuple(hypervolume(one, reference, directions) for one in array),
        reference=tuple(map(float, reference)),
        directions=tuple(directions),
    )


@dataclass(frozen=True, kw_only=True)
class EqualCrossEntropy:
    """The baseline's metric where its cross-entropy is that of a method.

    Attributes:
        value: of the metric.
        cross_entropy: nats, where it was read.
        extrapolated: the baseline has no run on one side of it, so that the value is a guess along a straight line.
        covered: lowest and highest cross-entropy of the baseline's points, nats.
    """

    value: float
    cross_entropy: float
    extrapolated: bool
    covered: tuple[float, float]


def baseline_at_equal_ce(
    cross_entropies: ArrayLike, metric_values: ArrayLike, cross_entropy: float
) -> EqualCrossEntropy:
    """Reads the baseline's metric at a cross-entropy, on straight lines between neighbours in cross-entropy.

    The points should be baselines of several lengths, each decayed to its end: a checkpoint in mid-training is worse
    than a run that was meant to be that short. Points of equal cross-entropy are averaged. Beyond the points the line
    through the two nearest goes on, and the answer says so.

    Args:
        cross_entropies: `[n]` nats, in any order.
        metric_values: `[n]`.
        cross_entropy: nats, where to read.

    Raises:
        UserError: lengths that differ, fewer than two different cross-entropies, or a value that is not finite.
    """
    ce = finite_array(cross_entropies, what="cross-entropy of the baseline's points")
    metric = finite_array(metric_values, what="metric of the baseline's points")
    at = float(finite_array(cross_entropy, what="cross-entropy to read the baseline at"))
    if ce.ndim != 1 or ce.shape != metric.shape:
        shapes = f"got shapes {ce.shape} and {metric.shape}"
        raise UserError(f"baseline at equal cross-entropy: expected as many metric values as cross-entropies, {shapes}")
    xs, index = np.unique(ce, return_inverse=True)
    if xs.size < 2:
        raise UserError(f"baseline at equal cross-entropy: two different cross-entropies are needed, got {xs.tolist()}")
    ys = np.bincount(index, weights=metric) / np.bincount(index)
    left = int(np.clip(np.searchsorted(xs, at, side="right") - 1, 0, xs.size - 2))
    share = (at - xs[left]) / (xs[left + 1] - xs[left])
    return EqualCrossEntropy(
        value=float((1 - share) * ys[left] + share * ys[left + 1]),
        cross_entropy=at,
        extrapolated=not xs[0] <= at <= xs[-1],
        covered=(float(xs[0]), float(xs[-1])),
    )


def _costs(points: ArrayLike, directions: Sequence[Direction], what: str, labels: Sequence[Sequence[object]]) -> Floats:
    """Points `[n, d]` with every coordinate to be minimised."""
    array = finite_array(points, what=what, labels=labels)
    if array.ndim != 2 or array.shape[1] != len(directions) or not len(directions):
        shape = f"got shape {array.shape} for {len(directions)} directions"
        raise UserError(f"{what}: expected rows with a column for every direction, {shape}")
    signs = [sign_of(direction, what=f"column {column}") for column, direction in enumerate(directions)]
    return -array * np.array(signs, dtype=np.float64)


def _nondominated(costs: Floats) -> NDArray[np.bool_]:
    no_worse = (costs[:, None] <= costs[None]).all(axis=-1)  # [a, b]: a is no worse than b anywhere
    dominates = no_worse & ~no_worse.T
    return ~dominates.any(axis=0)


def _volume(costs: Floats, corner: Floats) -> float:
    """Volume that `costs` `[n, d]` dominate below `corner`, which is above all of them."""
    if not len(costs):
        return 0.0
    if costs.shape[1] == 1:
        return float(corner[0] - costs.min())
    costs = costs[_nondominated(costs)]
    if costs.shape[1] == 2:
        costs = costs[np.lexsort((costs[:, 1], costs[:, 0]))]
        ceilings = np.append(corner[1], costs[:-1, 1])
        return float(((corner[0] - costs[:, 0]) * (ceilings - costs[:, 1])).sum())
    costs = costs[np.argsort(costs[:, -1], kind="stable")]
    depths = np.diff(np.append(costs[:, -1], corner[-1]))
    slices = [_volume(costs[: i + 1, :-1], corner[:-1]) if depth else 0.0 for i, depth in enumerate(depths)]
    return float(np.dot(depths, slices))
