"""Laws of the metrics inside HuggingFace's `evaluate`: `hf-tti evaluate`'s numbers, one pass for all, no network."""

import importlib
import json
import math
import random
import socket
import sys
from pathlib import Path

import pytest

evaluate = pytest.importorskip("evaluate")

from hf_tti import for_evaluate  # noqa: E402
from hf_tti.components import component_names  # noqa: E402
from hf_tti.data._tokenizers import train_tokenizer  # noqa: E402
from hf_tti.errors import UserError  # noqa: E402
from hf_tti.evaluate import evaluate_checkpoint  # noqa: E402
from hf_tti.for_evaluate import as_evaluate_metric, as_evaluate_metrics  # noqa: E402
from hf_tti.loading import load_model  # noqa: E402
from hf_tti.metrics.l0 import L0  # noqa: E402
from tiny import tiny_model  # noqa: E402

METRICS = [*component_names("metrics"), "perplexity"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(0)
    words = "the cat dog Lily Tom saw ran to liked a big tree red ball and then was happy sad".split()
    return [" ".join(draw.choices(words, k=draw.randint(3, 40))) + "." for _ in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, texts) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    tokenizer = train_tokenizer(iter(texts), 280, 10_000)
    eos = tokenizer.eos_token_id
    tiny_model("gpt2", vocab_size=len(tokenizer), eos_token_id=eos, bos_token_id=eos).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _cut_off(tmp_path, monkeypatch):
    """No network, and `evaluate`'s files in a folder of the test's own."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("nothing here may open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "evaluate")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The models that were loaded."""
    loaded = []

    def counted(place):
        loaded.append(place.given)
        return load_model(place)

    monkeypatch.setattr(for_evaluate, "load_model", counted)
    return loaded


def test_values_are_those_of_hf_tti_evaluate(model, texts, tmp_path, loads):
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    want = evaluate_checkpoint(
        model, data=str(tmp_path / "validation.jsonl"), metrics=component_names("metrics"), nulls=[], cache_dir=tmp_path
    ).metrics
    combined = evaluate.combine(as_evaluate_metrics(METRICS))
    got = combined.compute(predictions=[*texts, "  "], model_id=str(model))
    assert got.keys() == want.keys()
    assert got == pytest.approx(
        {key: math.nan if value is None else value for key, value in want.items()}, abs=1e-6, nan_ok=True
    )
    assert loads == [str(model)]  # once, for all


def test_one_alone_says_what_it_says_among_others(model, texts):
    together = evaluate.combine(as_evaluate_metrics(METRICS)).compute(predictions=texts, model_id=str(model))
    for name in ("token_entropy", "top_contexts", "perplexity"):
        alone = as_evaluate_metric(name).compute(predictions=texts, model_id=str(model))
        assert alone == pytest.approx({key: together[key] for key in alone}, nan_ok=True)
        if name != "perplexity":
            assert f"{name}/mean" in alone and all(key.startswith(f"{name}/") for key in alone)
        else:
            assert alone["perplexity"] == pytest.approx(math.exp(alone["loss"]))


def test_settings_and_labels_are_the_callers(model, texts):
    loose, tight = L0(threshold=0.5), L0(threshold=0.001)
    found = evaluate.combine(as_evaluate_metrics({"loose": loose, "tight": tight})).compute(
        predictions=texts, model_id=str(model)
    )
    assert found["loose/mean"] < found["tight/mean"]
    alone = as_evaluate_metric("l0", threshold=0.5).compute(predictions=texts, model_id=str(model))
    assert alone["l0/mean"] == pytest.approx(found["loose/mean"])


def test_other_texts_another_length_or_further_training_are_another_pass(model, texts, tmp_path, loads):
    first, second = as_evaluate_metrics(["l0", "token_entropy"])

    def ask(metric, texts=texts, folder=model, **reading):
        return metric.compute(predictions=texts, model_id=str(folder), **reading)

    whole = ask(first)
    assert ask(second) and len(loads) == 1
    assert ask(second) and len(loads) == 2  # nobody is given an answer twice
    assert ask(first, texts[:7]) != whole and len(loads) == 3
    ask(second)
    assert len(loads) == 4  # not of the seven texts
    assert ask(first, max_length=9) and len(loads) == 5
    folder = Path(tmp_path / "training")
    for seed in (0, 1):
        tiny_model("gpt2", seed=seed, vocab_size=280).save_pretrained(folder)
        for file in model.glob("tokenizer*"):
            (folder / file.name).write_bytes(file.read_bytes())
        found = ask((first, second)[seed], folder=folder)
        assert found and len(loads) == 6 + seed


def test_texts_may_come_one_by_one(model, texts):
    metric = as_evaluate_metric("perplexity")
    for text in texts:
        metric.add(prediction=text)
    want = metric.compute(model_id=str(model))
    assert metric.compute(predictions=texts, model_id=str(model)) == want


def test_metrics_side_by_side_have_files_of_their_own(texts, tmp_path):
    one, other = as_evaluate_metric("l0"), as_evaluate_metric("l0")
    for metric in (one, other):
        metric.add_batch(predictions=texts)
        metric.writer.write_examples_on_file()
    assert one.cache_file_name != other.cache_file_name
    assert all(Path(metric.cache_file_name).is_relative_to(tmp_path) for metric in (one, other))


def test_a_metric_introduces_itself(tmp_path):
    metric = as_evaluate_metric("activation_sparsity", cache_dir=str(tmp_path / "mine"))
    assert metric.name == "activation_sparsity" and metric.greater_is_better is True
    assert metric.description.startswith("Activation sparsity: the share of units")
    assert "model_id" in metric.inputs_description and "model_id" in metric.compute.__doc__
    assert (tmp_path / "mine").is_dir()
    assert as_evaluate_metric("perplexity").greater_is_better is False


def test_results_are_saved_as_json(model, texts, tmp_path):
    found = as_evaluate_metric("l0").compute(predictions=texts, model_id=str(model))
    path = evaluate.save(tmp_path / "results.json", model=str(model), **found)
    saved = json.loads(path.read_text())
    assert {key: saved[key] for key in found} == found


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: as_evaluate_metric("activation_sparsty"), "did you mean 'activation_sparsity'"),
        (lambda: as_evaluate_metric("perplexity", threshold=1), "has no settings"),
        (lambda: as_evaluate_metric("l0", treshold=0.1), "'treshold'"),
        (lambda: as_evaluate_metric("l0", threshold=2.0), "l0.threshold: 2.0 must be"),
    ],
)
def test_a_mistake_is_one_line(call, fragment):
    with pytest.raises(UserError) as caught:
        call()
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_to_read_is_one_line(model):
    with pytest.raises(UserError, match="predictions: no text"):
        as_evaluate_metric("l0").compute(predictions=["", " "], model_id=str(model))
    with pytest.raises(UserError, match="no such folder"):
        as_evaluate_metric("l0").compute(predictions=["a"], model_id=str(model.with_name("modle")))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    monkeypatch.delitem(sys.modules, "hf_tti.for_evaluate")
    with pytest.raises(UserError, match=r"pip install 'hf-tti\[analysis\]'"):
        importlib.import_module("hf_tti.for_evaluate")
