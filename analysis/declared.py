"""What the recipes declared before training about how their runs are judged: baseline, margin, composite.

analysis: {baseline: NAME, margin: NATS, composite: {LABEL: {direction: higher, weight: 2.0}}, method: z-score}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.composite import METHODS, Composite
from analysis.measures import MetricInfo, Values
from analysis.runs import Run
from hf_tti.errors import UserError, did_you_mean

COMPOSITE = "composite"


@dataclass(frozen=True, kw_only=True)
class CompositeResult:
    """A declared composite and what it says of each run.

    Attributes:
        composite: metrics by key, directions, weights and method.
        info: how it is named among the metrics; higher is better.
        scores: run's label -> score.
        random_init: of random initialisation; None where that is not known, and by rank.
    """

    composite: Composite
    info: MetricInfo
    scores: dict[str, float]
    random_init: float | None

    def add_to(self, values: Mapping[str, dict[str, float]], null: dict[str, float]) -> None:
        """Puts the scores among the values of runs, and that of random initialisation among its values."""
        for label, score in self.scores.items():
            values[label][self.info.key] = score
        if self.random_init is not None:
            null[self.info.key] = self.random_init


def declaration(runs: Sequence[Run], name: str, notes: list[str]) -> Any:
    """What the runs' recipes say under `analysis:`; None where they say nothing, or not the same (which is noted)."""
    said: dict[str, tuple[Run, Any]] = {}
    for run in runs:
        value = ((run.report.recipe or {}).get("analysis") or {}).get(name)
        if value not in (None, {}):
            said.setdefault(json.dumps(value, sort_keys=True), (run, value))
    if len(said) > 1:
        (one, _), (other, _) = list(said.values())[:2]
        notes.append(f"analysis.{name}: {one.label} and {other.label} declare different ones; neither is used")
        return None
    return next((value for _, value in said.values()), None)


def composite_result(
    methods: Mapping[str, Sequence[Run]],
    baseline: str | None,
    apart: Mapping[str, Sequence[Run]],
    metrics: Sequence[MetricInfo],
    values: Values,
    null: Mapping[str, float],
    notes: list[str],
) -> CompositeResult | None:
    """The declared composite over runs; None where none is declared or it cannot be had (which is noted).

    Args:
        methods: name -> runs, the baseline among them.
        baseline: its name; z-scores speak of its seeds.
        apart: shorter baselines, scored where that changes no other score.
        metrics: headline metrics.
        values: by run.
        null: of random initialisation.
        notes: gets a line more where something is in the way.
    """
    runs = [run for members in methods.values() for run in members]
    parts = declaration(runs, "composite", notes)
    if not parts:
        return None
    method = declaration(runs, "method", notes) or METHODS[0]
    try:
        composite = Composite.from_dict({_key(name, metrics): part for name, part in parts.items()}, method=method)
        rows = {run.label: values[run.label] for run in runs}
        if method == "z-score":
            rows |= {run.label: values[run.label] for members in apart.values() for run in members}
            rows |= {"random_init": null} if all(key in null for key in composite.parts) else {}
        table = pd.DataFrame([[row.get(key) for key in composite.parts] for row in rows.values()], list(rows))
        table.columns = list(composite.parts)
        scores = composite.score(table, baseline=[run.label for run in methods.get(baseline or "", ())]).to_dict()
    except UserError as error:
        notes.append(f"no composite: {error}")
        return None
    claimed = {info.key: info.direction for info in metrics}
    for key, part in composite.parts.items():
        if claimed[key] not in (None, part.direction):
            notes.append(
                f"composite: declares {part.direction} {key} as better, of which the metric says {claimed[key]}"
            )
    random_init = scores.pop("random_init", None)
    return CompositeResult(composite=composite, info=_info(composite), scores=scores, random_init=random_init)


def _key(name: str, metrics: Sequence[MetricInfo]) -> str:
    """The headline key of a metric's key or label."""
    keys = [info.key for info in metrics if name in (info.key, info.label)]
    if len(keys) != 1:
        choices = [info.key for info in metrics]
        problem = "stands for several" if keys else f"is not measured{did_you_mean(name, choices)}"
        raise UserError(f"{name} {problem}: {', '.join(keys or choices)}")
    return keys[0]


def _info(composite: Composite) -> MetricInfo:
    parts = ", ".join(f"{key} ({part.direction}, weight {part.weight:g})" for key, part in composite.parts.items())
    unit = "in sds over the baseline's seeds" if composite.method == "z-score" else "mean rank, from 0 to 1"
    summary = f"declared before training: {parts}; {unit}"
    return MetricInfo(key=COMPOSITE, label=COMPOSITE, direction="higher", summary=summary)
