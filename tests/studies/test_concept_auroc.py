"""Concept AUROC against scikit-learn on every pair, planted neurons, and activations that know nothing."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from hf_tti.errors import UserError
from hf_tti.studies import concept_auroc
from hf_tti.studies._concepts import concept_bank
from hf_tti.studies.concept_auroc import ConceptAuroc, auroc_matrix, average_ranks
from study_samples import GivenSubject, tiny_sample


def neurons(sample, units: int = 12, seed: int = 0, relu: bool = False) -> np.ndarray:
    """[N, D] that depend on the token, with as many ties as ReLU makes."""
    draw = np.random.RandomState(seed)
    rows = draw.randn(sample.vocab_size, units)[sample.token_ids] + draw.randn(sample.num_tokens, units)
    return (np.maximum(rows, 0) if relu else rows).astype(np.float32)


def measured(activations, sample, **settings) -> dict:
    layers = activations if isinstance(activations, list) else [activations]
    return ConceptAuroc(**{"min_count": 5, **settings}).run(GivenSubject({"mlp.neurons": layers}), sample)


def names_of(results: dict) -> list[str]:
    return bytes(results["concept_names"]).decode().split("\n")


@pytest.mark.parametrize("distinct", [2, 5, 1_000_000])
def test_ranks_are_those_of_scipy(distinct):
    draw = np.random.RandomState(distinct)
    values = (draw.randint(-distinct, distinct, size=(7, 200)) * 1e-3).astype(np.float32)
    values[0, ::2], values[0, 1::4] = 0.0, -0.0
    values[1, 0], values[1, 1] = np.inf, -np.inf
    values[2] = np.float32(1e-44) * draw.randint(-3, 3, size=200)  # smaller than any normal number
    np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=1))
    np.testing.assert_array_equal(average_ranks(values.T), rankdata(values.T, axis=1))


@pytest.mark.parametrize("relu", [False, True])
def test_every_unit_and_concept_is_as_scikit_learn_has_it(relu, monkeypatch):
    monkeypatch.setattr(concept_auroc, "_UNITS", 3)
    sample = tiny_sample()
    bank = concept_bank(sample, min_count=5)
    rows = neurons(sample, units=7, relu=relu)
    assert len(bank.names) > 20
    got = auroc_matrix(rows, bank.holds)
    want = [[roc_auc_score(concept, unit) for unit in rows.T] for concept in bank.holds.T]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("relu", [False, True])
def test_the_concept_is_chosen_on_even_documents_and_scored_on_odd_ones(relu):
    sample = tiny_sample()
    bank, rows = concept_bank(sample, min_count=5), neurons(sample, units=6, relu=relu)
    results = measured(rows, sample, threshold=0.7)
    even, odd = ~sample.for_scoring, sample.for_scoring
    assert names_of(results) == list(bank.names)
    best, scores, detected = [], [], set()
    for i, unit in enumerate(rows.T):
        chosen = max((abs(roc_auc_score(c[even], unit[even]) - 0.5), -k) for k, c in enumerate(bank.holds.T))
        concept = bank.holds[:, -chosen[1]]
        sign = 1 if roc_auc_score(concept[even], unit[even]) >= 0.5 else -1
        best.append(0.5 + chosen[0])
        scores.append(roc_auc_score(concept[odd], sign * unit[odd]))
        assert (results["concept/layer_0"][i], results["sign/layer_0"][i]) == (-chosen[1], sign)
        detected |= {chosen[1]} if scores[-1] >= 0.7 else set()
    np.testing.assert_allclose(results["auroc/layer_0"], scores, atol=1e-7)
    assert results["layer_0"] == results["mean"] == pytest.approx(np.mean(scores))
    assert results["in_sample/layer_0"] == pytest.approx(np.mean(best))
    assert results["detectors/layer_0"] == pytest.approx(np.mean(np.array(scores) >= 0.7))
    assert results["unique_detectors/layer_0"] == len(detected) > 0


def test_each_concept_has_the_unit_that_tells_it_best_on_even_documents():
    sample = tiny_sample()
    bank, rows = concept_bank(sample, min_count=5), neurons(sample, units=6)
    results = measured(rows, sample)
    even, odd = ~sample.for_scoring, sample.for_scoring
    scores = []
    for k in range(0, len(bank.names), 7):
        concept = bank.holds[:, k]
        aurocs = [roc_auc_score(concept[even], unit[even]) for unit in rows.T]
        unit = int(np.argmax(np.abs(np.array(aurocs) - 0.5)))
        sign = 1 if aurocs[unit] >= 0.5 else -1
        scores.append(roc_auc_score(concept[odd], sign * rows[odd, unit]))
        assert results["concept_unit/layer_0"][k] == unit
    np.testing.assert_allclose(results["concept_auroc/layer_0"][::7], scores, atol=1e-7)
    assert results["per_concept/mean"] == pytest.approx(results["concept_auroc/layer_0"].mean(), abs=1e-6)


def test_of_units_that_tell_a_concept_equally_well_in_the_choice_none_is_preferred():
    sample = tiny_sample(documents=60)
    noun = sample.labels["pos"].codes == sample.labels["pos"].names.index("NOUN")
    rows = np.repeat(noun[:, None] * 1.0, 2, axis=1)
    rows[sample.for_scoring, 1] = 0.0  # knows nothing where it counts
    rows[sample.for_scoring & (sample.positions == 0), 1] = 1e-3
    results = [measured(chosen, sample) for chosen in (rows, rows[:, ::-1])]
    assert results[0]["per_concept/mean"] == results[1]["per_concept/mean"]
    place = names_of(results[0]).index("pos=NOUN")
    assert 0.7 < results[0]["concept_auroc/layer_0"][place] < 0.8  # the mean of 1 and about ½


def test_beyond_types_the_choice_is_among_concepts_that_are_no_single_type():
    sample = tiny_sample(documents=60)
    rows = np.stack([sample.token_ids == 1, sample.token_ids == 2, sample.positions == 0], axis=1).astype(np.float32)
    results = measured(rows, sample)
    assert results["mean"] == 1.0
    others = measured(rows, sample, num_types=0)
    assert results["beyond_types/mean"] == pytest.approx(others["mean"]) and others["mean"] < 0.9
    assert others["beyond_types/mean"] == others["mean"]
    assert not any(name.startswith(("token=", "next=")) for name in names_of(others))


def test_planted_concept_neurons_are_found_with_their_sign():
    sample = tiny_sample()
    rows = neurons(sample, units=8)
    verb = sample.labels["pos"].codes == sample.labels["pos"].names.index("VERB")
    rows[:, 1], rows[:, 4] = verb * 3.0 - 1, -2.0 * (sample.positions == 0)
    results = measured(rows, sample)
    names, concept = names_of(results), results["concept/layer_0"]
    assert [names[concept[1]], names[concept[4]]] == ["pos=VERB", "position=0"]
    assert results["auroc/layer_0"][[1, 4]].tolist() == [1, 1] and results["sign/layer_0"][[1, 4]].tolist() == [1, -1]
    assert results["detectors/layer_0"] >= 2 / 8 and results["unique_detectors/layer_0"] >= 2


def test_activations_that_know_nothing_are_at_chance_though_the_best_in_sample_is_not():
    sample = tiny_sample(documents=100)
    noise = np.random.RandomState(1).randn(sample.num_tokens, 400)
    results = measured(noise, sample)
    assert results["mean"] == pytest.approx(0.5, abs=0.01)
    assert results["in_sample/mean"] > 0.57


def test_shuffled_labels_leave_chance_of_a_planted_neuron():
    sample = tiny_sample(documents=100)
    noun = sample.labels["pos"].codes == sample.labels["pos"].names.index("NOUN")
    draw = np.random.RandomState(2)
    rows = noun[:, None] + 0.1 * draw.randn(sample.num_tokens, 200)
    assert measured(rows, sample)["mean"] > 0.99
    null = measured(rows, sample.with_shuffled_labels())
    assert null["mean"] == pytest.approx(0.5, abs=0.03)
    assert null["detectors/mean"] == 0
    assert "shuffled_labels" in ConceptAuroc.null_rows


def test_the_order_and_the_positive_scale_of_units_and_any_increasing_function_change_nothing():
    sample = tiny_sample()
    rows = neurons(sample, units=10, relu=True)
    want = measured(rows, sample)
    order = np.random.RandomState(3).permutation(10)
    changed = np.exp2(np.arange(10) - 5) * rows
    changed[:, 0] = np.float32(5) * rows[:, 0] ** 3 - 2
    got = measured(changed[:, order], sample)
    for key, value in want.items():
        if key.startswith("concept_unit/"):
            got[key] = order[got[key]]
        per_unit = key.startswith(("auroc/", "concept/", "sign/"))
        np.testing.assert_allclose(got[key], value[order] if per_unit else value, rtol=1e-15)


def test_a_constant_unit_is_at_chance():
    sample = tiny_sample()
    rows = neurons(sample, units=3)
    rows[:, 1] = 4.0
    assert measured(rows, sample)["auroc/layer_0"][1] == 0.5


def test_layers_are_apart_and_their_mean_is_the_mean():
    sample = tiny_sample()
    layers = [neurons(sample, units=6, seed=seed) for seed in range(3)]
    results = measured(layers, sample)
    alone = [measured(rows, sample)["layer_0"] for rows in layers]
    assert [results[f"layer_{i}"] for i in range(3)] == alone
    assert results["mean"] == pytest.approx(np.mean(alone))
    assert [results[f"auroc/layer_{i}"].shape for i in range(3)] == [(6,)] * 3


def test_nothing_to_compare_with_gives_nan():
    sample = tiny_sample(documents=1)
    results = measured(neurons(sample), sample)
    assert {"mean", "layer_0", "detectors/mean"} <= results.keys()
    assert all(np.isnan(value) for value in results.values())


def test_a_layer_that_is_not_finite_is_nan_and_left_out_of_the_mean():
    sample = tiny_sample()
    rows = neurons(sample)
    broken = rows.copy()
    broken[3, 2] = np.nan
    results = measured([rows, broken], sample)
    assert np.isnan(results["layer_1"]) and results["mean"] == results["layer_0"]


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"threshold": 0.5}, "threshold: 0.5 must be above 0.5"),
        ({"threshold": 1.1}, "threshold: 1.1 must be at most 1.0"),
        ({"min_count": 0}, "min_count: 0 must be at least 1"),
        ({"num_types": -1}, "num_types: -1 must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_one_line_for_the_user(settings, fragment):
    with pytest.raises(UserError) as caught:
        ConceptAuroc(**settings)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)
