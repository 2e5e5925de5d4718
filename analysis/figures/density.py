"""How often units fire: of each method the share of units by their density, over layers and seeds."""

from __future__ import annotations

import numpy as np

from analysis.comparison import Comparison
from analysis.figures._axes import empty_axes, legend_below, method_handle
from analysis.runs import Run
from analysis.theme import Picture, looks, style

BINS = np.linspace(0, 1, 21)


def density_picture(comparison: Comparison) -> Picture | None:
    """A histogram a method of the share of tokens on which a unit fires; None where no report has densities."""
    found = {method.name: densities(method.runs) for method in comparison.methods}
    found = {name: values for name, values in found.items() if len(values)}
    if not found:
        return None
    shown = looks([method.name for method in comparison.methods], comparison.baseline)
    with style():
        figure, axes = empty_axes()
        for name, values in found.items():
            counts, _ = np.histogram(values, bins=BINS)
            axes.stairs(counts / len(values), BINS, color=shown[name].colour, ls=shown[name].dash, lw=1.5)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of tokens on which a unit fires")
        axes.set_ylabel("share of units")
        legend_below(figure, [method_handle(shown[name]) for name in found], found)
    return Picture(name="density", title="How often units fire", caption=_caption(found), figure=figure)


def densities(runs: list[Run]) -> np.ndarray:
    """[units of all layers of all runs] in [0, 1], of the first label of `neuron_density` in each report."""
    values = []
    for run in runs:
        labels = (label for label, of in run.report.metric_settings.items() if of.get("metric") == "neuron_density")
        prefix = f"{next(labels, None)}/density/"
        values += [np.asarray(array) for key, array in run.report.arrays.items() if key.startswith(prefix)]
    return np.concatenate(values) if values else np.empty(0)


def _caption(found: dict[str, np.ndarray]) -> str:
    parts = [
        f"{name} median {np.median(values):.2g}, never {np.mean(values == 0):.1%}, under 1 % of tokens "
        f"{np.mean((values > 0) & (values < 0.01)):.1%}"
        for name, values in found.items()
    ]
    return f"Units of all layers and seeds, in twenty steps. {'; '.join(parts)}."
