"""Probes against scikit-learn pipelines written out, planted neurons, shuffled labels, and counts by hand."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from hf_tti.data import DataConfig
from hf_tti.errors import UserError
from hf_tti.labels import build_sample
from hf_tti.studies import _probes
from hf_tti.studies._probes import probe_task
from hf_tti.studies.k_sparse_probe import KSparseProbe
from hf_tti.studies.linear_probe import LinearProbe, token_identity_predictions
from hf_tti.studies.sample import Labels, Sample
from hf_tti.studies.subject import Subject
from study_samples import GivenSubject, tiny_sample

UNITS = 12


@pytest.fixture
def sample() -> Sample:
    return tiny_sample(60)


def activations(sample, units: int = UNITS, seed: int = 0) -> np.ndarray:
    """[N, D] that depend on the token, each unit at a scale and a level of its own."""
    draw = np.random.RandomState(seed)
    rows = draw.randn(sample.vocab_size, units)[sample.token_ids] + 2 * draw.randn(sample.num_tokens, units)
    return (rows * np.exp(draw.randn(units)) + draw.randn(units)).astype(np.float32)


def rotation(units: int) -> np.ndarray:
    return np.linalg.qr(np.random.RandomState(1).randn(units, units))[0]


def measured(study, sample, *layers) -> dict:
    return study.run(GivenSubject({"mlp.neurons": list(layers)}), sample)


def halves(sample, field: str = "pos"):
    """Tokens with a label: of even, and of odd documents."""
    known = sample.labels[field].codes >= 0
    return known & (sample.documents % 2 == 0), known & (sample.documents % 2 == 1)


def planted(sample, field: str = "pos", units: int = UNITS) -> np.ndarray:
    """Noise, and from unit 3 on one unit a class that is on for that class alone."""
    rows = np.random.RandomState(2).randn(sample.num_tokens, units)
    for code in range(len(sample.labels[field].names)):
        rows[:, 3 + code] = sample.labels[field].codes == code
    return rows


def test_linear_probe_is_the_pipeline_of_scikit_learn(sample, monkeypatch):
    monkeypatch.setattr(_probes, "_TOLERANCE", 1e-7)
    x, codes, (fit, score) = activations(sample), sample.labels["pos"].codes, halves(sample)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.02 * fit.sum()), tol=1e-8, max_iter=5000))
    predicted = pipeline.fit(x[fit], codes[fit]).predict(x[score])
    found = measured(LinearProbe(l2=0.02), sample, x)
    assert found["layer_0"] == pytest.approx(np.mean(predicted == codes[score]), abs=1e-12)
    assert found["balanced_accuracy/layer_0"] == pytest.approx(balanced_accuracy_score(codes[score], predicted))
    assert found["macro_f1/layer_0"] == pytest.approx(f1_score(codes[score], predicted, average="macro"))
    assert found["confusion/layer_0"].sum() == score.sum() == found["num_scored_tokens/mean"]
    assert np.trace(found["confusion/layer_0"]) / score.sum() == pytest.approx(found["layer_0"])
    assert bytes(found["class_names"]).decode().split("\n") == list(sample.labels["pos"].names)
    assert 0.3 < found["layer_0"] < 0.99  # a case in which something can go wrong


def test_k_sparse_probe_is_the_pipeline_of_scikit_learn(sample, monkeypatch):
    monkeypatch.setattr(_probes, "_TOLERANCE", 1e-7)
    x, codes, (fit, score) = activations(sample), sample.labels["pos"].codes, halves(sample)
    found = measured(KSparseProbe(ks=(1, 3), l2=0.02), sample, x)
    scaled = (x - x[fit].mean(axis=0)) / x[fit].std(axis=0)
    for code in range(len(sample.labels["pos"].names)):
        member = codes == code
        gaps = np.abs(scaled[fit & member].mean(axis=0) - scaled[fit & ~member].mean(axis=0))
        order = np.argsort(-gaps)
        np.testing.assert_array_equal(found["units/layer_0"][code], order[:3])
        for column, k in enumerate((1, 3)):
            model = LogisticRegression(C=1 / (0.02 * fit.sum()), class_weight="balanced", tol=1e-8, max_iter=5000)
            predicted = model.fit(scaled[fit][:, order[:k]], member[fit]).predict(scaled[score][:, order[:k]])
            expected = balanced_accuracy_score(member[score], predicted)
            assert found["balanced_accuracy/layer_0"][code, column] == pytest.approx(expected, abs=1e-6)
            assert found["class_f1/layer_0"][code, column] == pytest.approx(f1_score(member[score], predicted))
    assert found["layer_0"] == pytest.approx(found["balanced_accuracy/layer_0"][:, 0].mean())
    assert found["k_3/f1/mean"] == pytest.approx(found["class_f1/layer_0"][:, 1].mean())


def test_planted_neurons_are_found_with_score_1(sample):
    x = planted(sample)
    assert measured(LinearProbe(), sample, x)["mean"] == 1
    found = measured(KSparseProbe(), sample, x)
    np.testing.assert_array_equal(found["units/layer_0"][:, 0], [3, 4, 5, 6])
    assert found["mean"] == found["f1/mean"] == found["k_5/mean"] == 1


def test_shuffled_labels_leave_chance(sample):
    shuffled = sample.with_shuffled_labels()
    found = measured(LinearProbe(l2=0.5), shuffled, planted(sample))
    assert abs(found["mean"] - found["majority/mean"]) < 0.1
    assert abs(found["token_identity/mean"] - found["majority/mean"]) < 0.1
    assert abs(measured(KSparseProbe(), shuffled, planted(sample))["mean"] - 0.5) < 0.1


def test_a_rotation_breaks_single_units_and_not_the_linear_probe(sample):
    x = planted(sample)
    turned = x @ rotation(UNITS)
    assert measured(LinearProbe(), sample, turned)["mean"] > 0.97
    assert measured(KSparseProbe(), sample, turned)["mean"] < 0.85


@pytest.mark.parametrize("study", [LinearProbe(), KSparseProbe()], ids=["linear", "sparse"])
def test_order_scale_and_level_of_units_change_nothing(study, sample):
    x = activations(sample)
    order = np.random.RandomState(3).permutation(UNITS)
    moved = (x * np.float32(8) + np.float32(4))[:, order]
    before, after = measured(study, sample, x), measured(study, sample, moved)
    assert after["mean"] == pytest.approx(before["mean"], abs=5e-3)
    if "units/layer_0" in before:
        np.testing.assert_array_equal(order[after["units/layer_0"]], before["units/layer_0"])


def test_a_probe_cannot_score_on_what_only_its_documents_know():
    """Units name the document, and labels are random by document: a split by token would score 1."""
    plain = tiny_sample(80)
    moods = np.random.RandomState(4).randint(2, size=80)
    sample = replace(plain, labels={"mood": Labels(("glad", "sad"), moods[plain.documents])})
    x = np.eye(80)[sample.documents]
    by_token = np.arange(sample.num_tokens) % 2 == 0
    leaking = LogisticRegression(C=100).fit(x[by_token], moods[sample.documents][by_token])
    assert leaking.score(x[~by_token], moods[sample.documents][~by_token]) > 0.99
    assert measured(LinearProbe(fields="mood"), sample, x)["mean"] < 0.75
    assert abs(measured(KSparseProbe(fields="mood"), sample, x)["mean"] - 0.5) < 0.1


@pytest.mark.parametrize("max_tokens", [30, 200, 10_000])
def test_no_document_straddles_and_the_first_ones_stay_whole(sample, max_tokens):
    codes = np.random.RandomState(6).randint(2, size=sample.num_tokens)
    sample = replace(sample, labels={"pos": Labels(("a", "b"), codes)})
    task = probe_task(sample, "pos", min_class_tokens=1, max_tokens=max_tokens)
    for half, places in ((0, task.fit), (1, task.score)):
        room, documents = max_tokens, []
        for document in range(half, len(sample.rows), 2):
            if room > 0:
                documents.append(document)
                room -= len(sample.rows[document]) - 1
        np.testing.assert_array_equal(places, np.flatnonzero(np.isin(sample.documents, documents)))


def test_rare_classes_are_left_out_and_counted(sample):
    labels = sample.labels["pos"]
    counts = [min((labels.codes[half] == code).sum() for half in halves(sample)) for code in range(len(labels.names))]
    rarest = int(np.argmin(counts))
    found = measured(LinearProbe(min_class_tokens=int(min(counts)) + 1), sample, activations(sample))
    assert found["num_classes/mean"] == 3 and found["num_classes_left_out/mean"] == 1
    kept = [name for name in labels.names if name != labels.names[rarest]]
    assert bytes(found["class_names"]).decode().split("\n") == kept


def test_baselines_are_those_counted_by_hand(sample):
    codes = np.random.RandomState(5).randint(3, size=sample.num_tokens)
    sample = replace(sample, labels={"pos": Labels(("a", "b", "c"), codes)})
    fit, score = halves(sample)
    seen: dict[int, Counter] = defaultdict(Counter)
    for token, code in zip(sample.token_ids[fit], codes[fit], strict=True):
        seen[token][code] += 1
    majority = min(Counter(codes[fit]).items(), key=lambda item: (-item[1], item[0]))[0]
    most_common = {token: min(c.items(), key=lambda item: (-item[1], item[0]))[0] for token, c in seen.items()}
    expected = [most_common.get(token, majority) for token in sample.token_ids[score]]
    task = probe_task(sample, "pos", min_class_tokens=1, max_tokens=10_000)
    np.testing.assert_array_equal(token_identity_predictions(sample, task), expected)
    found = measured(LinearProbe(), sample, activations(sample))
    assert found["token_identity/mean"] == pytest.approx(np.mean(codes[score] == expected))
    assert found["majority/mean"] == pytest.approx(np.mean(codes[score] == majority))


def test_units_that_name_the_token_solve_the_control_task_and_select_nothing(sample):
    """pos is a function of the token; so is the control task."""
    one_hot = np.eye(sample.vocab_size)[sample.token_ids]
    found = measured(LinearProbe(l2=1e-4), sample, one_hot)
    assert found["mean"] > 0.97 and found["control/mean"] > 0.95
    assert found["selectivity/mean"] == pytest.approx(found["mean"] - found["control/mean"])
    by_class = measured(LinearProbe(l2=1e-4), sample, planted(sample))
    assert by_class["mean"] == 1 and by_class["selectivity/mean"] > 0.2


def test_several_fields_and_layers_have_keys_of_their_own(sample):
    x = activations(sample)
    one, two = (
        measured(LinearProbe(fields=fields), sample, x, planted(sample)) for fields in (("pos",), ("pos", "mood"))
    )
    for name in ("layer_0", "layer_1", "mean"):
        assert two[f"pos/{name}"] == one[name]
        assert two[f"control/pos/{name}"] == one[f"control/{name}"]
    assert two["majority/pos/mean"] == one["majority/mean"]
    assert "mood/layer_1" in two and "mean" not in two and "class_names/mood" in two
    assert one["mean"] == pytest.approx((one["layer_0"] + one["layer_1"]) / 2)


@pytest.mark.parametrize("study", [LinearProbe, KSparseProbe])
def test_nothing_to_ask_gives_nan(study, sample):
    x = activations(sample)
    assert np.isnan(measured(study(), tiny_sample(60, labelled=False), activations(tiny_sample(60)))["mean"])
    assert list(measured(study(fields=("number",)), sample, x)) == ["mean"]
    assert np.isnan(measured(study(min_class_tokens=10_000), sample, x)["mean"])
    only_one = tiny_sample(1)  # nothing to score on
    assert np.isnan(measured(study(min_class_tokens=1), only_one, activations(only_one))["mean"])
    two = measured(study(fields=("pos", "number")), sample, x)
    assert np.isnan(two["number/mean"]) and two["pos/mean"] > 0


@pytest.mark.parametrize("study", [LinearProbe, KSparseProbe])
def test_activations_that_are_not_finite_give_nan_and_dead_units_do_not(study, sample):
    x = activations(sample)
    x[:, 0] = 0
    broken = x.copy()
    broken[7, 1] = np.inf
    found = measured(study(), sample, x, broken)
    assert np.isnan(found["layer_1"]) and found["mean"] == found["layer_0"] > 0


@pytest.mark.parametrize("ks", [(), (0, 1), (-2,)])
def test_a_number_of_units_that_is_none_is_refused(ks):
    with pytest.raises(UserError, match="k_sparse_probe.ks"):
        KSparseProbe(ks=ks)


def test_more_units_than_there_are_means_all_of_them(sample):
    found = measured(KSparseProbe(ks=(1, 99)), sample, planted(sample))
    assert found["units/layer_0"].shape == (4, UNITS) and found["k_99/mean"] == 1


def test_the_library_that_is_missing_is_named(sample, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UserError, match=r'scikit-learn is not installed: pip install "hf-tti\[analysis\]"$'):
        measured(LinearProbe(), sample, activations(sample))


def test_brown_fiction_in_a_random_model(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "gpt2-tokenizer")
    sample = build_sample(
        tokenizer,
        data=DataConfig(),
        labels=str(real_data / "pos" / "brown_fiction.train.jsonl"),
        max_tokens=12_000,
        max_length=256,
    )
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=256, vocab_size=len(tokenizer))
    subject = Subject(AutoModelForCausalLM.from_config(config), ["mlp.neurons"])
    found = LinearProbe().run(subject, sample)
    assert 0.8 < found["token_identity/mean"] < 0.95
    assert found["majority/mean"] < found["mean"] < found["token_identity/mean"]
    assert found["num_classes/mean"] >= 10
    assert 0.5 < KSparseProbe().run(subject, sample)["mean"] < 0.8
