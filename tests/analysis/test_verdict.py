"""Verdicts: against scipy's t tests and the closure principle, and by how often they are wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statistical_checks import binomial_slack, repeatable

from analysis.verdict import decision_power, holm, seeds_needed, tost_p, verdicts
from hf_tti.errors import UserError

MARGIN = 0.005
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def _verdict(differences, **options):
    baseline = dict.fromkeys(range(len(differences)), 0.0)
    return verdicts({"method": dict(enumerate(differences))}, baseline, **options)["method"]


def _words(differences, **options):
    """The words at `[methods, seeds]` differences from a baseline of 0."""
    methods = {str(index): dict(enumerate(row)) for index, row in enumerate(differences)}
    found = verdicts(methods, dict.fromkeys(range(len(differences[0])), 0.0), **options)
    return [found[name].word for name in methods]


@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_tost_is_two_of_scipys_one_sided_tests(num_seeds):
    differences = np.random.default_rng(num_seeds).normal(0.001, 0.003, num_seeds)
    above = stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
    assert tost_p(differences, margin=MARGIN) == pytest.approx(max(above, below), rel=1e-9)


@pytest.mark.parametrize("mean", [-0.02, 0.0, 0.02])
def test_p_is_twice_the_smallest_of_scipys_paired_tests(mean):
    rng = np.random.default_rng(5)
    baseline = rng.normal(1.5, 0.1, 4)
    method = baseline + rng.normal(mean, 0.004, 4)
    found = verdicts({"m": dict(enumerate(method))}, dict(enumerate(baseline)), margin=MARGIN)["m"]
    costly = stats.ttest_rel(method - MARGIN, baseline, alternative="greater").pvalue
    better = stats.ttest_rel(method + MARGIN, baseline, alternative="less").pvalue
    free = tost_p(method - baseline, margin=MARGIN)
    assert found.p == pytest.approx(min(1, 2 * min(costly, better, free)), rel=1e-6)


@repeatable
@given(
    st.lists(st.floats(-0.03, 0.03, allow_subnormal=False), min_size=2, max_size=6),
    st.sampled_from([0.02, 0.05, 0.1]),
)
def test_the_word_for_one_method_is_where_its_interval_lies(differences, alpha):
    found = _verdict(differences, alpha=alpha, margin=MARGIN)
    low, high, level = found.estimate.interval
    assume(min(abs(low + MARGIN), abs(low - MARGIN), abs(high + MARGIN), abs(high - MARGIN)) > 1e-9)
    inside = {"free": -MARGIN < low and high < MARGIN, "costly": low > MARGIN, "better": high < -MARGIN}
    assert level == 1 - alpha
    assert found.word == next((word for word, holds in inside.items() if holds), "undecided")


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.0, 0.0, 0.0], "free"),  # bitwise the baseline, as a probe is
        ([0.0002, -0.0003, 0.0001], "free"),
        ([0.0208, 0.0212, 0.0210], "costly"),
        ([-0.0208, -0.0212, -0.0210], "better"),
        ([0.001, 0.009, 0.004], "undecided"),
        ([MARGIN, MARGIN, MARGIN], "undecided"),  # on the edge itself
        ([-MARGIN, -MARGIN, -MARGIN], "undecided"),
        ([0.5], "undecided"),
        ([0.0], "undecided"),
    ],
)
def test_clear_cases(differences, word):
    assert _verdict(differences).word == word


def test_swapping_method_and_baseline_swaps_better_and_costly():
    rng = np.random.default_rng(6)
    for _ in range(50):
        differences = rng.normal(rng.choice([-0.01, 0, 0.01]), 0.002, 3)
        one, other = _verdict(differences), _verdict(-differences)
        assert other.word == {"better": "costly", "costly": "better"}.get(one.word, one.word)
        assert other.p == pytest.approx(one.p)


def test_on_the_edge_of_the_margin_one_verdict_in_twenty_is_wrong():
    """At m both `free` and `costly` are false: the largest error that a single method can have."""
    rng, repetitions = np.random.default_rng(7), 4000
    words = [_verdict(row).word for row in rng.normal(MARGIN, 0.0004, (repetitions, 3))]
    assert np.mean([word != "undecided" for word in words]) == pytest.approx(0.05, abs=binomial_slack(0.05, 4000))


@pytest.mark.parametrize("sd", [0.002, 0.02])
def test_a_free_method_is_called_costly_or_better_at_most_as_often_as_alpha(sd):
    rng, repetitions = np.random.default_rng(8), 2000
    wrong = [_verdict(row).word in ("costly", "better") for row in rng.normal(0.004, sd, (repetitions, 3))]
    assert np.mean(wrong) <= 0.05 + binomial_slack(0.05, repetitions)


@pytest.mark.parametrize("shared", [0.0, 0.7], ids=["independent", "shared baseline noise"])
def test_any_wrong_word_among_several_methods_is_as_rare_as_alpha(shared):
    """Methods on both edges of the margin beside two that are easily decided, so that Holm's later steps are used."""
    true = np.array([MARGIN, -MARGIN, MARGIN, 0.0, 0.03])
    allowed = [{"undecided"}] * 3 + [{"undecided", "free"}, {"undecided", "costly"}]
    rng, repetitions, sd = np.random.default_rng(9), 2000, 0.0006
    wrong = 0
    for _ in range(repetitions):
        noise = np.sqrt(1 - shared) * rng.normal(0, sd, (5, 3)) + np.sqrt(shared) * rng.normal(0, sd, (1, 3))
        words = _words(true[:, None] + noise)
        wrong += any(word not in fine for word, fine in zip(words, allowed, strict=True))
    assert wrong / repetitions <= 0.05 + binomial_slack(0.05, repetitions)


@repeatable
@given(P_VALUES)
def test_holm_is_the_closure_of_bonferroni(p_values):
    """An intersection of hypotheses is rejected where its Bonferroni p is; each adjusted p is the largest above it."""
    expected = []
    for index in range(len(p_values)):
        subsets = [
            subset
            for size in range(1, len(p_values) + 1)
            for subset in itertools.combinations(range(len(p_values)), size)
            if index in subset
        ]
        expected.append(max(min(1, len(subset) * min(p_values[i] for i in subset)) for subset in subsets))
    np.testing.assert_allclose(holm(p_values), expected, atol=1e-12)


@repeatable
@given(P_VALUES, st.data())
def test_holm_is_monotone_and_keeps_the_order(p_values, data):
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values)).all() and (adjusted <= 1).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    raised = list(p_values)
    index = data.draw(st.integers(0, len(p_values) - 1))
    raised[index] = data.draw(st.floats(p_values[index], 1))
    assert (holm(raised) >= adjusted - 1e-12).all()


def test_more_methods_make_a_claim_harder_and_the_line_says_so():
    clear, close = [0.0002, -0.0003, 0.0001], [0.0012, -0.0011, 0.0008]
    alone = _verdict(close)
    assert alone.word == "free"
    noisy = {str(i): dict(enumerate([0.0, 0.01 * (i + 1), -0.01])) for i in range(6)}
    methods = {"close": dict(enumerate(close)), "clear": dict(enumerate(clear)), **noisy}
    found = verdicts(methods, dict.fromkeys(range(3), 0.0))
    assert found["clear"].word == "free"
    assert found["close"].word == "undecided"
    assert found["close"].p == pytest.approx(alone.p)
    assert "inside ±0.005, but not after Holm over 8 methods" in found["close"].explanation


def test_power_of_costly_is_the_noncentral_t():
    for num_seeds, difference, sd in [(3, 0.008, 0.001), (6, 0.008, 0.003), (12, 0.006, 0.001)]:
        shift = (difference - MARGIN) / (sd / np.sqrt(num_seeds))
        expected = stats.nct.sf(stats.t.isf(0.025, num_seeds - 1), num_seeds - 1, shift)
        power = decision_power(num_seeds, difference=difference, sd=sd, margin=MARGIN, alpha=0.05)
        assert power == pytest.approx(expected, abs=1e-4)
        mirrored = decision_power(num_seeds, difference=-difference, sd=sd, margin=MARGIN, alpha=0.05)
        assert mirrored == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize(("difference", "sd"), [(0.002, 0.003), (0.008, 0.003), (-0.009, 0.004)])
def test_the_number_of_seeds_decides_as_often_as_it_promises(difference, sd):
    """Simulated with the verdict itself, at the number asked for."""
    observed = difference + sd * np.array([-1.0, 0.0, 1.0])  # its mean and sd are the assumed ones
    num_seeds = seeds_needed(observed, margin=MARGIN, alpha=0.05, power=0.8)
    fewer = decision_power(num_seeds - 1, difference=difference, sd=sd, margin=MARGIN, alpha=0.05)
    power = decision_power(num_seeds, difference=difference, sd=sd, margin=MARGIN, alpha=0.05)
    assert fewer < 0.8 <= power
    word = "free" if abs(difference) < MARGIN else "costly" if difference > 0 else "better"
    rng, repetitions = np.random.default_rng(10), 2000
    decided = [_verdict(row).word == word for row in rng.normal(difference, sd, (repetitions, num_seeds))]
    assert np.mean(decided) == pytest.approx(power, abs=binomial_slack(power, repetitions))


def test_seeds_needed_grow_with_spread_power_and_nearness_to_the_margin():
    def needed(mean, sd, **options):
        return seeds_needed(mean + sd * np.array([-1.0, 0.0, 1.0]), **options)

    assert needed(0.002, 0.003) < needed(0.002, 0.006)
    assert needed(0.002, 0.003) < needed(0.004, 0.003)
    assert needed(0.002, 0.003) < needed(0.002, 0.003, power=0.95)
    assert needed(0.002, 0.003) < needed(0.002, 0.003, alpha=0.01)
    assert needed(0.002, 1.0) is None
    assert seeds_needed([MARGIN, MARGIN, MARGIN]) is None


def test_undecided_says_how_many_seeds_it_would_take():
    found = _verdict([0.001, 0.009, 0.002])
    assert found.seeds_needed > 3
    assert f"; {found.seeds_needed} seeds would decide with 80 % power" in found.explanation
    assert "over 3 seeds, 95 % interval [-0.0068, +0.0148] holds -0.005 and +0.005" in found.explanation


def test_the_undecided_share_alpha_in_their_plan():
    close, clear = [0.001, 0.009, 0.002], [0.0, 0.0001, -0.0001]
    methods = {name: dict(enumerate(row)) for name, row in {"a": close, "b": close, "clear": clear}.items()}
    found = verdicts(methods, dict.fromkeys(range(3), 0.0))
    assert [found[name].word for name in methods] == ["undecided", "undecided", "free"]
    assert found["a"].seeds_needed == seeds_needed(close, alpha=0.05 / 2) > seeds_needed(close, alpha=0.05)


def test_the_plan_asks_for_more_seeds_than_there_are():
    assert seeds_needed([0.0, 0.0001, -0.0001]) == 4
    assert seeds_needed([0.0, 0.0, 0.0]) == 4


def test_one_seed_is_undecided_and_says_so():
    found = _verdict([0.02])
    assert (found.word, found.p, found.estimate.interval, found.seeds_needed) == ("undecided", 1.0, None, None)
    assert "+0.0200 nats against the baseline at one seed, which has no interval" in found.explanation


@pytest.mark.parametrize("differences", [[0.02], [0.0, 0.0], [0.001, 0.009, 0.002], [0.1, 0.1001, 0.1002]])
def test_explanations_are_one_line_with_method_word_and_difference(differences):
    found = _verdict(differences)
    assert found.explanation.startswith(f"method: {found.word}; cross-entropy {np.mean(differences):+.4f} nats")
    assert "\n" not in found.explanation


def test_unpaired_seeds_are_named():
    found = verdicts({"m": {1: 1.0, 2: 1.1, 3: 1.0}}, {1: 1.0, 2: 1.0, 4: 1.0})["m"]
    assert found.explanation.endswith("left out for want of a partner: seed 3, 4")


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ({}, {}, "no method to compare"),
        ({"topk": {0: float("nan"), 1: 1.0}}, {}, "topk, by seed: the value at 0 is nan, not a number"),
        ({"topk": {5: 1.0}}, {}, "topk: no seed in common with the baseline"),
        ({"topk": {0: 1.0}}, {"margin": 0}, "margin = 0: expected a number of nats above 0"),
        ({"topk": {0: 1.0}}, {"alpha": 5}, "alpha = 5: expected a number between 0 and 1"),
        ({"topk": {0: 1.0}}, {"power": 1}, "power = 1: expected a number between 0 and 1"),
    ],
)
def test_what_cannot_be_judged_is_one_line(methods, options, message):
    with pytest.raises(UserError, match=message) as error:
        verdicts(methods, {0: 1.0, 1: 1.0}, **options)
    assert "\n" not in str(error.value)


def test_holm_and_the_plan_refuse_other_numbers():
    with pytest.raises(UserError, match="expected numbers from 0 to 1"):
        holm([0.5, 1.5])
    with pytest.raises(UserError, match="at least 2 differences are needed"):
        seeds_needed([0.01])
