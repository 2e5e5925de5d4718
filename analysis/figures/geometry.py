"""Units as points: those that fire alike lie near each other.

    PCA    kernel PCA of the cosine matrix C: eigenvectors of H C H, H = I − 1/D, times the roots of their eigenvalues
    UMAP   of the distances 1 − cos, where umap-learn is installed (its layout depends on its settings and random state)
Source: Schölkopf et al. 1998; McInnes et al. 1802.03426.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from scipy.sparse.linalg import eigsh

from analysis.comparison import Comparison
from analysis.figures._axes import panel_grid
from analysis.figures._units import chosen_runs, layers_of, matrix_label, per_unit_name, per_unit_values
from analysis.runs import Run
from analysis.theme import SERIES, Picture, style, text

MIN_UNITS = 4
_COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.12, 0.9, 256)))  # seen on white and on black


class Layout(NamedTuple):
    """Places of the units [D, 2], NaN for those without a direction, and the share of variance that they show."""

    places: np.ndarray
    share: float | None


def pca_layout(cosine: np.ndarray) -> Layout:
    """Of a cosine matrix [D, D]; units whose row is NaN have no place."""
    alive = ~np.isnan(cosine).all(axis=1)
    places = np.full((len(cosine), 2), np.nan)
    kernel = np.asarray(cosine[np.ix_(alive, alive)], dtype=float)
    if len(kernel) < MIN_UNITS:
        return Layout(places, None)
    kernel = kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean()
    start = np.cos(np.arange(len(kernel)))  # any fixed vector: the answer must not depend on the random state
    values, vectors = eigsh((kernel + kernel.T) / 2, k=2, which="LA", v0=start)
    order = np.argsort(-values)
    values, vectors = values[order].clip(min=0), vectors[:, order]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), [0, 1]])
    places[alive] = vectors * np.sqrt(values)
    total = float(np.trace(kernel))
    return Layout(places, float(values.sum() / total) if total > 0 else None)


def umap_layout(cosine: np.ndarray) -> Layout:
    """Of a cosine matrix [D, D], by umap-learn with a fixed random state.

    Raises:
        ImportError: it is not installed.
    """
    from umap import UMAP

    alive = ~np.isnan(cosine).all(axis=1)
    places = np.full((len(cosine), 2), np.nan)
    distances = np.clip(1 - np.asarray(cosine[np.ix_(alive, alive)], dtype=float), 0, None)
    np.fill_diagonal(distances, 0)
    if len(distances) >= MIN_UNITS:
        neighbours = min(15, len(distances) - 1)
        places[alive] = UMAP(metric="precomputed", n_neighbors=neighbours, random_state=0).fit_transform(distances)
    return Layout(places, None)


def geometry_pictures(comparison: Comparison) -> list[Picture]:
    """PCA and, where umap-learn is installed, UMAP of one run a method; none without cosine matrices."""
    pictures = [_picture(comparison, pca_layout, "PCA")]
    if _has_umap():
        pictures.append(_picture(comparison, umap_layout, "UMAP"))
    return [picture for picture in pictures if picture is not None]


def _has_umap() -> bool:
    try:
        import umap  # noqa: F401
    except ImportError:
        return False
    return True


class _Panel(NamedTuple):
    layout: Layout
    values: np.ndarray | None


def _picture(comparison: Comparison, layout: Callable[[np.ndarray], Layout], kind: str) -> Picture | None:
    runs = chosen_runs(comparison)
    label = matrix_label(runs.values())
    if label is None:
        return None
    layers = layers_of(runs.values(), label)
    colouring = next(filter(None, (per_unit_name(run.report, label) for run in runs.values())), None)
    panels = {}
    for name, run in runs.items():
        for layer in layers:
            if f"{label}/matrix/{layer}" in run.report.arrays:
                found = layout(run.report.arrays[f"{label}/matrix/{layer}"])
                panels[layer, name] = _Panel(found, per_unit_values(run.report, colouring, layer, len(found.places)))
    with style():
        figure = _draw(panels, layers, list(runs), colouring)
    return Picture(
        name=f"geometry-{kind.lower()}",
        title=f"Units of a layer, {kind}",
        caption=_caption(kind, runs, label, panels, colouring),
        figure=figure,
        wide=True,
    )


def _draw(panels: dict[tuple[str, str], _Panel], layers: list[str], names: list[str], colouring: str | None) -> Figure:
    figure, grid = panel_grid(layers, names)
    norm = _norm([panel.values for panel in panels.values() if panel.values is not None])
    for (layer, name), panel in panels.items():
        axes = grid[layers.index(layer), names.index(name)]
        axes.spines[["top", "right"]].set_visible(True)
        places = panel.layout.places
        plain = {"s": np.clip(3000 / len(places), 4, 16), "linewidths": 0, "alpha": 0.85, "rasterized": True}
        if panel.values is None or norm is None:
            axes.scatter(*places.T, color=SERIES[0], **plain)
        else:
            axes.scatter(*places.T, c=panel.values, cmap=_COLOURS, norm=norm, plotnonfinite=False, **plain)
        axes.margins(0.08)
    if norm is not None:
        words = text(colouring.replace("/", ": "))
        figure.colorbar(ScalarMappable(norm, _COLOURS), ax=grid, label=words, shrink=0.8, aspect=30)
    return figure


def _norm(values: list[np.ndarray]) -> Normalize | None:
    """From the 1st to the 99th percentile of all panels together."""
    finite = np.concatenate([array[np.isfinite(array)] for array in values]) if values else np.empty(0)
    return Normalize(*np.quantile(finite, [0.01, 0.99]), clip=True) if finite.size else None


def _caption(kind: str, runs: dict[str, Run], label: str, panels, colouring: str | None) -> str:
    report = next(iter(runs.values())).report
    sites = ", ".join(report.metric_settings[label].get("sites", ())) if label in report.metric_settings else ""
    parts = [
        f"Each point is a unit{f' at {sites}' if sites else ''}; units that are active on the same tokens lie near "
        "each other. Axes have no unit; panels have scales of their own. "
        f"One run a method: {', '.join(run.name for run in runs.values())}."
    ]
    if kind == "PCA":
        shares = [panel.layout.share for panel in panels.values() if panel.layout.share is not None]
        if shares:
            low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
            shown = low if low == high else f"{low} to {high}"
            parts.append(f"The two components hold {shown} % of a panel's variance; the rest is unseen.")
    else:
        parts.append("UMAP keeps neighbours, not distances: sizes of clusters and gaps between them say nothing.")
    if colouring is not None:
        parts.append(f"Colour: {colouring.replace('/', ', ')} of the unit, one scale for all panels.")
    return " ".join(parts)
