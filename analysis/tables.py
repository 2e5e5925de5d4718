"""A comparison in words and table cells. A number has four significant digits, its interval as many decimals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.comparison import Comparison, MethodSummary
from analysis.intervals import Estimate
from analysis.measures import MetricInfo
from analysis.pareto import sign_of

Kind = Literal["baseline", "method", "shorter", "null"]

NULL_NAMES = {"random_init": "random init", "rotated": "rotated", "shuffled_labels": "shuffled labels"}
METRICS_A_TABLE = 5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number, its interval, and its difference from the baseline; "" where there is none.

    Attributes:
        mark: `better` or `worse` where the difference's interval lies on one side of 0.
    """

    value: str = ""
    interval: str = ""
    difference: str = ""
    difference_interval: str = ""
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Of a table: a method, a shorter baseline or a null, and its cells by column."""

    name: str
    kind: Kind
    cells: Sequence[Cell]
    num_seeds: int = 0
    word: str = ""
    p: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Some of the metrics: a column each, a row a method and null."""

    metrics: Sequence[MetricInfo]
    rows: Sequence[Row]


def number(value: float, *, like: float | None = None, sign: bool = False, bound: bool = False) -> str:
    """Four significant digits; as many decimals as `like` would have.

    Args:
        bound: of an interval: one below 0 that rounds to 0 keeps its sign, which says that 0 is inside.
    """
    size = abs(value if like is None else like)
    if value and not 1e-4 <= size < 1e6:
        return f"{value:{'+' if sign else ''}.3g}"
    decimals = 4 if size == 0 else max(0, 3 - math.floor(math.log10(size)))
    text = f"{value:{'+' if sign else ''}.{min(decimals, 6)}f}"
    return text if bound else _zero_unsigned(text)


def nats(value: float, *, sign: bool = False) -> str:
    """A cross-entropy, to 1e-4."""
    return _zero_unsigned(f"{value:{'+' if sign else ''}.4f}")


def _zero_unsigned(text: str) -> str:
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def _value_cell(estimate: Estimate, difference: Estimate | None = None, direction: str | None = None) -> Cell:
    value, like = number(estimate.value), estimate.value
    interval = _bounds([number(b, like=like) for b in estimate.interval[:2]]) if estimate.interval else ""
    if difference is None:
        return Cell(value=value, interval=interval)
    bounds = difference.interval[:2] if difference.interval else ()
    return Cell(
        value=value,
        interval=interval,
        difference=number(difference.value, like=like, sign=True),
        difference_interval=_bounds([number(end, like=like, sign=True, bound=True) for end in bounds]),
        mark=_mark(difference, direction),
    )


def _nats_cell(estimate: Estimate | None, *, sign: bool = False) -> Cell:
    if estimate is None:
        return Cell()
    bounds = estimate.interval[:2] if estimate.interval else ()
    return Cell(value=nats(estimate.value, sign=sign), interval=_bounds([nats(b, sign=sign) for b in bounds]))


def _bounds(texts: Sequence[str]) -> str:
    return f"[{', '.join(texts)}]" if texts else ""


def _mark(difference: Estimate, direction: str | None) -> str:
    if difference.interval is None or direction is None:
        return ""
    low, high = sorted(sign_of(direction, what="metric") * bound for bound in difference.interval[:2])
    return "better" if low > 0 else "worse" if high < 0 else ""


def verdict_rows(comparison: Comparison) -> list[Row]:
    """Cells: cross-entropy, its difference over seeds, its difference over documents."""
    rows = []
    for method in comparison.methods:
        verdict = method.verdict
        difference = _nats_cell(verdict.estimate if verdict else None, sign=True)
        rows.append(
            Row(
                name=method.name,
                kind="baseline" if method.name == comparison.baseline else "method",
                cells=[_nats_cell(method.loss), difference, _nats_cell(method.documents, sign=True)],
                num_seeds=len(method.runs),
                word=verdict.word if verdict else "",
                p=f"{verdict.p_holm:.2g}" if verdict else "",
            )
        )
    for method in comparison.shorter:
        cells = [_nats_cell(method.loss), Cell(), Cell()]
        rows.append(Row(name=method.name, kind="shorter", cells=cells, num_seeds=len(method.runs)))
    for row, values in comparison.nulls.items():
        if "loss" in values:
            cells = [Cell(value=nats(values["loss"])), Cell(), Cell()]
            rows.append(Row(name=NULL_NAMES.get(row, row), kind="null", cells=cells))
    return rows


def metric_tables(comparison: Comparison) -> list[MetricTable]:
    """All metrics, `METRICS_A_TABLE` a table."""
    chunks = range(0, len(comparison.metrics), METRICS_A_TABLE)
    return [_metric_table(comparison, comparison.metrics[start : start + METRICS_A_TABLE]) for start in chunks]


def _metric_table(comparison: Comparison, metrics: Sequence[MetricInfo]) -> MetricTable:
    rows = [
        Row(name=m.name, kind="baseline" if m.name == comparison.baseline else "method", cells=_cells(m, metrics))
        for m in comparison.methods
    ]
    rows += [Row(name=method.name, kind="shorter", cells=_cells(method, metrics)) for method in comparison.shorter]
    rows += [
        Row(name=NULL_NAMES.get(row, row), kind="null", cells=_null_cells(values, metrics))
        for row, values in comparison.nulls.items()
    ]
    return MetricTable(metrics=metrics, rows=rows)


def _cells(method: MethodSummary, metrics: Sequence[MetricInfo]) -> list[Cell]:
    return [
        _value_cell(method.values[metric.key], method.differences.get(metric.key), metric.direction)
        if metric.key in method.values
        else Cell()
        for metric in metrics
    ]


def _null_cells(values: Mapping[str, float], metrics: Sequence[MetricInfo]) -> list[Cell]:
    return [Cell(value=number(values[metric.key])) if metric.key in values else Cell() for metric in metrics]


# ---- Words -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What a method does: its verdict's word, what that rests on, what changes in the metrics."""

    name: str
    word: str
    cost: str
    changes: str


def lead(comparison: Comparison) -> str:
    """What was compared, on what, over how many seeds."""
    data = comparison.runs[0].report.data
    tokens = comparison.runs[0].report.metrics.get("num_tokens")
    on = f"{tokens:,.0f} predicted tokens" if tokens is not None else "the tokens"
    corpus = f"{data.name}, {data.split} split"
    return f"{_what(comparison)}, {_seeds(comparison)}; cross-entropy on {on} of {corpus}."


def _what(comparison: Comparison) -> str:
    others = len(comparison.methods) - (comparison.baseline is not None)
    if comparison.baseline is None:
        return _counted(others, "method")
    return f"{_counted(others, 'method')} against {comparison.baseline}" if others else f"{comparison.baseline} alone"


def _seeds(comparison: Comparison) -> str:
    sets = {tuple(method.seeds) for method in comparison.methods}
    if len(sets) == 1 and (seeds := sets.pop()):
        return f"{_counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"
    counts = sorted({len(method.runs) for method in comparison.methods})
    return f"{_counted(counts[0], 'run') if len(counts) == 1 else f'{counts[0]} to {counts[-1]} runs'} a method"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def has_intervals(comparison: Comparison) -> bool:
    """Whether some method has an interval over seeds."""
    return any(method.loss.interval is not None for method in comparison.methods)


def sentences(comparison: Comparison) -> list[Sentence]:
    """One for each method that has a verdict."""
    found = []
    for method in comparison.methods:
        if method.verdict is not None:
            cost = method.verdict.explanation.removeprefix(f"{method.name}: {method.verdict.word}; ")
            changes = _changes(method, comparison.metrics)
            found.append(Sentence(name=method.name, word=method.verdict.word, cost=f"{cost}.", changes=changes))
    return found


def _changes(method: MethodSummary, metrics: Sequence[MetricInfo]) -> str:
    groups: dict[str, list[str]] = {"better": [], "worse": [], "": []}
    for metric in metrics:
        difference = method.differences.get(metric.key)
        if metric.direction is not None and difference is not None and difference.interval is not None:
            groups[_mark(difference, metric.direction)].append(metric.key.removesuffix("/mean"))
    words = {"better": "better on", "worse": "worse on", "": "no difference shown on"}
    parts = [f"{words[mark]} {', '.join(names)}" for mark, names in groups.items() if names]
    return f"Metrics, by 95 % intervals over seeds: {'; '.join(parts)}." if parts else ""
