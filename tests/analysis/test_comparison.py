"""Laws of a comparison: pairs, seeds, verdicts, null rows, and no torch."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from made_comparisons import SEEDS, method, notes, run, runs
from scipy import stats

from analysis.comparison import compare_runs
from hf_tti.report import LossShards


def test_a_difference_is_scipys_paired_t_interval():
    comparison = compare_runs(runs())
    for key in ("loss", "sparsity/mean", "sparsity/layer_1"):
        mine, base = ([run(name, seed).report.metrics[key] for seed in SEEDS] for name in ("selectivity", "baseline"))
        expected = stats.ttest_rel(mine, base).confidence_interval(0.95)
        difference = method(comparison, "selectivity").differences[key]
        assert difference.value == pytest.approx(np.mean(mine) - np.mean(base))
        assert difference.interval[:2] == pytest.approx((expected.low, expected.high))


def test_pairs_follow_seeds_and_not_the_order_of_runs():
    shuffled = runs()[::-1][4:] + runs()[::-1][:4]
    one, other = compare_runs(runs()), compare_runs(shuffled)
    assert method(one, "selectivity").differences == method(other, "selectivity").differences
    assert other.methods[0].name == "baseline"


def test_the_document_interval_takes_what_documents_differ_in_alike_out():
    documents = method(compare_runs(runs()), "selectivity").documents
    assert documents.num_groups == 20 and documents.interval.low > 0.05
    assert documents.value == pytest.approx(method(compare_runs(runs()), "selectivity").differences["loss"].value)


def test_empty_shards_are_no_groups():
    changed = []
    for one in runs():
        shards = one.report.loss_shards
        more = LossShards(loss_sums=[*shards.loss_sums, 0.0], num_tokens=[*shards.num_tokens, 0])
        changed.append(dataclasses.replace(one, report=dataclasses.replace(one.report, loss_shards=more)))
    assert (
        method(compare_runs(changed), "selectivity").documents == method(compare_runs(runs()), "selectivity").documents
    )


def test_a_shard_that_is_not_finite_leaves_no_document_interval():
    shards = LossShards(loss_sums=[float("nan")] * 2, num_tokens=[5, 5])
    assert method(compare_runs(runs(loss_shards=shards)), "selectivity").documents is None


def test_verdicts_are_about_all_methods_at_the_margin():
    comparison = compare_runs(runs(), margin=1.0)
    assert {one.name: one.verdict.word for one in comparison.methods[1:]} == {
        "orthogonality": "free",
        "selectivity": "free",
    }
    assert method(comparison, "selectivity").verdict.num_methods == 2
    assert method(compare_runs(runs()), "selectivity").verdict.word == "costly"


def test_one_seed_gives_no_interval_and_no_verdict_but_undecided():
    comparison = compare_runs(runs(seeds=(42,)))
    for one in comparison.methods:
        estimates = [one.loss, *one.values.values(), *one.differences.values()]
        assert all(estimate.interval is None for estimate in estimates)
    assert {one.verdict.word for one in comparison.methods[1:]} == {"undecided"}
    assert all("at one seed" in one.verdict.explanation for one in comparison.methods[1:])
    assert all(front.hypervolume.estimate.interval is None for front in comparison.frontiers)
    assert notes(comparison).startswith("one seed: no interval")


def test_a_seed_without_partner_is_left_out_and_named():
    comparison = compare_runs([*runs(("baseline",)), *runs(("selectivity",), seeds=(43, 44, 45))])
    assert method(comparison, "selectivity").verdict.differences.seeds == (43, 44)
    assert "selectivity: seed 42, 45 has no partner" in notes(comparison)


@pytest.mark.parametrize("seed", [7, None])
def test_without_a_common_seed_there_is_no_difference(seed):
    comparison = compare_runs([*runs(("baseline",)), run("selectivity", seed)])
    one = method(comparison, "selectivity")
    assert (one.differences, one.verdict, one.documents) == ({}, None, None)
    assert "selectivity: no seed in common with baseline" in notes(comparison)
    assert all(front.hypervolume is None for front in comparison.frontiers)


def test_a_metric_that_random_weights_do_as_well_is_flagged():
    assert compare_runs(runs()).not_separating == ["correlation/mean"]


def test_a_gain_within_the_spread_of_seeds_does_not_separate():
    null = run("baseline").report.nulls["random_init"]
    rows = {"random_init": {**null, "sparsity/mean": 0.5}}
    spread = {42: 0.40, 43: 0.51, 44: 0.62}
    given = [run("baseline", seed, nulls=rows, metrics={"sparsity/mean": value}) for seed, value in spread.items()]
    assert "sparsity/mean" in compare_runs(given).not_separating
    given = [run("baseline", seed, nulls=rows, metrics={"sparsity/mean": value + 1}) for seed, value in spread.items()]
    assert "sparsity/mean" not in compare_runs(given).not_separating


def test_null_rows_are_the_baselines():
    comparison = compare_runs(runs())
    expected = np.mean([run("baseline", seed).report.nulls["rotated"]["sparsity/mean"] for seed in SEEDS])
    assert comparison.nulls["rotated"]["sparsity/mean"] == pytest.approx(expected)
    assert comparison.nulls.keys() == {"random_init", "rotated", "shuffled_labels"}


def test_reports_without_nulls_still_compare():
    comparison = compare_runs(runs(nulls={}))
    assert comparison.nulls == {} and comparison.not_separating == []
    assert all(point.kind != "null" for front in comparison.frontiers for point in front.points)


def test_correlations_are_over_runs_and_need_three():
    comparison = compare_runs(runs())
    columns = ["loss", *(info.key for info in comparison.metrics)]
    assert list(comparison.correlations.rho.columns) == columns
    assert comparison.correlations.n.loc["loss", "sparsity/mean"] == 9
    assert compare_runs(runs(("baseline", "selectivity"), seeds=(1,))).correlations is None


def test_comparing_loads_no_torch():
    code = (
        "import sys, analysis.comparison, analysis.compare, analysis.markdown, analysis.csv_files, analysis.commands\n"
    )
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
