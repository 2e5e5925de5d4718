"""Every metric against its definition written out by hand, and on cases with a known answer."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.metrics._moments import _product_of_parts
from hf_tti.metrics._token_types import _half_a_row_on
from hf_tti.metrics.activation_sparsity import ActivationSparsity
from hf_tti.metrics.correlation import Correlation
from hf_tti.metrics.cosine_similarity import CosineSimilarity
from hf_tti.metrics.l0 import L0
from hf_tti.metrics.neuron_density import NeuronDensity
from hf_tti.metrics.participation_ratio import ParticipationRatio
from hf_tti.metrics.token_entropy import TokenEntropy
from hf_tti.metrics.token_selectivity import TokenSelectivity
from metric_forwards import float32, measured, numpy_rows, random_forward


def one_site(rows: np.ndarray, ids: np.ndarray | None = None, out_weight=None) -> ForwardPass:
    """A batch of one row of tokens with these activations [N, D]."""
    ids = np.zeros(len(rows), dtype=np.int64) if ids is None else ids
    site = Site(float32(rows)[None], 0, "mlp.neurons", out_weight)
    mask = torch.ones(1, len(rows), dtype=torch.bool)
    return ForwardPass(torch.from_numpy(ids)[None], mask, {"h.0.mlp.act": site})


def writes(forward: ForwardPass) -> np.ndarray:
    rows, _, norm = numpy_rows(forward)
    return np.abs(rows) * norm


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("threshold", [0.01, 0.3])
def test_activation_sparsity_is_the_share_of_small_writes(relu, threshold):
    metric = ActivationSparsity(threshold=threshold)
    forward = random_forward(metric, relu=relu)
    u = writes(forward)
    below = [value == 0 or value < threshold * max(row) for row in u for value in row]
    values = measured(metric, forward)
    assert values["layer_0"] == pytest.approx(np.mean(below))
    assert values["zeros/layer_0"] == pytest.approx((u == 0).mean())


def test_a_token_that_writes_nothing_is_all_below_threshold():
    values = measured(ActivationSparsity(), one_site(np.zeros((3, 4))))
    assert values["layer_0"] == values["zeros/layer_0"] == 1.0


@pytest.mark.parametrize("relu", [False, True])
def test_l0_counts_units_that_fire(relu):
    metric = L0(threshold=0.2)
    forward = random_forward(metric, relu=relu)
    rows, u = numpy_rows(forward)[0], writes(forward)
    fires = rows > 0 if relu else u >= 0.2 * u.max(axis=1, keepdims=True)
    assert 0 < fires.sum() < fires.size
    assert measured(metric, forward)["layer_0"] == pytest.approx(fires.sum(axis=1).mean())


def test_l0_firing_can_be_chosen():
    rows = np.array([[1.0, -1.0, 0.0, 0.001]])
    values = {
        firing: measured(L0(firing=firing), one_site(rows))["layer_0"]
        for firing in ("auto", "positive", "nonzero", "write")
    }
    assert values == {"auto": 2.0, "positive": 2.0, "nonzero": 3.0, "write": 2.0}
    assert measured(L0(), one_site(np.abs(rows)))["layer_0"] == 3.0  # ReLU-like: small counts


def test_neuron_density_is_the_share_of_tokens_and_dead_means_never():
    rows = np.zeros((200, 4))
    rows[0, 1], rows[:100, 2], rows[:, 3] = 1.0, 1.0, 2.0
    values = measured(NeuronDensity(), one_site(rows))
    np.testing.assert_allclose(values["density/layer_0"], [0.0, 0.005, 0.5, 1.0])
    shares = [values[f"{name}/layer_0"] for name in ("dead", "rare", "always_on")]
    assert shares == [0.25, 0.25, 0.25]
    assert values["layer_0"] * 4 == pytest.approx(measured(L0(), one_site(rows))["layer_0"])


def entropy_by_hand(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    result = []
    for unit in np.abs(rows).T:
        mass = Counter()
        for token, value in zip(ids, unit, strict=True):
            mass[token] += value
        p = [value / unit.sum() for value in mass.values() if value > 0]
        result.append(-sum(value * math.log(value) for value in p))
    return np.array(result)


def test_token_entropy_is_the_entropy_of_mass_over_types():
    metric = TokenEntropy()
    forward = random_forward(metric)
    rows, ids, _ = numpy_rows(forward)
    want = entropy_by_hand(rows, ids)
    values = measured(metric, forward)
    np.testing.assert_allclose(values["entropy/layer_0"], want, rtol=1e-6)
    assert values["layer_0"] == pytest.approx(want.mean(), rel=1e-6)
    ones = np.ones((len(ids), 1))
    assert values["unigram/layer_0"] == pytest.approx(entropy_by_hand(ones, ids)[0])


def test_token_entropy_reaches_its_bounds_and_leaves_massless_units_out():
    ids = np.arange(8)
    rows = np.zeros((8, 3))
    rows[5, 0], rows[:, 1] = 2.0, -3.0
    values = measured(TokenEntropy(), one_site(rows, ids))
    np.testing.assert_allclose(values["entropy/layer_0"], [0.0, math.log(8), math.nan], atol=1e-12)
    assert values["layer_0"] == pytest.approx(math.log(8) / 2)
    assert values["massless/layer_0"] == pytest.approx(1 / 3)


def shares_by_hand(rows: np.ndarray, ids: np.ndarray, norm: np.ndarray, num_classes: int):
    w = rows * norm
    x = w / (np.abs(w) + np.abs(w).mean(axis=1, keepdims=True))
    ranked = sorted(Counter(ids.tolist()).items(), key=lambda item: (-item[1], item[0]))
    classes = [token for token, count in ranked[:num_classes] if count >= 2]
    kept = sum(count for token, count in ranked if token in classes)
    result = []
    for unit in x.T:
        groups = {c: unit[ids == c] for c in classes}
        p = {c: len(groups[c]) / kept for c in classes}
        inside = {c: np.mean([(a - b) ** 2 / 2 for a, b in itertools.combinations(groups[c], 2)]) for c in classes}
        between = 0.0
        for c, d in itertools.combinations(classes, 2):
            across = np.mean([(a - b) ** 2 / 2 for a in groups[c] for b in groups[d]])
            between += p[c] * p[d] * (2 * across - inside[c] - inside[d])
        result.append(between / (between + sum(p[c] * inside[c] for c in classes)))
    return np.array(result), classes


@pytest.mark.parametrize("num_classes", [3, 256])
def test_token_selectivity_is_the_share_of_pairs(num_classes):
    metric = TokenSelectivity(num_classes=num_classes)
    forward = random_forward(metric, rows=12)
    want, classes = shares_by_hand(*numpy_rows(forward), num_classes)
    values = measured(metric, forward)
    np.testing.assert_allclose(values["share/layer_0"], want, rtol=1e-4, atol=1e-6)
    assert values["layer_0"] == pytest.approx(want.mean(), rel=1e-5)
    assert values["classes/layer_0"].tolist() == classes


def test_token_selectivity_is_one_for_a_function_of_the_token_and_zero_under_permutation():
    draw = np.random.RandomState(0)
    ids = draw.randint(0, 6, size=120)
    rows = draw.randn(6, 8)[ids]
    assert measured(TokenSelectivity(), one_site(rows, ids))["layer_0"] == pytest.approx(1.0)
    noise = draw.randn(120, 8)
    shuffled = [measured(TokenSelectivity(), one_site(noise, draw.permutation(ids)))["layer_0"] for _ in range(200)]
    assert abs(np.mean(shuffled)) < 4 * np.std(shuffled) / math.sqrt(len(shuffled))
    # The share without the correction for sampling would be (classes − 1)/N = 0.04.
    assert abs(np.mean(shuffled)) < 0.005


def test_a_loud_unit_does_not_make_the_others_look_selective():
    draw = np.random.RandomState(1)
    ids = draw.randint(0, 4, size=2000)
    rows = np.abs(draw.randn(2000, 512))
    rows[:, 0] = 20.0 * (ids == 0)
    share = measured(TokenSelectivity(), one_site(rows, ids))["share/layer_0"]
    assert share[0] > 0.99
    assert share[1:].mean() < 2e-3
    # Had the scale been the token's largest write:
    by_largest = rows / rows.max(axis=1, keepdims=True)
    means = np.stack([by_largest[ids == c, 1:].mean(axis=0) for c in range(4)])
    assert (means.var(axis=0) / by_largest[:, 1:].var(axis=0)).mean() > 0.2


def test_the_null_of_a_token_reader_is_near_zero_selectivity_and_unigram_entropy():
    draw = np.random.RandomState(2)
    ids = draw.randint(0, 5, size=(40, 50))
    rows = np.maximum(draw.randn(5, 16), 0)[ids] + 0.1
    site = {"h.0.mlp.act": Site(float32(rows))}
    forward = ForwardPass(torch.from_numpy(ids), torch.ones(40, 50, dtype=torch.bool), site)
    share = measured(TokenSelectivity(null=True), forward)
    assert share["layer_0"] > 0.9
    assert abs(share["null/layer_0"]) < 0.01
    entropy = measured(TokenEntropy(null=True), forward)
    assert entropy["layer_0"] < entropy["unigram/layer_0"] - 0.1
    assert entropy["null/layer_0"] == pytest.approx(entropy["unigram/layer_0"], abs=0.01)


def test_the_null_shifts_real_tokens_half_a_row_and_leaves_pad_out():
    ids = torch.tensor([[1, 2, 3, 4, 9, 9], [9, 5, 9, 6, 7, 9], [8, 9, 9, 9, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]]).bool()
    shifted = _half_a_row_on(ids, mask)
    assert [shifted[row][mask[row]].tolist() for row in range(3)] == [[3, 4, 1, 2], [6, 7, 5], [8]]


def test_cosine_similarity_is_the_mean_over_pairs_of_different_units():
    metric = CosineSimilarity()
    forward = random_forward(metric, rows=10)
    rows, _, _ = numpy_rows(forward)
    pairs = [abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in itertools.combinations(rows.T, 2)]
    values = measured(metric, forward)
    assert values["layer_0"] == pytest.approx(np.mean(pairs), abs=1e-6)
    matrix = values["matrix/layer_0"]
    np.testing.assert_allclose(np.abs(matrix[np.triu_indices(10, 1)]), pairs, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_cosine_and_correlation_are_exact_to_1e_5_over_many_batches(mean):
    draw = np.random.RandomState(3)
    batches = [(draw.randn(700, 24) @ draw.randn(24, 24) + mean * (i == 0)).astype(np.float32) for i in range(12)]
    rows = np.concatenate(batches).astype(np.float64)
    forwards = [one_site(batch) for batch in batches]
    cosine = measured(CosineSimilarity(), *forwards)["matrix/layer_0"]
    norms = np.linalg.norm(rows, axis=0)
    np.testing.assert_allclose(cosine, rows.T @ rows / np.outer(norms, norms), atol=1e-5)
    rho = measured(Correlation(), *forwards)["matrix/layer_0"]
    np.testing.assert_allclose(rho, np.corrcoef(rows.T), atol=1e-5)


def test_a_large_mean_cancels_nothing():
    draw = np.random.RandomState(4)
    rows = (draw.randn(4000, 6) @ draw.randn(6, 6) + 1000.0).astype(np.float32)
    halves = [one_site(half) for half in np.split(rows, 2)]
    rho = measured(Correlation(), *halves)["matrix/layer_0"]
    np.testing.assert_allclose(rho, np.corrcoef(rows.astype(np.float64).T), atol=1e-5)


def test_correlation_is_the_mean_square_over_pairs_minus_the_floor():
    metric = Correlation()
    forward = random_forward(metric, rows=10)
    rows, _, _ = numpy_rows(forward)
    rho = np.corrcoef(rows.T)[np.triu_indices(10, 1)]
    values = measured(metric, forward)
    assert values["layer_0"] == pytest.approx((rho**2).mean() - 1 / (len(rows) - 1), abs=1e-6)
    assert values["abs/layer_0"] == pytest.approx(np.abs(rho).mean(), abs=1e-6)


def test_correlation_of_independent_units_is_zero_in_expectation():
    draw = np.random.RandomState(5)
    values = [measured(Correlation(), one_site(draw.randn(30, 12)))["layer_0"] for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 0.1 / 29


def test_constant_units_are_dead_to_correlation_whatever_their_value():
    rows = np.random.RandomState(6).randn(64, 5)
    rows[:, 0], rows[:, 1] = 0.0, 12.345
    values = measured(Correlation(variance_floor=0.0), *[one_site(h) for h in np.split(rows, 2)])
    assert values["dead/layer_0"] == pytest.approx(0.4)
    assert np.isnan(values["matrix/layer_0"][:2]).all()
    assert np.isfinite(values["matrix/layer_0"][2:, 2:]).all()


def test_units_that_hardly_vary_around_a_large_mean_are_not_taken_for_constant():
    draw = np.random.RandomState(8)
    rows = np.repeat(draw.randn(400, 1), 4, axis=1) + 0.5 * draw.randn(400, 4)
    rows[:, 0] = 1000.0 + 0.01 * rows[:, 0]
    rows[:, 3] = 1000.0
    rows = float32(rows).double().numpy()
    values = measured(Correlation(variance_floor=0.0), one_site(rows))
    np.testing.assert_allclose(values["matrix/layer_0"][:3, :3], np.corrcoef(rows[:, :3].T), atol=1e-5)
    assert np.isnan(values["matrix/layer_0"][3]).all()


@pytest.mark.parametrize("units", [1, 128, 300])
def test_wide_layers_are_multiplied_as_narrow_ones_are(units):
    rows = float32(np.random.RandomState(9).randn(50, units) + 0.3).double().numpy()
    unit = rows / np.linalg.norm(rows, axis=0)
    cosine = measured(CosineSimilarity(sites=("mlp.neurons",)), one_site(rows))["matrix/layer_0"]
    np.testing.assert_allclose(cosine, unit.T @ unit, atol=1e-6)


def test_participation_ratio_is_that_of_the_eigenvalues():
    metric = ParticipationRatio()
    forward = random_forward(metric, rows=10)
    rows, _, norm = numpy_rows(forward)
    spectrum = np.linalg.eigvalsh(np.cov((rows * norm).T))
    values = measured(metric, forward)
    assert values["layer_0"] == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=1e-6)
    variances = np.var(rows * norm, axis=0)
    share = variances.max() / variances.sum()
    assert values["largest_unit_share/layer_0"] == pytest.approx(share, rel=1e-6)


def test_participation_ratio_reaches_its_bounds():
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=4)))
    assert measured(ParticipationRatio(), one_site(signs))["layer_0"] == pytest.approx(4.0)
    line = np.outer(np.arange(9.0), [1.0, -2.0, 3.0])
    assert measured(ParticipationRatio(), one_site(line))["layer_0"] == pytest.approx(1.0)
    assert math.isnan(measured(ParticipationRatio(), one_site(np.full((9, 3), 0.1)))["layer_0"])


def test_participation_ratio_can_leave_out_the_first_positions():
    rows = np.random.RandomState(7).randn(50, 4)
    rows[:2] *= 1000.0
    values = measured(ParticipationRatio(skip_positions=2), one_site(rows))
    want = measured(ParticipationRatio(), one_site(rows[2:]))
    assert values["layer_0"] == pytest.approx(want["layer_0"], rel=1e-6)
    assert measured(ParticipationRatio(), one_site(rows))["layer_0"] < want["layer_0"] - 1


def test_the_product_for_tensor_cores_is_the_product_and_its_large_parts_fit_ten_bits():
    rows = torch.randn(512, 16)
    wanted = rows.double().T @ rows.double()
    torch.testing.assert_close(_product_of_parts(rows).double(), wanted, rtol=1e-5, atol=512 * 1e-6)
    high = (rows.view(torch.int32) & ~0x1FFF).view(torch.float32)
    mantissa, _ = torch.frexp(high)
    assert torch.equal((mantissa * 2**11).round(), mantissa * 2**11)
    assert float(((rows - high).abs() / rows.abs()).max()) <= 2**-10
