"""What raters say of the units they judged blind, and how far they agree.

    rate    monosemantic / (monosemantic + polysemantic) of a method's units, each with the rating that most of its
            raters gave it (unclear where that is a tie); Wilson interval, units taken as independent
    raw     share of pairs of raters that agree on a unit, mean over units with two raters or more
    kappa   (P − Pₑ)/(1 − Pₑ): Cohen's for two raters, Fleiss' for more, over the units that all of them rated;
            interval by the jackknife over these units
Sources: Wilson 1927; Cohen 1960; Fleiss 1971.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from analysis.intervals import Estimate, Interval, jackknife_estimate
from analysis.ratings import RATINGS, Key, Ratings
from hf_tti.errors import UserError
from hf_tti.table import format_table

MONOSEMANTIC, POLYSEMANTIC, UNCLEAR = RATINGS


@dataclass(frozen=True, kw_only=True)
class MethodRate:
    """Of the units of one method.

    Attributes:
        method: its name; every unit together where no key says whose they are.
        num_units: that were rated.
        num_judged: that are monosemantic or polysemantic.
        rate: monosemantic of those judged; None where none is.
        interval: of the rate.
        unclear: share of the rated.
    """

    method: str
    num_units: int
    num_judged: int
    rate: float | None
    interval: Interval | None
    unclear: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What all raters say together.

    Attributes:
        raters: name -> number of units rated.
        methods: in the order of the key.
        raw: see above; None where no unit has two raters.
        kappa: None where it is not defined; without an interval where leaving a unit out leaves it undefined.
        statistic: `Cohen's kappa` or `Fleiss' kappa`.
        num_common: units that all raters rated.
        notes: what keeps a number away, and how to read the others.
    """

    raters: Mapping[str, int]
    methods: Sequence[MethodRate]
    raw: float | None
    kappa: Estimate | None
    statistic: str
    num_common: int
    notes: Sequence[str]


def agreement(ratings: Sequence[Ratings], key: Key | None = None, *, level: float = 0.95) -> Agreement:
    """Rates by method and the raters' agreement.

    Args:
        ratings: one file a rater, of the same page.
        key: without it, one rate over all units.
        level: of the intervals.

    Raises:
        UserError: no ratings, files of different pages, a rater twice, an item that the key does not have.
    """
    _check(ratings, key)
    votes: dict[str, list[str]] = {}
    for rater in ratings:
        for unit, rating in rater.of_unit.items():
            votes.setdefault(unit, []).append(rating)
    common = [unit for unit in ratings[0].of_unit if len(votes[unit]) == len(ratings)]
    table = np.array([[RATINGS.index(rater.of_unit[unit]) for rater in ratings] for unit in common], dtype=int)
    kappa = _kappa(table.reshape(-1, len(ratings)), level)
    pairs = [_pairs_alike(given) for given in votes.values() if len(given) > 1]
    return Agreement(
        raters={rater.rater: len(rater.of_unit) for rater in ratings},
        methods=_by_method(votes, key, level),
        raw=float(np.mean(pairs)) if pairs else None,
        kappa=kappa,
        statistic="Cohen's kappa" if len(ratings) == 2 else "Fleiss' kappa",
        num_common=len(common) if len(ratings) > 1 else 0,
        notes=_notes(ratings, common, kappa, key) + _ties(votes),
    )


def _check(ratings: Sequence[Ratings], key: Key | None) -> None:
    if not ratings or not any(rater.of_unit for rater in ratings):
        raise UserError("agreement: no unit was rated in " + (", ".join(str(r.path) for r in ratings) or "no file"))
    first = ratings[0] if key is None else key
    seen: dict[str, Path] = {}
    for rater in ratings:
        if rater.page_sha256 != first.page_sha256:
            raise UserError(
                f"{rater.path}: of another rating page ({rater.page_sha256[:12]}) than {first.path} "
                f"({first.page_sha256[:12]})"
            )
        if rater.rater in seen:
            raise UserError(f"{rater.path}: rater {rater.rater!r} is also that of {seen[rater.rater]}")
        seen[rater.rater] = rater.path
        unknown = [unit for unit in rater.of_unit if key is not None and unit not in key.items]
        if unknown:
            raise UserError(f"{rater.path}: item {unknown[0]!r} is not in {key.path}")


def _by_method(votes: Mapping[str, list[str]], key: Key | None, level: float) -> list[MethodRate]:
    methods = dict.fromkeys(str(item["method"]) for item in key.items.values()) if key else {"all": None}
    grouped: dict[str, Counter[str]] = {method: Counter() for method in sorted(methods)}
    for unit, given in votes.items():
        grouped[str(key.items[unit]["method"]) if key else "all"][majority(given)] += 1
    return [_method_rate(method, counts, level) for method, counts in grouped.items() if counts]


def _method_rate(method: str, counts: Counter[str], level: float) -> MethodRate:
    found, judged, total = counts[MONOSEMANTIC], counts[MONOSEMANTIC] + counts[POLYSEMANTIC], counts.total()
    interval = None
    if judged:
        wilson = stats.binomtest(found, judged).proportion_ci(confidence_level=level, method="wilson")
        interval = Interval(float(wilson.low), float(wilson.high), level)
    return MethodRate(
        method=method,
        num_units=total,
        num_judged=judged,
        rate=found / judged if judged else None,
        interval=interval,
        unclear=counts[UNCLEAR] / total,
    )


def majority(given: Sequence[str]) -> str:
    """The rating given more often than any other; `unclear` where there is none."""
    (first, most), *others = Counter(given).most_common()
    return first if not others or others[0][1] < most else UNCLEAR


def _pairs_alike(given: Sequence[str]) -> float:
    alike = sum(count * (count - 1) for count in Counter(given).values())
    return alike / (len(given) * (len(given) - 1))


def _kappa(table: np.ndarray, level: float) -> Estimate | None:
    """Of codes [N, raters], with its jackknife over N; None where there is none."""
    units, raters = table.shape
    if raters < 2 or units == 0 or (value := _kappa_value(table)) is None:
        return None
    kinds, kind_of, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    left_out = []  # a unit of each kind of row: rows of a kind leave the same
    for kind, count in enumerate(counts):
        rest = np.repeat(kinds, counts - (np.arange(len(kinds)) == kind), axis=0)
        left_out += [_kappa_value(rest) if len(rest) else None] * int(count)
    if units < 2 or None in left_out:
        return Estimate(value=value, standard_error=None, num_groups=units, interval=None)
    return jackknife_estimate(value, left_out, level=level)


def _kappa_value(table: np.ndarray) -> float | None:
    """Of codes [N, raters]; None where every rating is the same, which leaves chance nothing to miss."""
    if (table == table[0, 0]).all():
        return None
    if table.shape[1] == 2:
        return float(cohen_kappa_score(table[:, 0], table[:, 1]))
    return fleiss_kappa((table[:, :, None] == np.arange(len(RATINGS))).sum(axis=1))


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa of counts [N, categories]: how many of the n raters put each unit into each category.

    P = mean over units of (Σ_j n_ij² − n)/(n(n−1)), Pₑ = Σ_j p_j², p_j the share of all ratings in category j. NaN
    where all ratings are in one category.

    Raises:
        UserError: no unit, fewer than two raters, units with different numbers of ratings.
    """
    counts = np.asarray(counts, dtype=np.float64)
    raters = counts.sum(axis=-1)
    if counts.ndim != 2 or counts.size == 0 or (raters != raters[0]).any() or raters[0] < 2:
        raise UserError(f"Fleiss' kappa: expected [units, categories] with 2 or more raters of each, got {raters}")
    agree = ((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return float((agree.mean() - chance) / (1 - chance)) if chance < 1 else math.nan


def _notes(ratings: Sequence[Ratings], common: Sequence[str], kappa: Estimate | None, key: Key | None) -> list[str]:
    notes = []
    if len(ratings) == 1:
        notes.append("one rater: there is no agreement to measure and no kappa")
    elif not common:
        notes.append("no unit was rated by all raters: there is no kappa")
    elif kappa is None:
        notes.append("all raters gave all common units the same rating: kappa is not defined")
    elif kappa.interval is None:
        notes.append("too few units differ for an interval of kappa")
    if key is None:
        notes.append("without --key the units of all methods are taken together")
    else:
        left = len(key.items) - len({unit for rater in ratings for unit in rater.of_unit})
        notes += [f"{left} of {len(key.items)} units have no rating"] * (left > 0)
        notes.append("intervals of rates take units as independent, also those of one run")
    return notes


def _ties(votes: Mapping[str, list[str]]) -> list[str]:
    tied = sum(majority(given) == UNCLEAR and UNCLEAR not in given for given in votes.values())
    return [f"units counted as unclear because their raters are split between the other two: {tied}"] * (tied > 0)


def terminal(result: Agreement) -> str:
    """The result as text: a table of methods, a line on agreement, notes."""
    rows = [
        {
            "method": rate.method,
            "monosemantic": rate.rate,
            "interval": "-" if rate.interval is None else f"[{rate.interval.low:.3f}, {rate.interval.high:.3f}]",
            "judged": rate.num_judged,
            "unclear": rate.unclear,
            "units": rate.num_units,
        }
        for rate in result.methods
    ]
    raters = ", ".join(f"{name} ({count})" for name, count in result.raters.items())
    lines = [format_table(rows), "", f"raters: {raters}"]
    if result.raw is not None:
        lines.append(f"raw agreement: {result.raw:.3f}")
    if result.kappa is not None:
        interval = result.kappa.interval
        shown = f", {100 * interval.level:g} % interval [{interval.low:.3f}, {interval.high:.3f}]" if interval else ""
        lines.append(f"{result.statistic}: {result.kappa.value:.3f}{shown}, {result.num_common} units")
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])
