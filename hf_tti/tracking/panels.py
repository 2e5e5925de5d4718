"""What of a report a tracker shows beside its numbers: a table with the null rows, and pictures of its matrices."""

from __future__ import annotations

import numpy as np

from hf_tti.report import Report

_MATRIX = "/matrix/"
_TOP = 0.995  # of the cells off the diagonal lie below the colour scale's end


def metrics_table(report: Report) -> tuple[list[str], list[list[str | float | None]]]:
    """Columns (`metric`, `value` and the null rows) and rows; None where a null row does not apply."""
    columns = ["metric", "value", *report.nulls]
    nulls = report.nulls.values()
    rows = [[name, value, *(null.get(name) for null in nulls)] for name, value in report.metrics.items()]
    return columns, rows


def heatmaps(report: Report) -> dict[str, np.ndarray]:
    """`<label>/<layer>` -> a picture of the matrix of its units, in the model's own order; empty cells are NaN.

    Returns:
        Pixels, uint8 [height, width, 3].

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    names = [name for name in report.arrays if _MATRIX in name and report.arrays[name].ndim == 2]
    return {name.replace(_MATRIX, "/"): _heatmap(report.arrays[name], name) for name in names}


def _heatmap(matrix: np.ndarray, name: str) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), dpi=120, layout="constrained")
    canvas, axes, top = FigureCanvasAgg(figure), figure.subplots(), _top(matrix)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
    figure.colorbar(image, ax=axes, extend="both")
    axes.set(title=name.replace(_MATRIX, ", "), xlabel="unit", ylabel="unit")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _top(matrix: np.ndarray) -> float:
    values = np.abs(matrix[~np.eye(*matrix.shape, dtype=bool)])
    values = values[np.isfinite(values)]
    return (float(np.quantile(values, _TOP)) if len(values) else 0.0) or 1.0
