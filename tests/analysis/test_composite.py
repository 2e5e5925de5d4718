"""Composites and correlations: against plain loops and scipy, and their invariances."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.composite import Composite, Part, metric_correlations
from hf_tti.errors import UserError

PARTS = {"sparsity": {"direction": "higher", "weight": 2.0}, "entropy": {"direction": "lower"}}
BASELINE = ["base-42", "base-43", "base-44"]


def _table(seed=0):
    rng = np.random.default_rng(seed)
    runs = [*BASELINE, "topk-42", "topk-43", "orth-42"]
    return pd.DataFrame(rng.normal([0.5, 4.0, 7.0], [0.1, 0.5, 1.0], (6, 3)), runs, ["sparsity", "entropy", "pr"])


def test_the_z_score_is_the_weighted_distance_from_the_baseline_in_its_sds():
    table = _table()
    scores = Composite.from_dict(PARTS).score(table, baseline=BASELINE)
    for run in table.index:
        total = 0.0
        for metric, weight, sign in [("sparsity", 2, 1), ("entropy", 1, -1)]:
            of_baseline = [table.loc[name, metric] for name in BASELINE]
            total += weight * sign * (table.loc[run, metric] - np.mean(of_baseline)) / np.std(of_baseline, ddof=1)
        assert scores[run] == pytest.approx(total / 3)


def test_the_baseline_scores_zero_on_average():
    scores = Composite.from_dict(PARTS).score(_table(), baseline=BASELINE)
    assert scores[BASELINE].mean() == pytest.approx(0, abs=1e-12)


def test_the_rank_mean_is_scipys_ranks():
    table = _table()
    table.loc["topk-43", "sparsity"] = table.loc["topk-42", "sparsity"]  # a tie
    scores = Composite.from_dict(PARTS, method="rank").score(table)
    sparsity, entropy = stats.rankdata(table["sparsity"]), stats.rankdata(-table["entropy"])
    np.testing.assert_allclose(scores, (2 * (sparsity - 1) / 5 + (entropy - 1) / 5) / 3)


def test_a_run_that_is_best_everywhere_ranks_one_and_worst_everywhere_zero():
    table = {"best": {"sparsity": 0.9, "entropy": 1.0}, "mid": {"sparsity": 0.5, "entropy": 2.0}}
    table["worst"] = {"sparsity": 0.1, "entropy": 3.0}
    scores = Composite.from_dict(PARTS, method="rank").score(table)
    assert scores.to_dict() == {"best": 1.0, "mid": 0.5, "worst": 0.0}


def test_z_scores_do_not_depend_on_units_nor_on_other_runs():
    table, composite = _table(), Composite.from_dict(PARTS)
    expected = composite.score(table, baseline=BASELINE)
    pd.testing.assert_series_equal(composite.score(table * [3.0, 0.01, 1] + [5, -2, 0], baseline=BASELINE), expected)
    fewer = composite.score(table.drop(index="topk-42"), baseline=BASELINE)
    pd.testing.assert_series_equal(fewer, expected.drop("topk-42"))


def test_ranks_do_not_depend_on_a_monotone_scale():
    table, composite = _table(), Composite.from_dict(PARTS, method="rank")
    pd.testing.assert_series_equal(composite.score(np.exp(table)), composite.score(table))


@pytest.mark.parametrize("method", ["rank", "z-score"])
def test_only_the_declared_metrics_and_their_proportions_count(method):
    table = _table()
    expected = Composite.from_dict(PARTS, method=method).score(table, baseline=BASELINE)
    table["pr"] = np.nan
    heavier = {name: {**part, "weight": 10 * part.get("weight", 1.0)} for name, part in PARTS.items()}
    pd.testing.assert_series_equal(
        Composite.from_dict(heavier, method=method).score(table, baseline=BASELINE), expected
    )


def _score(parts=None, *, table=None, baseline=BASELINE, method="z-score"):
    return Composite.from_dict(parts or PARTS, method=method).score(
        _table() if table is None else table, baseline=baseline
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _score(table=_table().where(_table() != _table().loc["topk-43", "entropy"])),
            "topk-43, entropy is nan",
        ),
        (lambda: _score(table={"a": {"sparsity": None, "entropy": 1}}), "at a, sparsity is nan, not a number"),
        (lambda: _score({"sparsty": {"direction": "higher"}}), r"no metric 'sparsty' .*did you mean 'sparsity'\?"),
        (lambda: _score({"sparsity": {"direction": "up"}}), "direction 'up' is not one of lower, higher"),
        (lambda: _score({"sparsity": {"weight": 1.0}}), "sparsity: direction is missing; lower or higher"),
        (lambda: _score({"sparsity": {"direction": "lower", "wieght": 1}}), r"did you mean 'weight'\?"),
        (lambda: _score({"sparsity": {"direction": "lower", "weight": -1.0}}), "weight -1.0 is not a number above 0"),
        (lambda: _score(method="mean"), "method 'mean' is not one of z-score, rank"),
        (lambda: _score(baseline=["base-41"]), r"no baseline run 'base-41' .*did you mean 'base-4\d'\?"),
        (lambda: _score(baseline=["base-42"]), "need the baseline at 2 seeds or more, got 1; use method 'rank'"),
        (lambda: _score(table=_table() * [0, 1, 1]), "sparsity is the same at all seeds of the baseline"),
        (lambda: _score(method="rank", table=_table().iloc[:1]), "ranks need at least 2 runs, got 1"),
        (lambda: _score(table=pd.concat([_table(), _table()])), "run 'base-42' is there twice"),
        (lambda: _score(table={"a": {"sparsity": "high"}}), "every value has to be a number"),
        (lambda: _score(table={}), "the table is empty"),
        (lambda: Composite(parts={}), "no metric in it"),
    ],
)
def test_what_cannot_be_scored_is_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_part_weighs_one_unless_it_says_otherwise():
    assert Composite.from_dict(PARTS).parts == {
        "sparsity": Part(direction="higher", weight=2.0),
        "entropy": Part(direction="lower", weight=1.0),
    }


def test_correlations_are_scipys_over_the_runs_that_have_both():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 4)).round(1)  # ties
    values[:, 1] += values[:, 0]
    values[rng.uniform(size=values.shape) < 0.3] = np.nan
    values[3, 2] = np.inf
    table = pd.DataFrame(values, columns=list("abcd"))
    found = metric_correlations(table)
    for one in table:
        for other in table:
            both = np.isfinite(table[one]) & np.isfinite(table[other])
            expected = stats.spearmanr(table[one][both], table[other][both]).statistic
            assert found.rho.loc[one, other] == pytest.approx(expected, abs=1e-12)
            assert found.n.loc[one, other] == both.sum() < 30


def test_a_correlation_without_three_runs_or_without_variation_is_nan_and_n_says_why():
    table = {
        "r1": {"a": 1.0, "b": 2.0, "flat": 1.0},
        "r2": {"a": 2.0, "b": None, "flat": 1.0},
        "r3": {"a": 3.0, "flat": 1.0},
        "r4": {"a": 0.0, "b": 5.0, "flat": 1.0},
    }
    found = metric_correlations(table)
    assert np.isnan(found.rho.loc["a", "b"]) and found.n.loc["a", "b"] == 2
    assert np.isnan(found.rho.loc["a", "flat"]) and found.n.loc["a", "flat"] == 4
    assert found.rho.loc["a", "a"] == 1


def test_one_run_has_no_correlations():
    found = metric_correlations({"r1": {"a": 1.0, "b": 2.0}})
    assert found.rho.isna().all(axis=None)
    assert (found.n == 1).all(axis=None)
