"""CKA against its definition with N × N matrices, what it must not see, and its freedom from bias."""

import numpy as np
import pytest
import torch

from hf_tti.errors import UserError
from hf_tti.studies import cka
from hf_tti.studies.cka import Cka, cka_matrix
from hf_tti.studies.subject import Subject
from study_samples import GivenSubject, tiny_sample
from tiny import VOCAB, tiny_model


def features(tokens: int, units: int, seed: int = 0) -> torch.Tensor:
    """[N, D] with unequal variances and a mean that is not zero."""
    draw = np.random.RandomState(seed)
    return torch.from_numpy(draw.randn(tokens, units) @ draw.randn(units, units) + 3 * draw.randn(units)).float()


def hsic_of_grams(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC₁, equation 5 of Song et al. 2012, word by word."""
    n, ones = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def cka_of_grams(x: torch.Tensor, y: torch.Tensor) -> float:
    k, m = (z.double().numpy() @ z.double().numpy().T for z in (x, y))
    return hsic_of_grams(k, m) / np.sqrt(hsic_of_grams(k, k) * hsic_of_grams(m, m))


def biased_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kornblith et al. 2019."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def of_pair(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(cka_matrix([x], [y])[0, 0])


@pytest.mark.parametrize("tokens", [4, 5, 30, 80])
@pytest.mark.parametrize("rows_at_a_time", [7, 2048])
def test_it_is_the_definition_with_gram_matrices(tokens, rows_at_a_time, monkeypatch):
    monkeypatch.setattr(cka, "_ROWS", rows_at_a_time)
    layers = [features(tokens, units, seed) for seed, units in enumerate((7, 7, 50))]
    layers.append(layers[0] @ features(7, 9) + 0.5 * features(tokens, 9, seed=8))
    got = cka_matrix(layers, layers)
    for i, x in enumerate(layers):
        for j, y in enumerate(layers):
            assert got[i, j] == pytest.approx(cka_of_grams(x, y), rel=1e-9, abs=1e-12, nan_ok=True)


def test_layers_by_other_layers_are_the_corner_of_all_by_all():
    layers = [features(40, units, seed) for seed, units in enumerate((5, 6, 7, 8, 9))]
    whole = cka_matrix(layers, layers)
    np.testing.assert_allclose(cka_matrix(layers[:2], layers[2:]), whole[:2, 2:], rtol=1e-12)
    np.testing.assert_array_equal(whole, whole.T)


def test_a_copy_is_wholly_alike_whatever_its_rotation_scale_and_place():
    x, y = features(60, 8), features(60, 5, seed=1) + features(60, 8)[:, :5]
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    changed = (1e3 * x.double() @ turn + 7).float()
    assert of_pair(x, x.clone()) == pytest.approx(1.0, abs=1e-12)
    assert of_pair(x, changed) == pytest.approx(1.0, abs=1e-5)
    assert 0.05 < of_pair(x, y) < 0.95
    assert of_pair(changed, y) == pytest.approx(of_pair(x, y), rel=1e-4)


def test_more_than_a_rotation_is_seen():
    x = features(60, 8)
    assert of_pair(x, x * torch.tensor([10.0] + 7 * [0.1])) < 0.9


def test_independent_features_average_zero_where_fewer_tokens_than_units_fool_the_biased_estimator():
    draw = np.random.RandomState(0)
    pairs = [[torch.from_numpy(draw.randn(24, 64)) for _ in range(2)] for _ in range(300)]
    values = np.array([of_pair(x, y) for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values)) < 0.02
    assert (values < 0).mean() > 0.3
    assert np.mean([biased_cka(x, y) for x, y in pairs]) > 0.6


def test_the_number_of_tokens_does_not_move_the_expectation():
    draw = np.random.RandomState(1)
    mixing = np.vstack((np.eye(10), np.zeros((10, 10))))

    def mean_at(tokens: int, repeats: int) -> float:
        found = []
        for _ in range(repeats):
            x = draw.randn(tokens, 20)
            found.append(of_pair(torch.from_numpy(x), torch.from_numpy(x @ mixing + draw.randn(tokens, 10))))
        return np.mean(found)

    assert mean_at(40, 300) == pytest.approx(mean_at(1500, 5), abs=0.03)


def test_a_layer_that_does_not_vary_and_too_few_tokens_give_nan():
    x = features(40, 6)
    constant = torch.full((40, 3), 1.7)
    matrix = cka_matrix([x, constant], [x, constant])
    assert np.isnan(matrix[[0, 1, 1], [1, 0, 1]]).all() and matrix[0, 0] == pytest.approx(1.0)
    for tokens in (0, 1, 3):
        assert np.isnan(cka_matrix([x[:tokens]], [x[:tokens]])).all()


# ---- The study ---------------------------------------------------------------------------------


def given(sample, layers: int, *, sites=("resid",), seed: int = 0) -> GivenSubject:
    return GivenSubject(
        {
            site: [features(sample.num_tokens, 6, seed=100 * seed + 10 * i + place) for i in range(layers)]
            for place, site in enumerate(sites)
        }
    )


def test_a_layer_is_compared_with_the_next_one():
    sample = tiny_sample()
    subject = given(sample, 3)
    results = Cka().run(subject, sample)
    matrix = results["matrix"]
    assert set(results) == {"layer_0", "layer_1", "mean", "matrix"} and matrix.shape == (3, 3)
    assert [results["layer_0"], results["layer_1"]] == [matrix[0, 1], matrix[1, 2]]
    assert results["mean"] == pytest.approx((matrix[0, 1] + matrix[1, 2]) / 2)
    np.testing.assert_array_equal(matrix.diagonal(), 1.0)


def test_a_single_layer_has_no_next_one():
    sample = tiny_sample()
    results = Cka().run(given(sample, 1), sample)
    assert np.isnan(results["mean"]) and results["matrix"].tolist() == [[1.0]]


def test_sites_are_compared_but_not_chained():
    sample, sites = tiny_sample(), ("resid", "mlp.out")
    results = Cka(sites=sites).run(given(sample, 2, sites=sites), sample)
    assert set(results) == {f"{site}/{key}" for site in sites for key in ("layer_0", "mean")} | {"matrix"}
    assert results["mlp.out/layer_0"] == results["matrix"][2, 3] and results["matrix"].shape == (4, 4)


def test_the_reference_has_its_own_depth_and_width():
    model, deep = tiny_model("gpt2"), tiny_model("gpt2", seed=1, n_layer=3, n_embd=20)
    sample = tiny_sample()
    results = Cka().run(Subject(model), sample, Subject(deep))
    matrix = results["reference_matrix"]
    assert matrix.shape == (2, 3) and matrix.max() < 1
    assert [results["reference/layer_0"], results["reference/layer_1"]] == [matrix[0, 0], matrix[1, 1]]
    assert results["reference/mean"] == pytest.approx(matrix.diagonal().mean())
    assert "reference/layer_2" not in results


def test_a_model_is_its_own_reference():
    sample, model = tiny_sample(), tiny_model("llama")
    results = Cka().run(Subject(model), sample, Subject(model))
    np.testing.assert_allclose(results["reference_matrix"], results["matrix"], rtol=1e-9)
    assert results["reference/mean"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"vocab_size": VOCAB + 1}, "reference: its vocabulary has 62 tokens, the model's 61"),
        ({"n_positions": 8}, "reference: it takes 8 positions, the sample's longest document has 31"),
    ],
)
def test_a_reference_that_cannot_read_the_same_tokens_is_refused(changes, fragment):
    reference = Subject(tiny_model("gpt2", **changes))
    with pytest.raises(UserError) as caught:
        Cka().run(Subject(tiny_model("gpt2")), tiny_sample(documents=60), reference)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)
