"""Runs with made reports, in memory, and short ways to ask a comparison."""

import dataclasses

from made_reports import made_report

from analysis.comparison import Comparison
from analysis.runs import Run

SEEDS = (42, 43, 44)
METHODS = ("baseline", "orthogonality", "selectivity")


def run(method: str, seed: int | None = 42, **changes) -> Run:
    """`changes` are of the report; `metrics` and `nulls` are merged into what is there."""
    name = method if seed is None else f"{method}-seed{seed}"
    report = made_report(name, method, seed or 0)
    changes["metrics"] = {**report.metrics, **changes.get("metrics", {})}
    if "analysis" in changes:
        changes["recipe"] = {**report.recipe, "analysis": changes.pop("analysis")}
    return Run(name=name, method=method, seed=seed, report=dataclasses.replace(report, seed=seed, **changes))


def runs(methods=METHODS, seeds=SEEDS, **changes) -> list[Run]:
    return [run(method, seed, **changes) for method in methods for seed in seeds]


def method(comparison: Comparison, name: str):
    return next(one for one in comparison.methods if one.name == name)


def frontier(comparison: Comparison, key: str):
    return next(one for one in comparison.frontiers if one.metric.key == key)


def notes(comparison: Comparison) -> str:
    return "\n".join(comparison.notes)
