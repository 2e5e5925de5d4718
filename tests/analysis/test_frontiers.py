"""Laws of frontiers: what is on the front, the reference, the baseline at equal cross-entropy."""

import dataclasses

import pytest
from made_comparisons import METHODS, SEEDS, frontier, method, notes, run, runs

from analysis.comparison import compare_runs
from analysis.runs import Run


def test_shorter_baselines_are_set_apart_for_equal_cross_entropy():
    comparison = compare_runs(runs((*METHODS, "baseline-short")))
    assert [one.name for one in comparison.shorter] == ["baseline-short"]
    assert [one.name for one in comparison.methods] == list(METHODS)
    assert method(comparison, "selectivity").verdict.num_methods == 2
    front = frontier(comparison, "sparsity/mean")
    (short,) = [point for point in front.points if point.kind == "baseline_curve"]
    base = front.points[0]
    at = front.equal_ce["selectivity"]
    share = (at.cross_entropy - base.loss) / (short.loss - base.loss)
    assert at.value == pytest.approx(base.value + share * (short.value - base.value)) and not at.extrapolated
    assert not front.equal_ce_is_undecayed


def test_another_recipe_is_no_shorter_baseline():
    other = [run("baseline-short", seed, recipe={"model": {"n_layer": 9}}) for seed in SEEDS]
    comparison = compare_runs([*runs(), *other])
    assert comparison.shorter == [] and method(comparison, "baseline-short").verdict.word == "costly"


def test_an_evaluated_checkpoint_of_the_baseline_is_no_shorter_baseline():
    recipe = {**run("baseline").report.recipe, "training": {"max_steps": 300}}
    base = [run("baseline", seed, recipe=recipe) for seed in SEEDS]
    early = {"recipe": recipe, "step": 100, "metrics": {"loss": 4.0, "sparsity/mean": 9.0}}
    checkpoints = [run("early", seed, **early) for seed in SEEDS]
    comparison = compare_runs([*base, *checkpoints, *runs(("selectivity",))])
    (point,) = [point for point in frontier(comparison, "sparsity/mean").points if point.name == "early"]
    assert (point.kind, point.decayed, point.on_front) == ("baseline_curve", False, False)
    assert frontier(comparison, "sparsity/mean").equal_ce_is_undecayed
    assert "early: evaluated before its end" in notes(comparison)


def with_curves(one: Run, lines: list[dict]) -> Run:
    one.__dict__["curves"] = lines
    return one


def logged(one: Run, off: float = 0.0) -> list[dict]:
    loss, value = one.report.metrics["loss"], one.report.metrics["sparsity/mean"]
    return [
        {"step": 150, "eval_loss": loss + 0.4, "eval_sparsity/mean": value / 2},
        {"step": 200, "loss": 4.0},
        {"step": 300, "eval_loss": loss, "eval_sparsity/mean": value + off},
    ]


def test_without_shorter_baselines_equal_cross_entropy_rests_on_checkpoints_and_says_so():
    given = [with_curves(one, logged(one)) for one in runs()]
    comparison = compare_runs(given)
    front = frontier(comparison, "sparsity/mean")
    (point,) = [point for point in front.points if not point.decayed]
    assert (point.name, point.kind, point.on_front) == ("baseline at step 150", "baseline_curve", False)
    assert point.loss == pytest.approx(front.points[0].loss + 0.4)
    assert front.equal_ce_is_undecayed and front.equal_ce.keys() == {"orthogonality", "selectivity"}
    assert "equal cross-entropy of sparsity rests on checkpoints in training" in notes(comparison)
    assert "no baseline at equal cross-entropy for polysemanticity" in notes(comparison)


def test_a_log_of_other_tokens_than_the_reports_is_not_used():
    given = [with_curves(one, logged(one, off=0.01)) for one in runs()]
    assert all(point.decayed for point in frontier(compare_runs(given), "sparsity/mean").points)


def test_checkpoints_do_not_move_the_line_of_shorter_baselines():
    methods = (*METHODS, "baseline-short")
    plain, with_logs = runs(methods), [with_curves(one, logged(one)) for one in runs(methods)]
    fronts = [frontier(compare_runs(given), "sparsity/mean") for given in (plain, with_logs)]
    assert fronts[0].equal_ce == fronts[1].equal_ce and len(fronts[1].points) == len(fronts[0].points) + 1


def test_only_metrics_with_a_direction_have_a_frontier():
    comparison = compare_runs(runs())
    directions = {info.key: info.direction for info in comparison.metrics}
    assert directions["neuron_density/mean"] is None and directions["cosine_similarity/mean"] == "lower"
    assert [front.metric.key for front in comparison.frontiers] == [key for key, way in directions.items() if way]


def test_what_another_beats_in_both_is_not_on_the_front():
    comparison = compare_runs(
        [*runs(), *(run("worse", s, metrics={"loss": 9.0, "sparsity/mean": -1.0}) for s in SEEDS)]
    )
    on_front = {point.name: point.on_front for point in frontier(comparison, "sparsity/mean").points}
    assert on_front["baseline"] and not on_front["worse"] and not on_front["random_init"]


def test_the_reference_is_beyond_every_trained_model_and_random_weights():
    for front in compare_runs(runs()).frontiers:
        sign = 1 if front.metric.direction == "higher" else -1
        trained = [point for point in front.points if point.kind != "null"]
        assert all(point.loss < front.reference[0] for point in trained)
        assert all(sign * (point.value - front.reference[1]) > 0 for point in front.points)
        assert front.hypervolume.reference == front.reference and front.hypervolume.estimate.value > 0


def test_a_metric_over_several_sites_has_a_frontier_each():
    sites = ["mlp.out", "mlp.neurons"]
    metrics = {"sparsity/mlp.out/mean": 0.1, "sparsity/mlp.neurons/mean": 0.2, "sparsity/zeros/mlp.out/mean": 0.0}
    given = []
    for one in runs():
        values = {key: value for key, value in one.report.metrics.items() if not key.startswith("sparsity/")}
        settings = {**one.report.metric_settings, "sparsity": {"metric": "activation_sparsity", "sites": sites}}
        report = dataclasses.replace(one.report, metrics={**values, **metrics}, metric_settings=settings)
        given.append(dataclasses.replace(one, report=report))
    keys = [info.key for info in compare_runs(given).metrics if info.label == "sparsity"]
    assert keys == ["sparsity/mlp.out/mean", "sparsity/mlp.neurons/mean"]
