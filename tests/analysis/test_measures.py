"""Laws of what is measured alike: other data is refused, other settings and missing values are left out and named."""

import dataclasses

import pytest
from made_comparisons import SEEDS, frontier, method, notes, run, runs

from analysis.comparison import compare_runs
from hf_tti.errors import UserError


@pytest.mark.parametrize(("name", "what"), [("fingerprint", "data fingerprint"), ("tokenizer_sha256", "tokenizer")])
def test_other_data_is_refused_with_both_runs_named(name, what):
    data = dataclasses.replace(run("selectivity").report.data, **{name: "00" * 32})
    with pytest.raises(UserError) as error:
        compare_runs([*runs(("baseline",)), run("selectivity", 43, data=data)])
    text = str(error.value)
    assert "\n" not in text and f"their {what} differs" in text
    assert "baseline-seed42 and selectivity-seed43" in text


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(UserError, match="selectivity-seed43: its cross-entropy is not a finite number"):
        compare_runs([*runs(("baseline",)), run("selectivity", 43, metrics={"loss": float("nan")})])


def test_no_run_and_two_of_one_seed_are_refused():
    with pytest.raises(UserError, match="no run"):
        compare_runs([])
    with pytest.raises(UserError, match="two reports"):
        compare_runs([run("baseline"), run("baseline")])


def test_a_missing_value_is_left_out_for_its_method_and_named():
    broken = run("selectivity", 43, metrics={"sparsity/mean": None, "sparsity/layer_0": float("nan")})
    comparison = compare_runs([*runs(("baseline", "orthogonality")), run("selectivity", 42), broken])
    assert "sparsity/mean" not in method(comparison, "selectivity").values
    assert "sparsity/mean" not in method(comparison, "selectivity").differences
    assert "sparsity/layer_1" in method(comparison, "selectivity").differences
    assert "sparsity/mean" in method(comparison, "orthogonality").differences
    assert [point.name for point in frontier(comparison, "sparsity/mean").points if point.kind == "method"] == [
        "orthogonality"
    ]
    (note,) = [note for note in comparison.notes if note.startswith("sparsity")]
    assert "selectivity-seed43" in note and "sparsity/mean" in note and "selectivity-seed42" not in note


def test_a_mean_over_fewer_layers_than_anothers_is_left_out():
    dead = [run("selectivity", seed, metrics={"sparsity/layer_1": None}) for seed in SEEDS]
    comparison = compare_runs([*runs(("baseline",)), *dead])
    baseline, method = comparison.methods
    assert "sparsity/mean" in baseline.values and "sparsity/mean" not in method.values
    assert "sparsity/layer_0" in method.differences and "sparsity/mean" not in method.differences
    assert "sparsity/layer_1: no finite value in selectivity-seed42" in notes(comparison)
    alone = compare_runs(dead)
    assert "sparsity/mean" in alone.methods[0].values  # all are over the same layers


def test_means_of_models_of_other_depth_stay():
    deep = run("baseline")
    metrics = {key: value for key, value in deep.report.metrics.items() if not key.endswith("layer_1")}
    shallow = run("selectivity")
    shallow = dataclasses.replace(shallow, report=dataclasses.replace(shallow.report, metrics=metrics))
    assert "sparsity/mean" in compare_runs([deep, shallow]).methods[1].differences


def test_a_metric_that_one_report_lacks_is_named():
    base = [run("baseline", seed) for seed in SEEDS]
    report = base[0].report
    metrics = {key: value for key, value in report.metrics.items() if not key.startswith("linear_probe/")}
    base[0] = dataclasses.replace(base[0], report=dataclasses.replace(report, metrics=metrics))
    comparison = compare_runs([*base, *runs(("selectivity",))])
    assert "linear_probe/mean" not in method(comparison, "selectivity").differences
    assert "linear_probe: no finite value in baseline-seed42" in notes(comparison)


def test_a_metric_measured_in_two_ways_is_left_out():
    settings = {
        **run("selectivity").report.metric_settings,
        "sparsity": {"metric": "activation_sparsity", "threshold": 1},
    }
    comparison = compare_runs([*runs(("baseline",)), *runs(("selectivity",), metric_settings=settings)])
    assert "sparsity/mean" not in [info.key for info in comparison.metrics]
    assert "sparsity/layer_0" not in method(comparison, "selectivity").differences
    assert "sparsity: left out, baseline-seed42 and selectivity-seed42 measured it with" in notes(comparison)


def test_other_versions_and_settings_of_evaluation_are_noted():
    evaluation = {**run("baseline").report.evaluation, "dtype": "bfloat16", "device": "cuda", "batch_size": 64}
    comparison = compare_runs([*runs(("baseline",)), *runs(("selectivity",), evaluation=evaluation, versions={})])
    assert "evaluated with dtype = float32 / bfloat16" in notes(comparison)
    assert "version torch = 2.13.0 / None" in notes(comparison)
    assert "device" not in notes(comparison) and "batch_size" not in notes(comparison)


def test_another_sample_is_noted_and_another_reference_is_not():
    evaluation = {**run("baseline").report.evaluation, "sample": {"num_tokens": 100}, "reference": "a"}
    other = {**evaluation, "sample": {"num_tokens": 200}, "reference": "b"}
    comparison = compare_runs([*runs(("baseline",), evaluation=evaluation), *runs(("selectivity",), evaluation=other)])
    assert [note for note in comparison.notes if "evaluated" in note] == [
        "runs were evaluated with sample.num_tokens = 100 / 200"
    ]


def test_studies_of_another_sample_are_left_out():
    evaluations = [{"sample": {"fingerprint": digit * 64}} for digit in "ab"]
    base = runs(("baseline",), evaluation=evaluations[0])
    comparison = compare_runs([*base, *runs(("selectivity",), evaluation=evaluations[1])])
    keys = [info.key for info in comparison.metrics]
    assert "linear_probe/mean" not in keys and "sparsity/mean" in keys
    said = "linear_probe: left out, baseline-seed42 and selectivity-seed42 measured it with sample aaaaaaaaaaaa…"
    assert said in notes(comparison)
    assert "linear_probe/mean" in [info.key for info in compare_runs(base).metrics]


def test_batch_sizes_matter_where_metrics_stop_after_some_batches():
    evaluation = {**run("baseline").report.evaluation, "metric_batches": 4}
    other = {**evaluation, "batch_size": 64}
    comparison = compare_runs([*runs(("baseline",), evaluation=evaluation), *runs(("selectivity",), evaluation=other)])
    assert "batch_size = 16 / 64" in notes(comparison)


def test_a_baseline_alone_is_told_nothing_about_equal_cross_entropy():
    assert "equal cross-entropy" not in notes(compare_runs(runs(("baseline",))))
