"""A comparison's tables as rows of text, for Markdown and for a terminal."""

from __future__ import annotations

from analysis import tables
from analysis.comparison import Comparison
from analysis.estimates import MethodSummary
from analysis.frontiers import Frontier, Point
from analysis.intervals import Estimate, Interval
from hf_tti.table import format_table

Row = dict[str, str]
DASH = "-"


def between(interval: Interval | None, *, like: float, sign: bool = False) -> str:
    """`[low, high]` with the decimals of `like`, or nothing."""
    ends = [tables.number(end, like=like, sign=sign, bound=True) for end in interval[:2]] if interval else []
    return f"[{', '.join(ends)}]" if ends else ""


def is_apart(difference: Estimate | None) -> bool:
    """Whether the interval of a difference excludes 0; not without an interval."""
    interval = difference.interval if difference else None
    return interval is not None and not interval.low <= 0 <= interval.high


def null_name(row: str) -> str:
    """How a null row is called among methods."""
    return f"{tables.NULL_NAMES.get(row, row)} (null)"


def verdict_rows(comparison: Comparison) -> list[Row]:
    """A row a method, shorter baselines, then each null row that has a cross-entropy of its own."""
    perplexities = {one.name: one.values.get("perplexity") for one in [*comparison.methods, *comparison.shorter]}
    of_nulls = {tables.NULL_NAMES.get(row, row): values.get("perplexity") for row, values in comparison.nulls.items()}
    rows = []
    for row in tables.verdict_rows(comparison):
        known = perplexities.get(row.name)
        perplexity = of_nulls.get(row.name) if row.kind == "null" else known.value if known else None
        loss, difference, documents = map(_text, row.cells)
        rows.append(
            {
                "method": _name(row),
                "seeds": str(row.num_seeds or DASH),
                "cross-entropy": loss,
                "difference over seeds": difference,
                "over documents": documents,
                "verdict": row.word or (row.kind if row.kind in ("baseline", "shorter") else DASH),
                "perplexity": tables.number(perplexity) if perplexity is not None else DASH,
            }
        )
    return rows


def metric_rows(table: tables.MetricTable) -> list[Row]:
    """A row a method, with interval and paired difference of each metric; null rows at the bottom."""
    return [
        {"method": _name(row), **{info.title: _text(cell) for info, cell in zip(table.metrics, row.cells, strict=True)}}
        for row in table.rows
    ]


def frontier_rows(frontier: Frontier) -> list[Row]:
    """A row a point: where it is, whether on the front, and against the baseline at its cross-entropy."""
    rows = []
    for point in frontier.points:
        equal = frontier.equal_ce.get(point.name)
        loss, value = tables.number(point.loss), tables.number(point.value)
        rows.append(
            {
                "": _place(point),
                "cross-entropy": f"{loss} {between(point.loss_interval, like=point.loss)}".rstrip(),
                frontier.metric.title: f"{value} {between(point.value_interval, like=point.value)}".rstrip(),
                "on the front": "yes" if point.on_front else "no" if point.kind != "null" and point.decayed else DASH,
                "baseline at equal cross-entropy": _equal(equal.value, equal.extrapolated) if equal else DASH,
                "beyond it": tables.number(point.value - equal.value, like=equal.value, sign=True) if equal else DASH,
            }
        )
    return rows


def _place(point: Point) -> str:
    if point.kind == "null":
        return null_name(point.name)
    return point.name + " (not decayed)" * (not point.decayed)


def hypervolume_sentence(frontier: Frontier) -> str:
    """The volume, its interval and the corner that bounds it."""
    loss, value = map(tables.number, frontier.reference)
    corner = f"reference point: cross-entropy {loss}, {frontier.metric.key} {value}"
    if frontier.hypervolume is None:
        return f"No hypervolume: there is no seed that all methods have ({corner})."
    volume = frontier.hypervolume.estimate
    seeds = f"{volume.num_groups} seed{'s' * (volume.num_groups != 1)}"
    text = f"{tables.number(volume.value)} {between(volume.interval, like=volume.value)}".rstrip()
    return f"Hypervolume {text} nats × metric, {seeds} ({corner})."


def terminal(comparison: Comparison) -> str:
    """Verdicts, metrics and notes, for a screen."""
    parts = [format_table(verdict_rows(comparison))]
    if comparison.metrics:
        parts += [format_table(_by_metric(comparison)), _legend(comparison)]
    verdicts = [summary.verdict.explanation for summary in comparison.methods if summary.verdict]
    parts += ["\n".join(verdicts), "\n".join(f"note: {note}" for note in comparison.notes)]
    return "\n\n".join(part for part in parts if part)


def _by_metric(comparison: Comparison) -> list[Row]:
    """A row a metric, a column a method or null row; a star where the paired difference is not 0."""
    rows = []
    for info in comparison.metrics:
        row = {"metric": info.title + " (!)" * (info.key in comparison.not_separating)}
        for summary in [*comparison.methods, *comparison.shorter]:
            row[summary.name] = _mean(summary, info.key) + "*" * is_apart(summary.differences.get(info.key))
        for name, values in comparison.nulls.items():
            row[null_name(name)] = tables.number(values[info.key]) if info.key in values else DASH
        rows.append(row)
    return rows


def _mean(summary: MethodSummary, key: str) -> str:
    return tables.number(summary.values[key].value) if key in summary.values else DASH


def _legend(comparison: Comparison) -> str:
    lines = []
    if any(is_apart(one.differences.get(info.key)) for one in comparison.methods for info in comparison.metrics):
        lines.append("* the 95 % interval of the paired difference over seeds excludes 0 (metric by metric)")
    if comparison.not_separating:
        lines.append("(!) does not tell the baseline from a model with random weights")
    return "\n".join(lines)


def _name(row: tables.Row) -> str:
    return f"{row.name} (null)" if row.kind == "null" else row.name


def _text(cell: tables.Cell) -> str:
    """`value [low, high] (difference [low, high])`, as far as there is."""
    difference = _joined(cell.difference, cell.difference_interval)
    return _joined(cell.value, cell.interval, f"({difference})" if difference else "") or DASH


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _equal(value: float, extrapolated: bool) -> str:
    return tables.number(value) + " (extrapolated)" * extrapolated
