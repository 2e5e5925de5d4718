"""What an evaluation measures: metrics that stream and studies that look at a sample, by label, and what each is."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_tti.components import component_name, component_names, load_component
from hf_tti.errors import UserError, did_you_mean
from hf_tti.from_recipe import build_metrics, build_studies
from hf_tti.metrics.base import Metric
from hf_tti.recipe import Recipe
from hf_tti.studies.base import Study
from hf_tti.trainer import default_metrics

ALWAYS = ("loss", "perplexity")


@dataclass(frozen=True)
class Measures:
    """Label -> Metric and label -> Study; no label is both."""

    metrics: Mapping[str, Metric]
    studies: Mapping[str, Study]

    def settings(self) -> dict[str, dict[str, Any]]:
        """By label as a recipe writes them, all fields."""
        kinds = (("metric", self.metrics), ("study", self.studies))
        return {label: _settings(kind, measure) for kind, measures in kinds for label, measure in measures.items()}

    def facts(self) -> dict[str, dict[str, Any]]:
        """By label which way is better, and the definition in one line."""
        return {
            label: {"greater_is_better": measure.greater_is_better, "summary": _summary(type(measure))}
            for label, measure in {**self.metrics, **self.studies}.items()
        }


def default_measures(recipe: Recipe | None) -> Measures:
    """What the recipe asks for by its own labels, then every built-in measure that it does not use already.

    Studies that ask for a library of their own, or for minutes, are left to the recipe and to `--metrics`.
    """
    metrics, studies = _of_recipe(recipe)
    metrics |= {name: load_component("metrics", name)() for name in _unused("metrics", metrics)}
    for name in _unused("studies", studies):
        study = load_component("studies", name)
        if study.by_default:
            studies[name] = study()
    return Measures(metrics, studies)


def named_measures(names: Iterable[str], recipe: Recipe | None) -> Measures:
    """The measures of these names: labels of the recipe, built-in metrics and studies, or `package.module:Class`.

    `loss` and `perplexity` are measured always, and may be named.

    Raises:
        UserError: an unknown name; says what there is.
    """
    of_recipe = dict(zip(("metrics", "studies"), _of_recipe(recipe), strict=True))
    built_in = {kind: component_names(kind) for kind in of_recipe}
    chosen: dict[str, dict[str, Any]] = {"metrics": {}, "studies": {}}
    for name in names:
        if name in ALWAYS:
            continue
        kind = next((kind for kind in chosen if name in of_recipe[kind]), None)
        if kind is not None:
            chosen[kind][name] = of_recipe[kind][name]
            continue
        kind = next((kind for kind in chosen if name in built_in[kind]), None) or _kind_of_path(name)
        if kind is None:
            choices = sorted(
                {*ALWAYS, *(known for kinds in (of_recipe, built_in) for of in kinds.values() for known in of)}
            )
            raise UserError(f"--metrics {name}: unknown{did_you_mean(name, choices)}; choices: {', '.join(choices)}")
        chosen[kind][name] = load_component(kind, name)()
    return Measures(**chosen)


def _of_recipe(recipe: Recipe | None) -> tuple[dict[str, Metric], dict[str, Study]]:
    return (build_metrics(recipe) or default_metrics(), build_studies(recipe)) if recipe else ({}, {})


def _unused(kind: str, entries: Mapping[str, Metric | Study]) -> Sequence[str]:
    used = {component_name(type(entry)) for entry in entries.values()} | entries.keys()
    return [name for name in component_names(kind) if name not in used]


def _kind_of_path(name: str) -> str | None:
    """Of `package.module:Class`: `studies` for a Study, else `metrics`, which says what is wrong with it."""
    if ":" not in name:
        return None
    module, _, cls = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), cls, None)
    except ImportError:
        return "metrics"
    return "studies" if isinstance(found, type) and issubclass(found, Study) else "metrics"


def _settings(kind: str, measure: Metric | Study) -> dict[str, Any]:
    values = {item.name: getattr(measure, item.name) for item in dataclasses.fields(measure)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {kind: component_name(type(measure)), **values}


def _summary(cls: type) -> str:
    """The first paragraph of the module's docstring, of the class's where it is not a file of its own."""
    own_file = not component_name(cls).count(":")
    text = (sys.modules[cls.__module__].__doc__ if own_file else cls.__doc__) or cls.__name__
    return " ".join(text.strip().split("\n\n")[0].split())
