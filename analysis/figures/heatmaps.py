"""Matrices as pictures: |cos| between units, layer by layer and method by method, and metric against metric."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison import Comparison
from analysis.figures._axes import metric_name, panel_grid
from analysis.figures._units import chosen_runs, layers_of, matrix_label
from analysis.theme import Picture, style, text

MAX_CELLS = 96  # a side; larger matrices are averaged in blocks


def similarity_picture(comparison: Comparison) -> Picture | None:
    """|cos| of one run a method: methods from left to right, layers from top to bottom. None without matrices."""
    runs = chosen_runs(comparison)
    label = matrix_label(runs.values())
    if label is None:
        return None
    layers = layers_of(runs.values(), label)
    panels = {
        (layer, name): block_means(np.abs(run.report.arrays[f"{label}/matrix/{layer}"]))
        for name, run in runs.items()
        for layer in layers
        if f"{label}/matrix/{layer}" in run.report.arrays
    }
    top = _top(panels.values())
    with style():
        figure, grid = panel_grid(layers, list(runs), layout="compressed")
        for (layer, name), panel in panels.items():
            axes = grid[layers.index(layer), list(runs).index(name)]
            axes.grid(False)
            image = axes.imshow(panel, vmin=0, vmax=top, cmap="viridis", interpolation="none")
        figure.colorbar(image, ax=grid, label="mean |cos| of a block", extend="max", shrink=0.8, aspect=30)
    return Picture(
        name="similarity",
        title="Similarity of units",
        caption=_similarity_caption(runs, label, panels, top),
        figure=figure,
        wide=True,
    )


def block_means(matrix: np.ndarray, side: int = MAX_CELLS) -> np.ndarray:
    """[d, d] averaged in equal blocks to at most `side` × `side`, NaN left out; d ≤ side is returned as it is."""
    size = len(matrix)
    width = -(-size // side)
    edges = np.arange(0, size, width)
    there = ~np.isnan(matrix)
    sums = np.add.reduceat(np.add.reduceat(np.where(there, matrix, 0.0), edges, axis=0), edges, axis=1)
    counts = np.add.reduceat(np.add.reduceat(there.astype(float), edges, axis=0), edges, axis=1)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan, dtype=float), where=counts > 0)


def _top(panels) -> float:
    """The scale's upper end: 99.5 % of all blocks off the diagonal lie below it."""
    values = np.concatenate([panel[~np.eye(len(panel), dtype=bool)] for panel in panels])
    values = values[~np.isnan(values)]
    return float(np.quantile(values, 0.995)) if values.size else 1.0


def _similarity_caption(runs, label, panels, top: float) -> str:
    first = next(iter(runs.values()))
    width = first.report.arrays[f"{label}/matrix/{next(iter(panels))[0]}"].shape[0]
    blocks = -(-width // MAX_CELLS)
    shown = f"means over blocks of {blocks} × {blocks} units" if blocks > 1 else "every pair of units"
    means = {name: np.nanmean([np.nanmean(p) for (_, n), p in panels.items() if n == name]) for name in runs}
    values = "; ".join(f"{name} {value:.3g}" for name, value in means.items())
    sites = ", ".join(first.report.metric_settings.get(label, {}).get("sites", ()))
    return (
        f"|cos| between the {width} units of a layer{f' at {sites}' if sites else ''}: {shown}, units in the model's "
        f"own order, one colour scale for all panels (0 to {top:.2g}; brighter is more alike, the diagonal is 1, empty "
        f"cells are dead units). One run a method: {', '.join(text(run.name) for run in runs.values())}. "
        f"Mean of what is shown: {values}."
    )


def correlation_picture(comparison: Comparison) -> Picture | None:
    """Spearman's ρ between metrics across runs. None where the comparison has no correlations."""
    if comparison.correlations is None:
        return None
    rho, n = comparison.correlations.rho, comparison.correlations.n
    labels = {metric.key: metric_name(metric) for metric in comparison.metrics}
    names = [text(labels.get(key, key), 22) for key in rho.columns]
    side = 1.6 + 0.36 * len(names)
    with style():
        figure = Figure(figsize=(max(side + 0.6, 3.6), max(side, 3.2)), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(False)
        values = rho.to_numpy(dtype=float)
        image = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu", interpolation="none")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "#fdfdfd" if abs(value) > 0.6 else "#101010"  # on the image, whatever the page's scheme
                shown = f"{round(value, 1) + 0.0:.1f}"
                axes.text(column, row, shown, ha="center", va="center", fontsize=7, color=colour)
        figure.colorbar(image, ax=axes, label="Spearman's ρ over runs", shrink=0.8)
    return Picture(
        name="metric-correlations",
        title="Metrics against metrics",
        caption=_correlation_caption(rho, n, dict(zip(rho.columns, names, strict=True))),
        figure=figure,
        wide=len(names) > 8,
    )


def _correlation_caption(rho: pd.DataFrame, n: pd.DataFrame, names: dict[str, str]) -> str:
    pairs = [
        (abs(rho.iloc[i, j]), f"{names[rho.index[i]]} and {names[rho.columns[j]]} ({rho.iloc[i, j]:+.2f})")
        for i in range(len(rho))
        for j in range(i)
        if not np.isnan(rho.iloc[i, j])
    ]
    strongest = "; ".join(words for _, words in sorted(pairs, key=lambda pair: -pair[0])[:3])
    counts = sorted({int(count) for count in n.to_numpy().flat})
    shown = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return (
        f"Spearman's ρ of every two metrics over the runs that have both ({shown} runs). Runs "
        "that differ in the seed alone are not independent, so there is no p value. "
        + (f"Strongest: {strongest}." if strongest else "No pair has three runs and varies in both.")
    )
