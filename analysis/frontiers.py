"""A metric against cross-entropy: which methods are on the front, and what the baseline has at equal cross-entropy.

front      methods, the baseline and shorter baselines that no other of them dominates, by means over seeds
reference  CE: the worst of methods and baseline plus a tenth of their range, beyond which shorter baselines count for
           nothing; metric: the worst of all and of random initialisation, a tenth of the range beyond. Volumes
           compare within one comparison alone.
equal CE   on the line through the baseline and shorter, fully decayed baselines; where there is none of these,
           through the baseline's own evaluations in training, whose learning rate had not decayed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.baseline import has_ended
from analysis.estimates import MethodSummary
from analysis.intervals import Interval
from analysis.measures import MetricInfo, Values
from analysis.pareto import (
    EqualCrossEntropy,
    HypervolumeEstimate,
    baseline_at_equal_ce,
    hypervolume_over_seeds,
    pareto_set,
    sign_of,
)
from analysis.runs import Run

Kind = Literal["method", "baseline", "baseline_curve", "null"]

MARGIN_SHARE = 0.1  # of the range, between the worst point and the reference
SAME_CE, SAME_VALUE = 0.005, 0.02  # nats; share: how far a log and a report of the same weights may be apart


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place on a frontier.

    Attributes:
        name: of the method; of a checkpoint with its step; of a null row.
        loss: cross-entropy, nats; the mean over seeds, as `value` is.
        loss_interval, value_interval: t over seeds; None with one seed, and for null rows.
        on_front: no other trained model dominates it; false for checkpoints in training and for null rows.
        kind: `baseline_curve` is a shorter baseline, or the baseline in training.
        decayed: false for a checkpoint in training, logged or evaluated.
    """

    name: str
    loss: float
    loss_interval: Interval | None
    value: float
    value_interval: Interval | None
    on_front: bool
    kind: Kind
    decayed: bool = True


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A metric against cross-entropy.

    Attributes:
        metric: with a direction.
        points: methods, the baseline, what is known of it at other cross-entropies, random initialisation.
        equal_ce: method -> the baseline's metric at the method's cross-entropy; {} where one point is all there is.
        hypervolume: of methods and baseline at the seeds that all have; None without such a seed.
        reference: cross-entropy and metric of the corner that bounds the volume.
    """

    metric: MetricInfo
    points: list[Point]
    equal_ce: dict[str, EqualCrossEntropy]
    hypervolume: HypervolumeEstimate | None
    reference: tuple[float, float]

    @property
    def equal_ce_is_undecayed(self) -> bool:
        """Whether the line rests on checkpoints in training."""
        return bool(self.equal_ce) and not any(p.kind == "baseline_curve" and p.decayed for p in self.points)

    @property
    def lacks_equal_ce(self) -> bool:
        """Whether there are methods, and the baseline is known at one cross-entropy alone."""
        return not self.equal_ce and {"method", "baseline"} <= {point.kind for point in self.points}


def frontier(
    metric: MetricInfo, methods: Sequence[tuple[Kind, MethodSummary]], values: Values, null: Mapping[str, float]
) -> Frontier | None:
    """The frontier of a metric; None where no method, nor the baseline, has it at all of its seeds.

    Args:
        metric: with a direction.
        methods: methods, the baseline, shorter baselines.
        values: by run.
        null: metric -> value of random initialisation, `loss` among them; {} where it was not measured.
    """
    assert metric.direction is not None
    measured = [(kind, method) for kind, method in methods if metric.key in method.values]
    if all(kind == "baseline_curve" for kind, _ in measured):
        return None
    front = _on_front([method for kind, method in measured if _is_decayed(kind, method)], metric)
    points = [_point(kind, method, method.name in front, metric.key) for kind, method in measured]
    points += _checkpoints(metric.key, measured, values)
    if "loss" in null and metric.key in null:
        points.append(_bare("random_init", null["loss"], null[metric.key], "null"))
    reference = _reference(metric, points)
    return Frontier(
        metric=metric,
        points=points,
        equal_ce=_equal_ce(points),
        hypervolume=_hypervolume(metric, measured, values, reference),
        reference=reference,
    )


def _is_decayed(kind: Kind, method: MethodSummary) -> bool:
    return kind != "baseline_curve" or all(map(has_ended, method.runs))


def _on_front(methods: Sequence[MethodSummary], metric: MetricInfo) -> set[str]:
    places = [(method.loss.value, method.values[metric.key].value) for method in methods]
    names = [method.name for method in methods]
    chosen = pareto_set(places, ("lower", metric.direction), labels=names) if places else []
    return {name for name, is_on in zip(names, chosen, strict=True) if is_on}


def _point(kind: Kind, method: MethodSummary, on_front: bool, key: str) -> Point:
    loss, value = method.loss, method.values[key]
    return Point(
        name=method.name,
        loss=loss.value,
        loss_interval=loss.interval,
        value=value.value,
        value_interval=value.interval,
        on_front=on_front,
        kind=kind,
        decayed=_is_decayed(kind, method),
    )


def _bare(name: str, loss: float, value: float, kind: Kind, decayed: bool = True) -> Point:
    return Point(
        name=name,
        loss=loss,
        loss_interval=None,
        value=value,
        value_interval=None,
        on_front=False,
        kind=kind,
        decayed=decayed,
    )


def _checkpoints(key: str, measured: Sequence[tuple[Kind, MethodSummary]], values: Values) -> list[Point]:
    """The baseline's evaluations in training, where all of its runs logged the metric at that step.

    A log counts only where its last line, of the final weights, agrees with the report: else it is of other tokens.
    """
    for kind, method in measured:
        if kind == "baseline":
            logs = [_logged(run, key, values[run.label]) for run in method.runs]
            steps = sorted(set.intersection(*map(set, logs)))
            means = {step: np.mean([log[step] for log in logs], axis=0).tolist() for step in steps}
            return [
                _bare(f"{method.name} at step {step}", *mean, "baseline_curve", decayed=False)
                for step, mean in means.items()
            ]
    return []


def _logged(run: Run, key: str, reported: Mapping[str, float]) -> dict[int, tuple[float, float]]:
    """Step -> cross-entropy and metric, before the last evaluation."""
    names = ("eval_loss", f"eval_{key}")
    lines = {line["step"]: [line.get(name) for name in names] for line in run.curves if names[0] in line}
    if not lines or None in (last := lines.pop(max(lines))):
        return {}
    off = abs(last[0] - reported["loss"]) > SAME_CE or abs(last[1] - reported[key]) > SAME_VALUE * abs(reported[key])
    return {} if off else {step: (ce, value) for step, (ce, value) in lines.items() if None not in (ce, value)}


def _equal_ce(points: Sequence[Point]) -> dict[str, EqualCrossEntropy]:
    own = [point for point in points if point.kind in ("baseline", "baseline_curve")]
    decayed = [point for point in own if point.decayed]
    line = decayed if len({point.loss for point in decayed}) > 1 else own
    if len({point.loss for point in line}) < 2:
        return {}
    losses, values = [point.loss for point in line], [point.value for point in line]
    return {p.name: baseline_at_equal_ce(losses, values, p.loss) for p in points if p.kind == "method"}


def _reference(metric: MetricInfo, points: Sequence[Point]) -> tuple[float, float]:
    trained = [point for point in points if point.kind != "null" and point.decayed]
    of_value = trained + [point for point in points if point.kind == "null"]
    return (
        _beyond_worst([point.loss for point in trained if point.kind != "baseline_curve"], -1),
        _beyond_worst([point.value for point in of_value], sign_of(metric.direction or "higher", what=metric.key)),
    )


def _beyond_worst(values: Sequence[float], sign: int) -> float:
    """A tenth of the range beyond the worst value; where all are equal, a tenth of the value."""
    worst = min(values) if sign > 0 else max(values)
    spread = max(values) - min(values) or abs(worst) or 1.0
    return worst - sign * MARGIN_SHARE * spread


def _hypervolume(
    metric: MetricInfo, measured: Sequence[tuple[Kind, MethodSummary]], values: Values, reference: tuple[float, float]
) -> HypervolumeEstimate | None:
    by_seed = [
        {run.seed: (values[run.label]["loss"], values[run.label][metric.key]) for run in method.runs}
        for kind, method in measured
        if kind in ("method", "baseline")
    ]
    seeds = set.intersection(*map(set, by_seed)) - {None} if by_seed else set()
    if not seeds:
        return None
    array = [[places[seed] for places in by_seed] for seed in sorted(seeds)]
    return hypervolume_over_seeds(array, reference, ("lower", metric.direction))
