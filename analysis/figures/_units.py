"""Which run stands for a method where all seeds would be too many, and which arrays speak of its units."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from analysis.comparison import Comparison
from analysis.runs import Run
from hf_tti.report import Report

_MATRIX = re.compile(r"(.+)/matrix/(.*layer_[0-9]+)")
_PER_UNIT = ("entropy", "density", "share")


def chosen_runs(comparison: Comparison) -> dict[str, Run]:
    """Method -> one run: that of the smallest seed which every method has, where there is one, else its first."""
    seeds = [{run.seed for run in method.runs if run.seed is not None} for method in comparison.methods]
    common = sorted(set.intersection(*seeds)) if seeds else []
    return {
        method.name: next((run for run in method.runs if common and run.seed == common[0]), method.runs[0])
        for method in comparison.methods
    }


def matrix_label(runs: Iterable[Run]) -> str | None:
    """The label of the cosine matrices between units; None where no report has them."""
    for run in runs:
        for key in run.report.arrays:
            found = _MATRIX.fullmatch(key)
            if found and run.report.metric_settings.get(found[1], {}).get("metric") == "cosine_similarity":
                return found[1]
    return None


def layers_of(runs: Iterable[Run], label: str) -> list[str]:
    """The layers' names, in the order of their numbers, in which any of the runs has a matrix."""
    found = (_MATRIX.fullmatch(key) for run in runs for key in run.report.arrays)
    names = {match[2] for match in found if match and match[1] == label}
    return sorted(names, key=lambda name: (name.rpartition("layer_")[0], int(name.rpartition("_")[2])))


def per_unit_name(report: Report, matrix: str) -> str | None:
    """`<label>/<array>` of a number a unit, measured at the sites of the matrices under label `matrix`."""
    sites = report.metric_settings.get(matrix, {}).get("sites")
    for array in _PER_UNIT:
        for label, settings in report.metric_settings.items():
            prefix = f"{label}/{array}/"
            if settings.get("sites") == sites and any(key.startswith(prefix) for key in report.arrays):
                return f"{label}/{array}"
    return None


def per_unit_values(report: Report, name: str | None, layer: str, num_units: int) -> np.ndarray | None:
    """[num_units], None where the report has no such array of this length."""
    key = f"{name}/{layer}"
    if name is None or key not in report.arrays:
        return None
    values = np.asarray(report.arrays[key], dtype=float)
    return values if values.shape == (num_units,) else None
