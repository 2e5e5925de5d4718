"""Where the numbers of a comparison come from: weights, data, tokenizer, versions, settings and definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from analysis.comparison import Comparison
from analysis.runs import Run


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One run: which weights, and after how much training."""

    run: str
    source: str
    revision: str
    architecture: str
    num_parameters: str
    step: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A metric: its component, settings, and definition in one line."""

    label: str
    component: str
    better: str
    settings: str
    summary: str


def weights(comparison: Comparison) -> list[Weights]:
    """A row a run."""
    return [_weights(run) for run in comparison.runs]


def _weights(run: Run) -> Weights:
    model = run.report.model
    revision = " @ ".join(part for part in (model.revision, model.commit) if part)
    return Weights(
        run=run.label,
        source=model.source,
        revision=revision or "a folder",
        architecture=model.model_type,
        num_parameters=f"{model.num_parameters:,}",
        step="unknown" if run.report.step is None else f"{run.report.step:,}",
        sha256=model.weights_sha256,
    )


def facts(comparison: Comparison) -> dict[str, str]:
    """What all runs share, or for each value the runs that have it."""
    runs = comparison.runs
    found = {
        "data": _shared(runs, lambda report: f"{report.data.name}, {report.data.split} split"),
        "data settings": _shared(runs, lambda report: _settings(report.data.settings)),
        "tokens prepared": _shared(runs, lambda report: f"{report.data.num_tokens:,}"),
        "data fingerprint": _shared(runs, lambda report: report.data.fingerprint),
        "tokenizer sha256": _shared(runs, lambda report: report.data.tokenizer_sha256),
        "evaluation": _shared(runs, lambda report: _settings(report.evaluation)),
        "versions": _shared(runs, lambda report: _settings(report.versions)),
        "measured at commit": _shared(runs, lambda report: report.git_commit or "unknown"),
        "margin of the verdict": f"{comparison.margin:g} nats",
    }
    return {name: value for name, value in found.items() if value}


def _shared(runs: Sequence[Run], fact) -> str:
    by_value: dict[str, list[str]] = {}
    for run in runs:
        by_value.setdefault(fact(run.report), []).append(run.label)
    if len(by_value) == 1:
        return next(iter(by_value))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in by_value.items())


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items() if value not in (None, [], {}))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_settings(value)})"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def definitions(comparison: Comparison) -> list[Definition]:
    """A row a metric label, as the first run that has it was measured."""
    found: dict[str, Definition] = {}
    for run in comparison.runs:
        for label, about in run.report.metric_facts.items():
            settings = dict(run.report.metric_settings.get(label, {}))
            component = settings.pop("metric", None) or settings.pop("study", None) or "unknown"
            better = {True: "higher", False: "lower", None: "neither"}[about.get("greater_is_better")]
            found.setdefault(
                label,
                Definition(
                    label=label,
                    component=str(component),
                    better=better,
                    settings=_settings(settings),
                    summary=about.get("summary", ""),
                ),
            )
    return list(found.values())


def recipes(comparison: Comparison) -> dict[str, str]:
    """Method -> the resolved recipe of its first run as YAML; methods without one are not there."""
    methods = [*comparison.methods, *comparison.shorter]
    first = {method.name: method.runs[0].report.recipe for method in methods}
    style = {"sort_keys": False, "allow_unicode": True}
    return {name: yaml.safe_dump(recipe, **style) for name, recipe in first.items() if recipe}
