"""Laws of what recipes declare: a composite is a metric among others, or a note."""

import re

import numpy as np
import pytest
from made_comparisons import METHODS, SEEDS, frontier, method, notes, runs

from analysis.comparison import compare_runs

DECLARED = {"composite": {"sparsity": {"direction": "higher"}, "cosine_similarity/mean": {"direction": "lower"}}}


def test_a_declared_composite_is_a_metric_among_others():
    comparison = compare_runs(runs((*METHODS, "baseline-short"), analysis=DECLARED))
    table = [
        [one.report.metrics["sparsity/mean"], -one.report.metrics["cosine_similarity/mean"]] for one in comparison.runs
    ]
    base = np.array(table[:3])
    expected = ((np.array(table) - base.mean(axis=0)) / base.std(axis=0, ddof=1)).mean(axis=1)
    assert list(comparison.composite.scores.values()) == pytest.approx(expected.tolist())
    assert comparison.metrics[-1] == comparison.composite.info
    assert method(comparison, "selectivity").differences["composite"].interval is not None
    front = frontier(comparison, "composite")
    assert {point.name for point in front.points} == {*METHODS, "baseline-short", "random_init"}
    assert comparison.not_separating == ["correlation/mean"]


def test_a_composite_by_rank_does_not_count_shorter_baselines():
    declared = {**DECLARED, "method": "rank"}
    comparison = compare_runs(runs((*METHODS, "baseline-short"), analysis=declared))
    assert comparison.composite.scores == compare_runs(runs(analysis=declared)).composite.scores
    assert "no baseline at equal cross-entropy" not in notes(comparison)


@pytest.mark.parametrize(
    ("declared", "seeds", "words"),
    [
        (DECLARED, (42,), "no composite: .*2 seeds or more"),
        ({"composite": {"sparsty/mean": {"direction": "higher"}}}, SEEDS, "no composite: sparsty/mean is not measured"),
        ({"composite": {"sparsity": {}}}, SEEDS, "no composite: .*direction is missing"),
    ],
)
def test_a_composite_that_cannot_be_had_is_a_note(declared, seeds, words):
    comparison = compare_runs(runs(seeds=seeds, analysis=declared))
    assert comparison.composite is None and "composite" not in [info.key for info in comparison.metrics]
    assert any(re.search(words, note) for note in comparison.notes)


@pytest.mark.parametrize(("direction", "is_noted"), [("lower", True), ("higher", False)])
def test_a_direction_against_the_metrics_own_is_noted(direction, is_noted):
    comparison = compare_runs(runs(analysis={"composite": {"sparsity": {"direction": direction}}}))
    assert comparison.composite is not None
    expected = "composite: declares lower sparsity/mean as better, of which the metric says higher"
    assert (expected in comparison.notes) == is_noted


def test_composites_that_differ_are_not_used():
    other = {"composite": {"selectivity": {"direction": "higher"}}}
    comparison = compare_runs([*runs(("baseline",), analysis=DECLARED), *runs(("selectivity",), analysis=other)])
    assert comparison.composite is None and "analysis.composite" in notes(comparison)


def test_the_margin_of_the_recipes_holds_until_another_is_asked_for():
    declared = runs(analysis={"margin": 0.5})
    assert compare_runs(declared).margin == 0.5
    assert compare_runs(declared, margin=0.1).margin == 0.1
    assert compare_runs(runs()).margin == 0.005
    mixed = [*runs(("baseline",), analysis={"margin": 0.5}), *runs(("selectivity",), analysis={"margin": 0.4})]
    assert "analysis.margin: baseline-seed42 and selectivity-seed42 declare different ones" in notes(
        compare_runs(mixed)
    )
