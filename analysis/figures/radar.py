"""Radar of methods over metrics. Each spoke runs from the worst method (inner ring) to the best (outer ring)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.comparison import Comparison
from analysis.figures._axes import empty_axes, legend_below, method_handle, metric_name, shortened_lines
from analysis.pareto import sign_of
from analysis.theme import MUTED, Picture, looks, style

_INNER = 0.15
MIN_SPOKES = 3


def radar_picture(comparison: Comparison) -> Picture | None:
    """None with fewer than two methods or three spokes that have a direction and tell the methods apart."""
    names = [method.name for method in comparison.methods]
    spokes = _spokes(comparison)
    if len(names) < 2 or len(spokes) < MIN_SPOKES:
        return None
    shown = looks(names, comparison.baseline)
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    with style():
        figure, axes = empty_axes(width=4.6, height=4.1, projection="polar")
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        for name in names:
            radii = [_INNER + (1 - _INNER) * heights[name] for heights in spokes.values()]
            look = shown[name]
            closed = [*radii, radii[0]], [*angles, angles[0]]
            axes.plot(closed[1], closed[0], color=look.colour, ls=look.dash, marker=look.marker, ms=4.5, lw=1.5)
        axes.set_xticks(angles, [shortened_lines(label, 12) for label in spokes], color=MUTED)
        for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
            side = "left" if angle < np.pi else "right"
            label.set_horizontalalignment("center" if abs(np.sin(angle)) < 0.2 else side)
        axes.tick_params(axis="x", pad=2)
        axes.set_yticks([_INNER, (1 + _INNER) / 2, 1], [""] * 3)
        axes.set_ylim(0, 1.04)
        axes.spines["polar"].set_visible(False)
        handles = [method_handle(shown[name]) for name in names]
        legend_below(figure, handles, names, columns=3 if len(names) > 4 else 2)
    return Picture(name="radar", title="Methods over metrics", caption=_caption(comparison, spokes), figure=figure)


def _spokes(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Spoke -> method -> 0 for the worst of them to 1 for the best."""
    columns = {"cross-entropy": (-1, {method.name: method.loss.value for method in comparison.methods})}
    for metric in comparison.metrics:
        values = {m.name: m.values[metric.key].value for m in comparison.methods if metric.key in m.values}
        if metric.direction is not None and len(values) == len(comparison.methods):
            columns[metric_name(metric)] = (sign_of(metric.direction, what=metric.key), values)
    return {label: _scaled(sign, values) for label, (sign, values) in columns.items() if len(set(values.values())) > 1}


def _scaled(sign: int, values: Mapping[str, float]) -> dict[str, float]:
    goods = {name: sign * value for name, value in values.items()}
    worst, best = min(goods.values()), max(goods.values())
    return {name: (good - worst) / (best - worst) for name, good in goods.items()}


def _caption(comparison: Comparison, spokes: Mapping[str, Mapping[str, float]]) -> str:
    best = "; ".join(f"{label}: {max(heights, key=heights.__getitem__)}" for label, heights in spokes.items())
    return (
        "Means over seeds. Every spoke is signed so that outward is better, and scaled by itself from the worst method "
        "shown (inner ring) to the best (outer ring): a spoke hides how large the difference is and whether it is more "
        "than noise, another method can move the others, and areas mean nothing. "
        f"Best on each spoke: {best}."
    )
