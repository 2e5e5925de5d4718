"""Intervals over seeds and documents: against scipy and brute force, and by how often they hold the truth."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statistical_checks import binomial_slack, repeatable

from analysis.intervals import (
    document_difference,
    jackknife_estimate,
    mean_estimate,
    paired_differences,
    sign_flip,
)
from hf_tti.errors import UserError

DIFFERENCES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=8)


def test_importing_loads_no_torch():
    modules = "analysis, analysis.checks, analysis.intervals, analysis.verdict, analysis.pareto, analysis.composite"
    code = f"import sys, {modules}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("num_seeds", [2, 3, 7])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_paired_interval_is_scipys(num_seeds, level):
    rng = np.random.default_rng(num_seeds)
    method, baseline = rng.normal(1.5, 0.01, (2, num_seeds))
    pair = paired_differences(dict(enumerate(method)), dict(enumerate(baseline)))
    estimate = pair.estimate(level=level)
    expected = stats.ttest_rel(method, baseline).confidence_interval(level)
    np.testing.assert_allclose(estimate.interval[:2], expected, rtol=1e-10)
    assert estimate.interval.level == level
    assert estimate.num_groups == num_seeds
    assert estimate.standard_error == pytest.approx(stats.sem(method - baseline), rel=1e-10)


def test_one_seed_has_a_difference_and_no_interval():
    estimate = paired_differences({42: 1.51}, {42: 1.5}).estimate()
    assert estimate.value == pytest.approx(0.01)
    assert estimate.standard_error is None
    assert estimate.interval is None


def test_pairs_are_the_common_seeds_whatever_the_order():
    pair = paired_differences({44: 3.0, 42: 1.5, 7: 9.0}, {42: 1.0, 43: 0.0, 44: 1.0})
    assert pair.seeds == (42, 44)
    assert pair.values.tolist() == [0.5, 2.0]
    assert pair.unpaired == (7, 43)


@pytest.mark.parametrize(
    ("method", "baseline", "message"),
    [
        ({42: 1.0}, {43: 1.0}, r"topk: no seed in common with the baseline: it has \[42\], the baseline has \[43\]"),
        ({}, {43: 1.0}, "topk: no seed in common"),
        ({42: 1.0, 43: float("nan")}, {42: 1.0, 43: 1.0}, "topk, by seed: the value at 43 is nan, not a number"),
        ({42: 1.0}, {42: None}, "baseline, by seed: the value at 42 is nan"),
        ({42: "low"}, {42: 1.0}, "topk, by seed: expected numbers"),
    ],
)
def test_what_cannot_be_paired_is_one_line(method, baseline, message):
    with pytest.raises(UserError, match=message) as error:
        paired_differences(method, baseline, what="topk")
    assert "\n" not in str(error.value)


def test_the_t_interval_covers_as_often_as_it_says_at_three_seeds():
    rng, repetitions = np.random.default_rng(0), 4000
    samples = rng.normal(0.003, 0.002, (repetitions, 3))
    intervals = np.array([mean_estimate(sample).interval[:2] for sample in samples])
    coverage = np.mean((intervals[:, 0] <= 0.003) & (0.003 <= intervals[:, 1]))
    assert coverage == pytest.approx(0.95, abs=binomial_slack(0.95, repetitions))


@repeatable
@given(DIFFERENCES)
def test_sign_flips_are_counted_as_by_brute_force(differences):
    values = np.array(differences)
    flips = np.array(list(itertools.product([-1, 1], repeat=values.size))) @ values
    expected = np.mean(np.abs(flips) >= abs(values.sum()) - 1e-12 * np.abs(values).sum())
    assert sign_flip(differences).p == pytest.approx(expected)


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 10])
def test_the_smallest_sign_flip_p_is_reached_when_all_signs_agree(num_seeds):
    result = sign_flip(np.arange(1, num_seeds + 1))
    assert result.p == result.smallest_p == 2 / 2**num_seeds


def test_three_seeds_never_go_below_a_quarter():
    assert sign_flip([1e6, 1e6, 1e6]) == (0.25, 0.25)


@pytest.mark.parametrize("differences", [[], np.zeros(23), [[1.0, 2.0]], [1.0, np.inf]])
def test_sign_flips_refuse_what_they_cannot_enumerate(differences):
    with pytest.raises(UserError, match="differences over seeds"):
        sign_flip(differences)


def _shards(rng, num_shards=20, documents_per_shard=15, true_difference=0.01):
    """Loss sums of two models: documents of random length, each with an effect that all of its tokens share."""
    lengths = rng.integers(20, 200, (num_shards, documents_per_shard))
    difficulty = rng.normal(1.5, 0.5, lengths.shape)
    gain = true_difference + rng.normal(0, 0.05, lengths.shape)
    baseline = difficulty * lengths
    return (baseline + gain * lengths).sum(axis=1), baseline.sum(axis=1), lengths.sum(axis=1)


def test_the_jackknife_leaves_out_one_shard_at_a_time():
    method, baseline, counts = _shards(np.random.default_rng(1))
    estimate = document_difference(method, baseline, counts)
    assert estimate.value == pytest.approx(method.sum() / counts.sum() - baseline.sum() / counts.sum(), rel=1e-9)
    left_out = []
    for shard in range(20):
        keep = [index for index in range(20) if index != shard]
        left_out.append(sum(method[keep] - baseline[keep]) / sum(counts[keep]))
    variance = 19 / 20 * sum((value - sum(left_out) / 20) ** 2 for value in left_out)
    assert estimate.standard_error == pytest.approx(variance**0.5, rel=1e-9)
    half = stats.t.ppf(0.975, 19) * variance**0.5
    np.testing.assert_allclose(estimate.interval[:2], [estimate.value - half, estimate.value + half], rtol=1e-9)
    assert estimate.num_groups == 20


def test_shards_of_equal_size_give_the_paired_t_interval_of_their_means():
    method, baseline = np.random.default_rng(2).normal(1.5, 0.1, (2, 20))
    estimate = document_difference(method * 1000, baseline * 1000, np.full(20, 1000))
    expected = stats.ttest_rel(method, baseline).confidence_interval(0.95)
    np.testing.assert_allclose(estimate.interval[:2], expected, rtol=1e-9)


def test_several_seeds_are_averaged_on_the_same_shards():
    method, baseline, counts = _shards(np.random.default_rng(3))
    methods = np.stack([method + 5, method - 5])
    both = document_difference(methods, np.stack([baseline, baseline]), counts)
    one = document_difference(method, baseline, counts)
    assert both.value == pytest.approx(one.value)
    np.testing.assert_allclose(both.interval[:2], one.interval[:2])


def test_the_document_interval_covers_as_often_as_it_says():
    rng, repetitions = np.random.default_rng(4), 4000
    intervals = np.array([document_difference(*_shards(rng)).interval[:2] for _ in range(repetitions)])
    coverage = np.mean((intervals[:, 0] <= 0.01) & (0.01 <= intervals[:, 1]))
    assert coverage == pytest.approx(0.95, abs=binomial_slack(0.95, repetitions))


def test_one_shard_has_no_interval():
    estimate = document_difference([12.0], [10.0], [100])
    assert estimate.value == pytest.approx(0.02)
    assert estimate.interval is None


@pytest.mark.parametrize(
    ("method", "baseline", "counts", "message"),
    [
        ([1.0, 2.0], [1.0], [10, 10], "both models need the same seeds and shards"),
        ([1.0, 2.0], [1.0, 2.0], [10, 10, 10], "both models need the same seeds and shards"),
        ([1.0, 2.0], [1.0, 2.0], [10, 0], "shard 1 has 0 tokens"),
        ([1.0, np.nan], [1.0, 2.0], [10, 10], "loss sums of the method: the value at 1 is nan"),
        ([], [], [], r"expected loss sums \[G\] or \[S, G\]"),
        ([[1.0], [1.0, 2.0]], [1.0, 2.0], [10, 10], "loss sums of the method: expected numbers, as many in every row"),
    ],
)
def test_shards_that_do_not_fit_are_one_line(method, baseline, counts, message):
    with pytest.raises(UserError, match=message) as error:
        document_difference(method, baseline, counts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_is_a_share(level):
    with pytest.raises(UserError, match="level = .*: expected a number between 0 and 1"):
        mean_estimate([1.0, 2.0], level=level)


@pytest.mark.parametrize("values", [[], 1.0, [[1.0]]])
def test_estimates_need_a_list_of_numbers(values):
    with pytest.raises(UserError, match="expected .*at least one number"):
        mean_estimate(values)
    with pytest.raises(UserError, match="expected at least one number"):
        jackknife_estimate(0.0, values)
