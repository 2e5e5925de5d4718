"""Pareto sets, hypervolumes and the baseline at equal cross-entropy: against moocore, grids and numpy."""

import itertools

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statistical_checks import binomial_slack, repeatable

from analysis.pareto import baseline_at_equal_ce, hypervolume, hypervolume_over_seeds, pareto_set
from hf_tti.errors import UserError

WAYS = ("lower", "higher", "lower", "higher")
WORST = (6.0, 0.0, 6.0, 0.0)


def _small_sets(dimensions=(2, 3, 4)):
    """Integer points, so that ties and duplicates are common."""
    return st.sampled_from(dimensions).flatmap(
        lambda d: arrays(np.float64, st.tuples(st.integers(1, 8), st.just(d)), elements=st.integers(-1, 7).map(float))
    )


def _dominates(a, b, directions):
    gains = [(y - x) if way == "lower" else (x - y) for x, y, way in zip(a, b, directions, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@repeatable
@given(_small_sets())
def test_the_set_is_moocores(points):
    ways = WAYS[: points.shape[1]]
    maximise = [way == "higher" for way in ways]
    expected = moocore.is_nondominated(points, maximise=maximise, keep_weakly=True)
    assert pareto_set(points, ways).tolist() == expected.tolist()


@repeatable
@given(_small_sets())
def test_a_point_is_in_the_set_iff_no_point_dominates_it(points):
    ways = WAYS[: points.shape[1]]
    for point, kept in zip(points, pareto_set(points, ways), strict=True):
        assert kept == (not any(_dominates(other, point, ways) for other in points))


@repeatable
@given(_small_sets(), st.randoms(use_true_random=False))
def test_the_order_of_points_changes_nothing(points, random):
    ways, order = WAYS[: points.shape[1]], list(range(len(points)))
    random.shuffle(order)
    assert pareto_set(points[order], ways).tolist() == pareto_set(points, ways)[order].tolist()
    reference = WORST[: points.shape[1]]
    assert hypervolume(points[order], reference, ways) == pytest.approx(hypervolume(points, reference, ways))


@repeatable
@given(_small_sets(), st.data())
def test_adding_a_dominated_point_changes_nothing(points, data):
    ways = WAYS[: points.shape[1]]
    loss = data.draw(arrays(np.float64, points.shape[1], elements=st.sampled_from([0.5, 1.0])))
    worse = points[data.draw(st.integers(0, len(points) - 1))] + np.where([w == "lower" for w in ways], loss, -loss)
    more = np.vstack([points, worse])
    assert pareto_set(more, ways).tolist() == [*pareto_set(points, ways).tolist(), False]
    reference = WORST[: points.shape[1]]
    assert hypervolume(more, reference, ways) == pytest.approx(hypervolume(points, reference, ways))


@repeatable
@given(_small_sets())
def test_flipping_a_sign_and_its_direction_changes_nothing(points):
    ways, d = WAYS[: points.shape[1]], points.shape[1]
    flipped, mirror = points.copy(), np.array(WORST[:d])
    flipped[:, 0], mirror[0] = -points[:, 0], -mirror[0]
    other = ("higher", *ways[1:])
    assert pareto_set(flipped, other).tolist() == pareto_set(points, ways).tolist()
    assert hypervolume(flipped, mirror, other) == pytest.approx(hypervolume(points, WORST[:d], ways))


@repeatable
@given(_small_sets(dimensions=(2, 3)))
def test_the_volume_is_a_count_of_unit_cells(points):
    """Integer points: a cell of the grid is dominated or not, so counting cells is exact."""
    d = points.shape[1]
    ways = WAYS[:d]
    costs = np.where([way == "higher" for way in ways], -points, points)
    corner = np.where([way == "higher" for way in ways], -np.array(WORST[:d]), WORST[:d]).astype(int)
    cells = itertools.product(*[range(top - 8, top) for top in corner])  # lower corners of the cells in reach
    below = (costs < corner).all(axis=1)
    count = sum(any((point <= cell).all() for point in costs[below]) for cell in cells)
    assert hypervolume(points, WORST[:d], ways) == pytest.approx(count)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_volume_is_moocores(dimensions, seed):
    points = np.random.default_rng(seed).normal(size=(12, dimensions))
    ways = (WAYS * 2)[:dimensions]
    reference = np.where([way == "higher" for way in ways], -0.5, 0.5)
    if dimensions == 1:
        assert hypervolume(points, reference, ways) == pytest.approx(max(0.0, 0.5 - points.min()))
        return
    expected = moocore.hypervolume(points, ref=reference, maximise=[way == "higher" for way in ways])
    assert expected > 0
    assert hypervolume(points, reference, ways) == pytest.approx(expected, rel=1e-12)


def test_the_volume_is_a_share_of_random_darts():
    rng = np.random.default_rng(3)
    points, darts = rng.uniform(size=(6, 3)), rng.uniform(size=(200_000, 3))
    hit = np.mean((points[:, None] <= darts[None]).all(axis=-1).any(axis=0))
    volume = hypervolume(points, (1, 1, 1), ("lower",) * 3)
    assert hit == pytest.approx(volume, abs=binomial_slack(volume, 200_000))


def test_points_that_do_not_beat_the_reference_add_nothing():
    assert hypervolume([], (1.5, 0.0)) == 0
    assert hypervolume([(1.6, 0.9), (1.5, 0.5), (1.4, 0.0)], (1.5, 0.0)) == 0
    assert hypervolume([(1.6, 0.9), (1.4, 0.5)], (1.5, 0.0)) == pytest.approx(0.05)


def _cloud(num_seeds, seed=0):
    means = np.array([[1.45, 0.2], [1.46, 0.5], [1.50, 0.8], [1.49, 0.3]])
    return means + np.random.default_rng(seed).normal(0, 0.002, (num_seeds, 4, 2)), means


def test_the_interval_over_seeds_leaves_out_one_at_a_time():
    points, _ = _cloud(3)
    found = hypervolume_over_seeds(points, (1.6, 0.0))
    maximise = [False, True]

    def volume(array):
        return moocore.hypervolume(array, ref=[1.6, 0.0], maximise=maximise)

    without = np.array([volume((points[a] + points[b]) / 2) for a, b in [(1, 2), (0, 2), (0, 1)]])
    assert found.estimate.value == pytest.approx(volume(points.mean(axis=0)))
    error = np.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())
    assert found.estimate.standard_error == pytest.approx(error)
    np.testing.assert_allclose(found.per_seed, [volume(one) for one in points])
    assert found.reference == (1.6, 0.0)


def test_the_hypervolume_interval_covers_as_often_as_it_says_where_the_front_is_clear():
    repetitions, covered = 2000, 0
    for seed in range(repetitions):
        points, means = _cloud(3, seed)
        interval = hypervolume_over_seeds(points, (1.6, 0.0)).estimate.interval
        covered += interval.low <= hypervolume(means, (1.6, 0.0)) <= interval.high
    assert covered / repetitions == pytest.approx(0.95, abs=binomial_slack(0.95, repetitions))


def test_one_seed_has_a_volume_and_no_interval():
    points, _ = _cloud(1)
    found = hypervolume_over_seeds(points, (1.6, 0.0))
    assert found.estimate.interval is None
    assert found.per_seed == (found.estimate.value,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto_set([[1.0, np.nan]], labels=["topk"]), "points: the value at topk, 1 is nan, not a number"),
        (lambda: pareto_set([[1.0, None]]), "points: the value at 0, 1 is nan"),
        (lambda: pareto_set([[1.0, 2.0, 3.0]]), r"points: expected rows with a column for every direction, got shape"),
        (lambda: pareto_set([]), "points: expected rows with a column for every direction"),
        (lambda: pareto_set([[1.0, 2.0]], ("lower", "highr")), r"'highr' .*did you mean 'higher'\?"),
        (lambda: hypervolume([[1.0, 2.0]], (np.inf, 0)), "reference point: the value at its row, 0 is inf"),
        (lambda: hypervolume([[1.0, 2.0]], (1.0,)), "reference point: expected rows with a column"),
        (lambda: hypervolume_over_seeds([[1.0, 2.0]], (2, 2)), r"expected \[seeds, methods, coordinates\]"),
        (lambda: baseline_at_equal_ce([1.5, 1.6], [0.1], 1.5), "expected as many metric values as cross-entropies"),
        (lambda: baseline_at_equal_ce([1.5, 1.5], [0.1, 0.2], 1.5), "two different cross-entropies are needed"),
        (lambda: baseline_at_equal_ce([1.5, 1.6], [0.1, np.nan], 1.5), "metric of the baseline's points: .* at 1 is"),
        (lambda: baseline_at_equal_ce([1.5, 1.6], [0.1, 0.2], np.nan), "cross-entropy to read the baseline at"),
    ],
)
def test_what_cannot_be_placed_is_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@repeatable
@given(st.floats(1.40, 1.60))
def test_between_its_points_the_baseline_is_numpys_interpolation(at):
    ce, metric = np.array([1.60, 1.40, 1.52, 1.45]), np.array([0.1, 0.4, 0.25, 0.2])
    order = np.argsort(ce)
    found = baseline_at_equal_ce(ce, metric, at)
    assert found.value == pytest.approx(np.interp(at, ce[order], metric[order]), abs=1e-12)
    assert not found.extrapolated
    assert found.covered == (1.40, 1.60)


@pytest.mark.parametrize(("at", "nearest"), [(1.30, (1.40, 1.45)), (1.70, (1.52, 1.60))])
def test_beyond_its_points_the_line_of_the_two_nearest_goes_on_and_says_so(at, nearest):
    ce, metric = [1.60, 1.40, 1.52, 1.45], [0.1, 0.4, 0.25, 0.2]
    line = np.polyfit(nearest, [metric[ce.index(x)] for x in nearest], 1)
    found = baseline_at_equal_ce(ce, metric, at)
    assert found.value == pytest.approx(np.polyval(line, at))
    assert found.extrapolated


def test_points_of_equal_cross_entropy_are_averaged():
    found = baseline_at_equal_ce([1.5, 1.5, 1.6], [0.1, 0.3, 0.9], 1.5)
    assert (found.value, found.extrapolated) == (pytest.approx(0.2), False)
