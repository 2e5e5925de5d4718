"""One number out of several metrics, declared before the runs; and how the metrics move together.

    z-score   Σ_k w_k·s_k·(x_k − mean_b x_k)/sd_b x_k / Σ_k w_k,  b the baseline's seeds, s_k = ±1 by direction
    rank      Σ_k w_k·(r_k − 1)/(n − 1) / Σ_k w_k,  r_k the run's rank among n runs, best = n, ties averaged
Higher is better in both. A z-score is in sds of the baseline over seeds, whatever other runs there are; a rank-mean is
robust to a wild metric, but adding a run can reorder two others. Correlations: Spearman over complete pairs.
Source: Spearman 1904; OECD/JRC Handbook on Constructing Composite Indicators 2008, ch. 5-6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.checks import finite_array
from analysis.pareto import Direction, sign_of
from hf_tti.errors import UserError, did_you_mean

Method = Literal["z-score", "rank"]
METHODS: tuple[Method, ...] = ("z-score", "rank")
Table = pd.DataFrame | Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A metric's share of a composite.

    Raises:
        UserError: a weight that is not above 0, or another direction.
    """

    direction: Direction
    weight: float = 1.0

    def __post_init__(self):
        sign_of(self.direction, what="composite")
        if not 0 < self.weight < np.inf:
            raise UserError(f"composite: weight {self.weight} is not a number above 0; `direction` says what is better")


@dataclass(frozen=True, kw_only=True)
class Composite:
    """Metrics, their weights and directions, and how they become one number.

    Raises:
        UserError: no metric, or another method.
    """

    parts: Mapping[str, Part]
    method: Method = "z-score"

    def __post_init__(self):
        if not self.parts:
            raise UserError("composite: no metric in it")
        if self.method not in METHODS:
            guess = did_you_mean(str(self.method), METHODS)
            raise UserError(f"composite: method {self.method!r} is not one of {', '.join(METHODS)}{guess}")

    @classmethod
    def from_dict(cls, parts: Mapping[str, Mapping[str, object]], *, method: Method = "z-score") -> Composite:
        """Of `{"sparsity": {"direction": "higher", "weight": 2.0}, ...}`, as YAML gives it; weight defaults to 1.

        Raises:
            UserError: another key, no direction, or what the constructors refuse.
        """
        for metric, part in parts.items():
            unknown = [key for key in part if key not in ("direction", "weight")]
            if unknown:
                guess = did_you_mean(unknown[0], ("direction", "weight"))
                raise UserError(f"composite, {metric}: key {unknown[0]!r} is not one of direction, weight{guess}")
            if "direction" not in part:
                raise UserError(f"composite, {metric}: direction is missing; lower or higher")
        return cls(parts={metric: Part(**part) for metric, part in parts.items()}, method=method)

    def score(self, table: Table, *, baseline: Sequence[str] = ()) -> pd.Series:
        """A number for each run, higher is better.

        Args:
            table: a row a run, a column a metric (or run to metric to value); None and NaN are missing.
            baseline: names of the baseline's runs, one a seed; `z-score` needs at least two.

        Raises:
            UserError: a metric or baseline run that the table lacks, a value that is missing, or a metric without
                spread over the baseline's seeds.
        """
        values = self._values(_frame(table))
        scaled = self._ranks(values) if self.method == "rank" else self._z_scores(values, list(baseline))
        weights = pd.Series({metric: part.weight for metric, part in self.parts.items()})
        return (scaled * weights).sum(axis=1) / weights.sum()

    def _values(self, table: pd.DataFrame) -> pd.DataFrame:
        """The composite's columns, signed so that higher is better."""
        for metric in self.parts:
            if metric not in table.columns:
                guess = did_you_mean(metric, map(str, table.columns))
                raise UserError(f"composite: no metric {metric!r} among {', '.join(map(str, table.columns))}{guess}")
        values = table[list(self.parts)]
        finite_array(values.to_numpy(), what="composite, by run and metric", labels=[values.index, values.columns])
        return values * [sign_of(part.direction, what=metric) for metric, part in self.parts.items()]

    def _ranks(self, values: pd.DataFrame) -> pd.DataFrame:
        if len(values) < 2:
            raise UserError(f"composite: ranks need at least 2 runs, got {len(values)}")
        return (values.rank() - 1) / (len(values) - 1)

    def _z_scores(self, values: pd.DataFrame, baseline: list[str]) -> pd.DataFrame:
        missing = [run for run in baseline if run not in values.index]
        if missing:
            guess = did_you_mean(missing[0], map(str, values.index))
            raise UserError(f"composite: no baseline run {missing[0]!r} among the {len(values)} runs{guess}")
        if len(set(baseline)) < 2:
            needed = f"got {len(set(baseline))}; use method 'rank' with fewer"
            raise UserError(f"composite: z-scores need the baseline at 2 seeds or more, {needed}")
        reference = values.loc[list(dict.fromkeys(baseline))]
        spread = reference.std(ddof=1)
        if (spread == 0).any():
            metric = spread.index[spread == 0][0]
            raise UserError(f"composite: {metric} is the same at all seeds of the baseline, so it has no z-score")
        return (values - reference.mean()) / spread


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Spearman's ρ between metrics across runs, metric by metric.

    Attributes:
        rho: NaN where fewer than three runs have both metrics, or where one of them does not vary.
        n: how many runs have both. Runs that differ in the seed alone are not independent: ρ comes without a p.
    """

    rho: pd.DataFrame
    n: pd.DataFrame


def metric_correlations(table: Table) -> Correlations:
    """Spearman correlation of every two metrics over the runs that have both (values that are not finite are missing).

    Raises:
        UserError: something in the table is not a number.
    """
    values = _frame(table)
    values = values.where(np.isfinite(values))
    there = values.notna().astype(int)
    return Correlations(rho=values.corr(method="spearman", min_periods=3), n=there.T @ there)


def _frame(table: Table) -> pd.DataFrame:
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame.from_dict(dict(table), orient="index")
    if frame.empty:
        raise UserError("metrics of runs: the table is empty")
    if not frame.index.is_unique:
        raise UserError(f"metrics of runs: run {frame.index[frame.index.duplicated()][0]!r} is there twice")
    try:
        return frame.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"metrics of runs: every value has to be a number: {error}") from None
