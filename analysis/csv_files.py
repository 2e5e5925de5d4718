"""A comparison as CSV: numbers in full, null rows named, and no text that a spreadsheet would run.

runs.csv     a row a run and null row, a column a number of its report
methods.csv  a row a method and metric: mean, interval, paired difference and its interval; null rows with their mean
layers.csv   method, seed, row, metric, layer, value: every number of a layer
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from analysis.comparison import Comparison
from analysis.estimates import MethodSummary
from analysis.intervals import Estimate

Cell = str | int | float | None
TRAINED = "trained"  # beside the names of null rows
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@")  # first characters


def write_csv_files(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes the three files into a folder that is there. Returns their paths."""
    tables = {"runs": run_rows(comparison), "methods": method_rows(comparison), "layers": layer_rows(comparison)}
    return [_write(folder / f"{name}.csv", list(rows)) for name, rows in tables.items()]


def run_rows(comparison: Comparison) -> Iterable[dict[str, Cell]]:
    """Each run as it was trained, and each of its null rows."""
    for run in comparison.runs:
        facts: dict[str, Cell] = {"run": run.name, "method": run.method, "seed": run.seed}
        for row, values in _rows_of(comparison, run.label, run.report.nulls):
            yield {**facts, "row": row, "step": run.report.step if row == TRAINED else None, **values}


def method_rows(comparison: Comparison) -> Iterable[dict[str, Cell]]:
    """Cross-entropy, perplexity and headline metrics, method by method."""
    directions = {"loss": "lower", "perplexity": "lower", **{info.key: info.direction for info in comparison.metrics}}
    for summary in [*comparison.methods, *comparison.shorter]:
        for key, direction in directions.items():
            if key in summary.values:
                yield {"method": summary.name, "metric": key, "direction": direction, **_estimates(summary, key)}
    for row, values in comparison.nulls.items():
        for key, direction in directions.items():
            if key in values:
                yield {"method": f"{row} (null)", "metric": key, "direction": direction, "mean": values[key]}


def layer_rows(comparison: Comparison) -> Iterable[dict[str, Cell]]:
    """Every number of a layer, of trained models and null rows."""
    for run in comparison.runs:
        for row, values in _rows_of(comparison, run.label, run.report.nulls):
            for key, value in values.items():
                if match := re.fullmatch(r"(.+)/layer_(\d+)", key):
                    facts: dict[str, Cell] = {"method": run.method, "seed": run.seed, "row": row}
                    yield {**facts, "metric": match[1], "layer": int(match[2]), "value": value}


def _rows_of(
    comparison: Comparison, label: str, nulls: Mapping[str, Mapping[str, float | None]]
) -> Iterable[tuple[str, Mapping[str, float | None]]]:
    yield TRAINED, comparison.values[label]
    yield from nulls.items()


def _estimates(summary: MethodSummary, key: str) -> dict[str, Cell]:
    verdict = summary.verdict if key == "loss" else None
    documents = summary.documents if key == "loss" else None
    return {
        **_columns("mean", "", summary.values[key]),
        "seeds": len(summary.runs),
        **_columns("difference", "difference_", summary.differences.get(key)),
        **_columns("documents_difference", "documents_", documents),
        "verdict": verdict.word if verdict else None,
    }


def _columns(name: str, prefix: str, value: Estimate | None) -> dict[str, Cell]:
    low, high, _ = value.interval if value and value.interval else (None, None, None)
    return {name: value.value if value else None, f"{prefix}low": low, f"{prefix}high": high}


def _write(path: Path, rows: list[Mapping[str, Cell]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([_safe(name) for name in names])
        writer.writerows([_safe(row.get(name)) for name in names] for row in rows)
    return path


def _safe(cell: Cell) -> Cell:
    """Numbers as they are; text on one line, behind an apostrophe where a spreadsheet would take it for a formula."""
    if isinstance(cell, str):
        text = " ".join(cell.split())
        return f"'{text}" if text.startswith(_RUN_BY_SPREADSHEETS) else text
    return float(cell) if isinstance(cell, float) else cell  # csv writes a numpy float as its repr
