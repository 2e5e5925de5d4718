"""What the figures share: an empty figure of the report's look, its legend, and the limits of an axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.measures import MetricInfo
from analysis.theme import Look, text

WIDTH, HEIGHT, LINE = 4.1, 2.8, 0.18  # inches, of a legend's line too; a phone shows them at about the size of print


def empty_axes(*, width: float = WIDTH, height: float = HEIGHT, projection: str | None = None) -> tuple[Figure, Axes]:
    """A figure of one axes that lays itself out."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # inches; markers on an edge reach over it
    return figure, figure.add_subplot(projection=projection)


def method_handle(look: Look, *, line: bool = True) -> Line2D:
    """The legend's entry of a method."""
    return Line2D(
        [], [], color=look.colour, marker=look.marker, linestyle=look.dash if line else "none", markersize=5, lw=1.5
    )


def metric_name(metric: MetricInfo) -> str:
    """`sparsity`, or `sparsity/mlp.out` of a metric over several sites."""
    return metric.key.removesuffix("/mean")


def legend_below(figure: Figure, handles: Sequence[Line2D], labels: Iterable[str], *, columns: int = 2) -> None:
    """A legend under the axes; the figure grows by its lines, so that the axes keep their size."""
    shown = [text(label) for label in labels]
    widest = sorted(map(len, shown))[-columns:]
    columns = columns if sum(widest) <= 26 * columns else 1
    figure.set_figheight(figure.get_figheight() + LINE * -(-len(shown) // columns))
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.4)


def span(
    values: Iterable[float], lows: Iterable[float] = (), highs: Iterable[float] = (), *, more: float = 1.0
) -> tuple[float, float]:
    """Limits that hold all `values`; of what reaches further (`lows`, `highs`) at most `more` times their extent."""
    array = np.array(list(values), dtype=float)
    low, high = float(array.min()), float(array.max())
    extent = high - low or abs(high) * 0.02 or 1e-3
    left = max(min([low, *lows]), low - more * extent)
    right = min(max([high, *highs]), high + more * extent)
    margin = 0.08 * (right - left or extent)
    return left - margin, right + margin


def shortened_lines(label: str, length: int = 14) -> str:
    """`label` over several lines, broken after `_`, `/` and spaces."""
    lines = [""]
    for piece in text(label, 3 * length).replace("_", "_\v").replace("/", "/\v").replace(" ", " \v").split("\v"):
        if lines[-1] and len(lines[-1]) + len(piece) > length:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines)


def panel_grid(
    layers: Sequence[str], names: Sequence[str], *, layout: str = "constrained"
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [layers, methods]: small, without ticks, named at the top and at the left."""
    size = 0.75 + 1.45 * max(len(names), 2), 0.6 + 1.4 * len(layers)
    figure = Figure(figsize=size, layout=layout)
    grid = figure.subplots(len(layers), len(names), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(shortened_lines(name))
    for axes, layer in zip(grid[:, 0], layers, strict=True):
        axes.set_ylabel(text(layer.replace("_", " ")))
    return figure, grid
