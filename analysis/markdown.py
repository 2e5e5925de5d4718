"""`report.md`: a comparison in words and tables that any Markdown viewer shows. Text from recipes is escaped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from analysis import provenance, tables
from analysis.comparison import Comparison
from analysis.rows import frontier_rows, hypervolume_sentence, metric_rows, null_name, verdict_rows
from hf_tti.markdown import escaped, table


def markdown(comparison: Comparison) -> str:
    """The whole report: verdicts in words, tables, frontiers, null rows, notes, provenance."""
    parts = [f"# {_title(comparison)}", *_verdicts(comparison), *_metrics(comparison), *_frontiers(comparison)]
    if comparison.notes:
        parts += ["## Notes", _list(comparison.notes)]
    parts += ["## Provenance", *_provenance(comparison)]
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    experiments = dict.fromkeys((run.report.recipe or {}).get("experiment") or "" for run in comparison.runs)
    name = ", ".join(experiment for experiment in experiments if experiment)
    methods = len(comparison.methods)
    return f"{escaped(name) or 'Report'}: {methods} method{'s' * (methods != 1)}, {len(comparison.runs)} runs"


def _verdicts(comparison: Comparison) -> list[str]:
    words = [summary.verdict.explanation for summary in comparison.methods if summary.verdict]
    none = "No verdict: there is no method to compare with a baseline."
    parts = ["## Verdicts", _list(words) if words else none, table(verdict_rows(comparison))]
    if comparison.baseline:
        parts.append(
            f"Differences are to {escaped(comparison.baseline)}, paired by seed, with 95 % t intervals; *free* means "
            f"inside ±{comparison.margin:g} nats. Intervals over documents hold the trained models fixed."
        )
    return parts


def _metrics(comparison: Comparison) -> list[str]:
    if not comparison.metrics:
        return []
    parts = ["## Metrics", "Mean over seeds with its 95 % interval; in brackets the paired difference to the baseline."]
    parts += [table(metric_rows(some)) for some in tables.metric_tables(comparison)]
    parts.append(_list([f"{info.title}: {info.summary}" for info in comparison.metrics]))
    if comparison.not_separating:
        keys = ", ".join(comparison.not_separating)
        parts.append(escaped(f"Do not tell the baseline from a model with random weights: {keys}."))
    missing = [null_name(row) for row in ("random_init", "rotated", "shuffled_labels") if row not in comparison.nulls]
    if missing:
        parts.append(f"Null rows that no report has: {', '.join(missing)}.")
    return parts


def _frontiers(comparison: Comparison) -> list[str]:
    if not comparison.frontiers:
        return []
    about = (
        "On the front: no other trained model is better in both. Baseline at equal cross-entropy: its metric where its "
        "own points, joined by straight lines, have the method's cross-entropy; beyond it: the method minus that."
    )
    parts = ["## Frontiers", about]
    for frontier in comparison.frontiers:
        parts += [f"### {escaped(frontier.metric.title)} against cross-entropy", table(frontier_rows(frontier))]
        parts.append(escaped(hypervolume_sentence(frontier)))
    return parts


def _provenance(comparison: Comparison) -> list[str]:
    facts = {**provenance.facts(comparison), "seeds": _seeds(comparison)}
    weights = [dataclasses.asdict(row) for row in provenance.weights(comparison)]
    return [table([{"": name, "value": value} for name, value in facts.items()]), table(weights)]


def _seeds(comparison: Comparison) -> str:
    seeds = dict.fromkeys(run.seed for run in comparison.runs)
    return ", ".join("not known" if seed is None else str(seed) for seed in seeds)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
