"""Laws of the baseline: which method it is, and which are the same with fewer steps."""

import pytest
from made_comparisons import SEEDS, notes, run, runs

from analysis.comparison import compare_runs
from hf_tti.errors import UserError


def test_the_baseline_is_the_method_without_objectives():
    comparison = compare_runs(runs(("selectivity", "baseline")))
    assert comparison.baseline == "baseline" == comparison.methods[0].name
    assert comparison.methods[0].verdict is None and comparison.methods[0].differences == {}


def test_another_baseline_can_be_named_on_the_spot_or_in_the_recipes():
    assert compare_runs(runs(), baseline="selectivity").methods[0].name == "selectivity"
    assert compare_runs(runs(analysis={"baseline": "selectivity"})).baseline == "selectivity"
    with pytest.raises(UserError, match=r"baseline selectivty: no such method \(did you mean 'selectivity'\?\)"):
        compare_runs(runs(), baseline="selectivty")


def test_a_declared_baseline_that_is_not_among_the_runs_is_a_note():
    comparison = compare_runs(runs(("orthogonality", "selectivity"), analysis={"baseline": "control"}))
    assert comparison.baseline is None
    assert "analysis.baseline: control is not among these runs" in notes(comparison)
    assert compare_runs(runs(analysis={"baseline": "control"})).baseline == "baseline"


def test_without_a_baseline_there_are_no_differences_and_a_note():
    comparison = compare_runs(runs(("orthogonality", "selectivity")))
    assert comparison.baseline is None
    assert all(one.verdict is None and one.differences == {} for one in comparison.methods)
    assert "name one with --baseline" in notes(comparison) and "equal cross-entropy" not in notes(comparison)
    assert {point.kind for point in comparison.frontiers[0].points} == {"method", "null"}


def test_a_model_of_unknown_training_is_no_baseline():
    assert compare_runs([run("gpt2", None, recipe=None)]).baseline is None


def test_two_long_methods_without_objectives_leave_the_choice_to_the_user():
    twins = [run("topk", seed, recipe={"model": {"k": 2}}) for seed in SEEDS]
    twins += [run("dense", seed, recipe={"model": {"k": 9}}) for seed in SEEDS]
    assert "topk, dense are equally long" in notes(compare_runs(twins))
    assert compare_runs([*twins, *runs(("baseline",))]).baseline == "baseline"
