"""A method over its seeds: means with t intervals, and differences from the baseline paired by seed.

Runs of one seed share initial weights and data, whatever their method: a difference within a pair is free of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.intervals import Estimate, document_difference, mean_estimate, paired_differences
from analysis.measures import Values
from analysis.runs import Run
from analysis.verdict import Verdict, verdicts


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method over its seeds.

    Attributes:
        name: of the method.
        runs: by seed.
        loss: cross-entropy, nats; as all of `values`, the mean with its t interval over seeds.
        values: every number that all of its runs have.
        differences: method minus baseline, paired by seed; {} for the baseline and without a common seed.
        verdict: None for the baseline, without one, and without a common seed.
        documents: the cross-entropy difference with its jackknife interval over document shards.
    """

    name: str
    runs: list[Run]
    loss: Estimate
    values: dict[str, Estimate]
    differences: dict[str, Estimate] = field(default_factory=dict)
    verdict: Verdict | None = None
    documents: Estimate | None = None

    @property
    def seeds(self) -> list[int]:
        """Those that are known."""
        return [run.seed for run in self.runs if run.seed is not None]


def summarise(
    groups: Mapping[str, list[Run]], baseline: str | None, values: Values, margin: float, notes: list[str]
) -> list[MethodSummary]:
    """Each method's estimates, and its differences and verdict against the baseline where they have a common seed.

    Args:
        groups: method -> its runs by seed.
        baseline: one of them.
        values: by run.
        margin: nats.
        notes: gets a line for each method without a common seed.
    """
    summaries = {name: summary(name, runs, values) for name, runs in groups.items()}
    if baseline is None:
        return list(summaries.values())
    base = summaries[baseline]
    paired = {name: one for name, one in summaries.items() if name != baseline and set(one.seeds) & set(base.seeds)}
    losses = {name: _by_seed(one.runs, "loss", values) for name, one in paired.items()}
    judged = verdicts(losses, _by_seed(base.runs, "loss", values), margin=margin) if losses else {}
    for name in summaries:
        if name != baseline and name not in paired:
            notes.append(f"{name}: no seed in common with {baseline}, so no difference and no verdict")
    return [_against(one, base, judged[name], values) if name in judged else one for name, one in summaries.items()]


def summary(name: str, runs: list[Run], values: Values) -> MethodSummary:
    """A method's estimates over its runs. All of them have a finite `loss`."""
    mine = [values[run.label] for run in runs]
    estimates = {key: mean_estimate([one[key] for one in mine]) for key in mine[0] if all(key in one for one in mine)}
    return MethodSummary(name=name, runs=runs, loss=estimates["loss"], values=estimates)


def _against(summary: MethodSummary, base: MethodSummary, verdict: Verdict, values: Values) -> MethodSummary:
    differences = {
        key: paired_differences(_by_seed(summary.runs, key, values), _by_seed(base.runs, key, values)).estimate()
        for key in summary.values
        if key in base.values
    }
    return MethodSummary(
        name=summary.name,
        runs=summary.runs,
        loss=summary.loss,
        values=summary.values,
        differences=differences,
        verdict=verdict,
        documents=over_documents(summary.runs, base.runs),
    )


def _by_seed(runs: Sequence[Run], key: str, values: Values) -> dict[int, float]:
    return {run.seed: values[run.label][key] for run in runs if run.seed is not None}


def over_documents(runs: Sequence[Run], others: Sequence[Run]) -> Estimate | None:
    """Cross-entropy of `runs` minus `others`, paired by seed, with its interval over document shards.

    None without a common seed (unless each side is one run), without shards, or where a shard's loss is not finite.
    """
    pairs = [(run, other) for run in runs for other in others if run.seed == other.seed]
    if len(runs) == len(others) == 1:
        pairs = [(runs[0], others[0])]
    sums = [[run.report.loss_shards.loss_sums for run in side] for side in zip(*pairs, strict=True)]
    counts = np.array(runs[0].report.loss_shards.num_tokens)
    if not sums or not counts.any() or any(None in shards for side in sums for shards in side):
        return None
    mine, theirs = (np.array(side, dtype=np.float64)[:, counts > 0] for side in sums)
    return document_difference(mine, theirs, counts[counts > 0])
