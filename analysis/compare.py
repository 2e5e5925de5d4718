"""Two models, or two methods over their seeds, side by side: what the second changes, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.declared import declaration
from analysis.estimates import MethodSummary, over_documents, summarise
from analysis.intervals import Estimate
from analysis.measures import (
    MetricInfo,
    check_losses,
    check_same_data,
    differently_measured,
    evaluation_notes,
    metric_infos,
    missing_notes,
    values_by_run,
)
from analysis.rows import DASH, between, is_apart
from analysis.runs import Run, check_distinct
from analysis.tables import number
from analysis.verdict import MARGIN
from hf_tti.errors import UserError
from hf_tti.table import format_table

_HEAD = (
    MetricInfo(key="loss", label="loss", direction="lower", summary="cross-entropy, nats"),
    MetricInfo(key="perplexity", label="perplexity", direction="lower", summary="exp of cross-entropy"),
)
_LIKE_NATS = 0.1  # four decimals


@dataclass(frozen=True, kw_only=True)
class TwoModels:
    """A first and a second method.

    Attributes:
        first, second: `second.differences` are second minus first, paired by seed.
        documents: the cross-entropy difference with its interval over document shards; None where it cannot be had.
        metrics: cross-entropy, perplexity and headline metrics.
        notes: what a reader has to know.
    """

    first: MethodSummary
    second: MethodSummary
    documents: Estimate | None
    metrics: list[MetricInfo]
    notes: list[str]


def compare_two(
    first: Sequence[Run], second: Sequence[Run], *, names: tuple[str, str], margin: float | None = None
) -> TwoModels:
    """Compares two methods, paired by seed where they have seeds in common.

    Args:
        first, second: runs of one method each.
        names: what to call them where both methods have the same name: the paths they came from.
        margin: nats of cross-entropy that count as none. Default: the recipes' `analysis.margin`, else 0.005.

    Raises:
        UserError: runs of several methods on one side, different data or tokenizers, a loss that is not finite.
    """
    places = [{run.path and run.path.resolve() for run in side} for side in (first, second)]
    if places[0] == places[1] != {None}:
        raise UserError(f"{names[0]} and {names[1]}: the same model; name two")
    groups = dict(_one_method(side, name) for side, name in zip((first, second), names, strict=True))
    if len(groups) == 1:
        sides = zip((first, second), _told_apart(names), strict=True)
        groups = {name: [dataclasses.replace(run, method=name) for run in side] for side, name in sides}
    runs = [run for side in groups.values() for run in side]
    check_distinct(runs)
    check_same_data(runs)
    check_losses(runs)
    odd = differently_measured(runs)
    notes: list[str] = []
    margin = margin if margin is not None else declaration(runs, "margin", notes) or MARGIN
    one, two = summarise(groups, next(iter(groups)), values_by_run(runs, without=odd), margin, [])
    notes += [*_seed_notes(one, two), *odd.values(), *missing_notes(runs, without=odd), *evaluation_notes(runs)]
    infos = [*_HEAD, *(info for info in metric_infos(runs) if info.label not in odd)]
    documents = over_documents(two.runs, one.runs)
    return TwoModels(first=one, second=two, documents=documents, metrics=infos, notes=notes)


def terminal(two: TwoModels) -> str:
    """The table, what it means, and notes."""
    rows = [_row(info, two) for info in two.metrics]
    parts = [format_table(rows), "\n".join([_in_words(two), *_changes(two)])]
    parts += ["\n".join(f"note: {note}" for note in two.notes)] if two.notes else []
    return "\n\n".join(parts)


def _one_method(side: Sequence[Run], name: str) -> tuple[str, list[Run]]:
    methods = dict.fromkeys(run.method for run in side)
    if len(methods) != 1:
        raise UserError(f"{name}: runs of {len(methods)} methods ({', '.join(methods)}); name one of them")
    return next(iter(methods)), sorted(side, key=lambda run: (run.seed is None, run.seed))


def _told_apart(names: tuple[str, str]) -> tuple[str, str]:
    """Names for two sides of one method: the last parts of their paths, else the paths."""
    ends = (Path(names[0]).name, Path(names[1]).name)
    return ends if ends[0] != ends[1] else names


def _row(info: MetricInfo, two: TwoModels) -> dict[str, str]:
    one, other = (side.values[info.key].value if info.key in side.values else None for side in (two.first, two.second))
    row = {two.first.name: _number(one), two.second.name: _number(other)}
    if one is None or other is None:
        return {"metric": info.title, **row, "difference": DASH, "95 % over seeds": DASH}
    paired = two.second.differences.get(info.key)
    like = _LIKE_NATS if info.key == "loss" else one
    difference = number(paired.value if paired else other - one, like=like, sign=True)
    interval = between(paired.interval, like=like, sign=True) if paired else ""
    return {"metric": info.title, **row, "difference": difference, "95 % over seeds": interval or DASH}


def _number(value: float | None) -> str:
    return DASH if value is None else number(value)


def _in_words(two: TwoModels) -> str:
    paired = two.second.differences.get("loss")
    difference = paired.value if paired else two.second.loss.value - two.first.loss.value
    more = "more" if difference >= 0 else "less"
    parts = [f"{two.second.name} has {abs(difference):.4f} nats {more} cross-entropy than {two.first.name}"]
    if paired and paired.interval and two.second.verdict:
        seeds = f"over {paired.num_groups} seeds {between(paired.interval, like=_LIKE_NATS, sign=True)}"
        parts.append(f"{seeds}, {two.second.verdict.word} at a margin of {two.second.verdict.margin:g}")
    else:
        parts.append("no interval over seeds, so another seed may well say otherwise")
    if two.documents and two.documents.interval:
        interval = between(two.documents.interval, like=_LIKE_NATS, sign=True)
        shards = f"over {two.documents.num_groups} shards of documents {interval}"
        parts.append(f"{shards}, for these trained models")
    return "; ".join(parts) + "."


def _changes(two: TwoModels) -> list[str]:
    """Headline metrics whose paired interval excludes 0, by what that means."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "different": []}
    for info in two.metrics[len(_HEAD) :]:
        difference = two.second.differences.get(info.key)
        if difference and is_apart(difference):
            found[_word(info, difference.value > 0)].append(info.key.removesuffix("/mean"))
    words = [f"{word} in {', '.join(keys)}" for word, keys in found.items() if keys]
    about = "by intervals over seeds that exclude 0, metric by metric"
    return [f"{two.second.name} is {'; '.join(words)}: {about}."] if words else []


def _word(info: MetricInfo, is_up: bool) -> str:
    if info.direction is None:
        return "different"
    return "better" if is_up == (info.direction == "higher") else "worse"


def _seed_notes(one: MethodSummary, two: MethodSummary) -> list[str]:
    if two.verdict is None:
        return [f"{one.name} and {two.name} have no seed in common: differences are of their means, not paired"]
    unpaired = two.verdict.differences.unpaired
    return [f"seed {', '.join(map(str, unpaired))} has no partner and is left out of differences"] if unpaired else []
