"""Layer profiles: a metric by layer, a line a method, its range over seeds as a band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D

from analysis.comparison import Comparison
from analysis.figures._axes import empty_axes, legend_below, method_handle, metric_name
from analysis.measures import MetricInfo
from analysis.runs import Run
from analysis.theme import MUTED, Picture, looks, slug, style, text


def layer_pictures(comparison: Comparison) -> list[Picture]:
    """One for each metric that some run has in two layers or more."""
    found = ((metric, _layers(comparison.runs, metric)) for metric in comparison.metrics)
    return [_picture(comparison, *pair, number) for number, pair in enumerate(found, 1) if len(pair[1]) > 1]


def _layers(runs: Sequence[Run], metric: MetricInfo) -> list[int]:
    prefix = _prefix(metric)
    names = {key.removeprefix(prefix) for run in runs for key in run.report.metrics if key.startswith(prefix)}
    return sorted(int(name) for name in names if name.isdigit())


def _prefix(metric: MetricInfo) -> str:
    return f"{metric.key.removesuffix('mean')}layer_"


def _picture(comparison: Comparison, metric: MetricInfo, layers: list[int], number: int) -> Picture:
    shown = looks([method.name for method in comparison.methods], comparison.baseline)
    keys = [f"{_prefix(metric)}{layer}" for layer in layers]
    handles, labels = [], []
    with style():
        figure, axes = empty_axes()
        for method in comparison.methods:
            look, rows = shown[method.name], _table([run.report.metrics for run in method.runs], keys)
            if np.isnan(rows).all():
                continue
            axes.plot(layers, _over_runs(np.mean, rows), color=look.colour, marker=look.marker, ls=look.dash, ms=4.5)
            low, high = _over_runs(np.min, rows), _over_runs(np.max, rows)
            axes.fill_between(layers, low, high, color=look.colour, alpha=0.18, lw=0)
            handles.append(method_handle(look))
            labels.append(method.name)
        null = _table([run.report.nulls.get("random_init", {}) for run in comparison.runs], keys)
        if not np.isnan(null).all():
            axes.plot(layers, _over_runs(np.mean, null), color=MUTED, ls=":", lw=1.3)
            handles.append(Line2D([], [], color=MUTED, ls=":", lw=1.3))
            labels.append("random init")
        axes.set_xticks(layers)
        axes.set_xlabel("layer")
        axes.set_ylabel(text(metric_name(metric)))
        legend_below(figure, handles, labels)
    return Picture(
        name=f"layers-{number}-{slug(metric_name(metric))}",
        title=f"{metric_name(metric)} by layer",
        caption=_caption(comparison, metric, keys),
        figure=figure,
    )


def _table(rows: Sequence[dict[str, float | None]], keys: Sequence[str]) -> np.ndarray:
    """[runs, layers], NaN where a value is missing."""
    return np.array([[row.get(key) for key in keys] for row in rows], dtype=float).reshape(len(rows), len(keys))


def _over_runs(summary, rows: np.ndarray) -> np.ndarray:
    """[layers], of the runs that have a value there."""
    return np.array([summary(column[~np.isnan(column)]) if not np.isnan(column).all() else np.nan for column in rows.T])


def _caption(comparison: Comparison, metric: MetricInfo, keys: Sequence[str]) -> str:
    peaks = []
    for method in comparison.methods:
        means = _over_runs(np.mean, _table([run.report.metrics for run in method.runs], keys))
        if not np.isnan(means).all():
            at = keys[int(np.nanargmax(means))].rpartition("_")[2]
            peaks.append(f"{method.name} {np.nanmin(means):.3g} to {np.nanmax(means):.3g} (largest in layer {at})")
    better = f" {metric.direction.capitalize()} is better." if metric.direction else ""
    return f"{'; '.join(peaks)}.{better}"
