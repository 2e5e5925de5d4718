"""Methods against a baseline: what each costs in cross-entropy and what it changes, with intervals over seeds.

Runs of one method differ in their seed; runs of one seed share initial weights and data, and are compared in pairs.
The baseline is the method without objectives that trained longest; shorter ones of its recipe say what it has at
other cross-entropies, and get no verdict. Not separating (Heap et al. 2025, 2501.17727): s·(trained − random init) of
the baseline, paired by run, is on average at most two standard deviations over seeds; with one seed, at most 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.baseline import by_method, find_baseline, shorter_baselines
from analysis.composite import Correlations, metric_correlations
from analysis.declared import CompositeResult, composite_result, declaration
from analysis.estimates import MethodSummary, summarise, summary
from analysis.frontiers import Frontier, Kind, Point, frontier
from analysis.measures import (
    MetricInfo,
    Values,
    check_losses,
    check_same_data,
    differently_measured,
    evaluation_notes,
    metric_infos,
    missing_notes,
    null_values,
    values_by_run,
)
from analysis.pareto import sign_of
from analysis.runs import Run, check_distinct
from analysis.verdict import MARGIN
from hf_tti.errors import UserError, did_you_mean

__all__ = ["Comparison", "CompositeResult", "Frontier", "MethodSummary", "MetricInfo", "Point", "compare_runs"]

SEPARATION = 2.0  # standard deviations over seeds


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a set of runs says.

    Attributes:
        runs: all, as they were given.
        baseline: name of a method; None where no baseline is known.
        margin: nats of cross-entropy that count as none.
        methods: the baseline first. Shorter baselines are not among them.
        shorter: shorter baselines, from the longest.
        metrics: headline metrics, a declared composite last.
        frontiers: one for each metric with a direction.
        composite: as declared in the recipes; its estimates are with the metrics' under `composite`.
        correlations: of cross-entropy and headline metrics over all runs; None with fewer than three.
        nulls: null row -> name -> mean over the baseline's runs (over all, without a baseline).
        not_separating: keys of metrics that do not tell the baseline from random initialisation.
        values: run's label -> name -> value.
        notes: what a reader has to know, a line each.
    """

    runs: list[Run]
    baseline: str | None
    margin: float
    methods: list[MethodSummary]
    shorter: list[MethodSummary]
    metrics: list[MetricInfo]
    frontiers: list[Frontier]
    composite: CompositeResult | None
    correlations: Correlations | None
    nulls: dict[str, dict[str, float]]
    not_separating: list[str]
    values: dict[str, dict[str, float]]
    notes: list[str]


def compare_runs(runs: Sequence[Run], *, baseline: str | None = None, margin: float | None = None) -> Comparison:
    """Compares methods by their evaluated runs.

    Args:
        runs: of one data set.
        baseline: name of a method. Default: the recipes' `analysis.baseline`, else the longest without objectives.
        margin: nats of cross-entropy that count as none. Default: the recipes' `analysis.margin`, else 0.005.

    Raises:
        UserError: no run, two of one method and seed, different data or tokenizers, a cross-entropy that is not finite,
            or an unknown baseline.
    """
    _check(runs)
    notes: list[str] = []
    groups = by_method(runs)
    name = find_baseline(groups, baseline or _declared_baseline(runs, groups, notes), notes)
    shorter = shorter_baselines(groups, name, notes)
    margin = margin if margin is not None else declaration(runs, "margin", notes) or MARGIN
    odd = differently_measured(runs)
    metrics = [info for info in metric_infos(runs) if info.label not in odd]
    values = values_by_run(runs, without=odd)
    of_baseline = groups[name] if name else list(runs)
    nulls = null_values(of_baseline)
    null = dict(nulls.get("random_init", {}))

    judged = {method: groups[method] for method in [*([name] if name else []), *groups] if method not in shorter}
    apart = {method: groups[method] for method in shorter}
    composite = composite_result(judged, name, apart, metrics, values, null, notes)
    if composite:
        metrics = [*metrics, composite.info]
        composite.add_to(values, null)
    methods = summarise(judged, name, values, margin, notes)
    curve = [summary(method, members, values) for method, members in apart.items()]
    notes += [*_seed_notes(methods), *odd.values(), *missing_notes(runs, without=odd), *evaluation_notes(runs)]
    frontiers = _frontiers(methods, curve, name, metrics, values, null)
    notes += _equal_ce_notes(frontiers, composite)
    return Comparison(
        runs=list(runs),
        baseline=name,
        margin=margin,
        methods=methods,
        shorter=curve,
        metrics=metrics,
        frontiers=frontiers,
        composite=composite,
        correlations=_correlations(runs, metrics, values),
        nulls=nulls,
        not_separating=_not_separating(of_baseline, metrics, values),
        values=values,
        notes=list(dict.fromkeys(notes)),
    )


def _declared_baseline(runs: Sequence[Run], groups: Mapping[str, list[Run]], notes: list[str]) -> str | None:
    """The recipes' `analysis.baseline`; None where it is not among these runs (which is noted)."""
    declared = declaration(runs, "baseline", notes)
    if declared is None or declared in groups:
        return declared
    notes.append(f"analysis.baseline: {declared} is not among these runs{did_you_mean(declared, groups)}")
    return None


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise UserError("no run to compare")
    check_distinct(runs)
    check_same_data(runs)
    check_losses(runs)


# ---- Across methods ----------------------------------------------------------------------------


def _frontiers(
    methods: Sequence[MethodSummary],
    shorter: Sequence[MethodSummary],
    baseline: str | None,
    metrics: Sequence[MetricInfo],
    values: Values,
    null: Mapping[str, float],
) -> list[Frontier]:
    kinds: list[tuple[Kind, MethodSummary]] = [("baseline" if m.name == baseline else "method", m) for m in methods]
    kinds += [("baseline_curve", method) for method in shorter]
    directed = [info for info in metrics if info.direction is not None]
    return [front for info in directed if (front := frontier(info, kinds, values, null))]


def _correlations(runs: Sequence[Run], metrics: Sequence[MetricInfo], values: Values) -> Correlations | None:
    keys = ["loss", *(info.key for info in metrics)]
    if len(runs) < 3 or len(keys) < 2:
        return None
    rows = [[values[run.label].get(key, np.nan) for key in keys] for run in runs]
    return metric_correlations(pd.DataFrame(rows, index=[run.label for run in runs], columns=keys))


def _not_separating(runs: Sequence[Run], metrics: Sequence[MetricInfo], values: Values) -> list[str]:
    found = []
    for info in metrics:
        if info.direction is None:
            continue
        trained = [values[run.label].get(info.key) for run in runs]
        random = [run.report.nulls.get("random_init", {}).get(info.key) for run in runs]
        if None in trained or None in random:
            continue
        gains = sign_of(info.direction, what=info.key) * (np.array(trained) - np.array(random))
        spread = float(gains.std(ddof=1)) if len(gains) > 1 else 0.0
        if gains.mean() <= SEPARATION * spread:
            found.append(info.key)
    return found


def _seed_notes(methods: Sequence[MethodSummary]) -> list[str]:
    notes = []
    if all(len(method.runs) == 1 for method in methods):
        notes.append("one seed: no interval over seeds, and no verdict but undecided; 3 seeds or more are usual")
    for method in methods:
        unpaired = method.verdict.differences.unpaired if method.verdict else ()
        if unpaired:
            seeds = ", ".join(map(str, unpaired))
            notes.append(f"{method.name}: seed {seeds} has no partner, left out of differences but not of means")
    return notes


def _equal_ce_notes(frontiers: Sequence[Frontier], composite: CompositeResult | None) -> list[str]:
    is_ranked = composite is not None and composite.composite.method == "rank"  # then it is of methods alone
    asked = [front for front in frontiers if not (is_ranked and front.metric == composite.info)]
    undecayed = [front.metric.label for front in asked if front.equal_ce_is_undecayed]
    without = [front.metric.label for front in asked if front.lacks_equal_ce]
    notes = []
    if undecayed:
        what = "rests on checkpoints in training, whose learning rate had not decayed"
        notes.append(f"equal cross-entropy of {', '.join(undecayed)} {what}: train shorter baselines to be sure")
    if without:
        notes.append(f"no baseline at equal cross-entropy for {', '.join(without)}: train shorter baselines as well")
    return notes
