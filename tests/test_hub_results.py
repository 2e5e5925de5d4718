"""Laws of a report as model-card metadata: what goes in comes out, as `evaluate.push_to_hub` would write it."""

import dataclasses
import math

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_tti.hub_results import eval_results
from test_report import a_report

VALUES = {
    "loss": 1.25,
    "perplexity": math.exp(1.25),
    "num_tokens": 990,
    "sparsity/layer_0": 0.2,
    "sparsity/mean": 0.1,
    "sparsity/zeros/mean": 0.0,
    "probe/mean": math.nan,
}
SETTINGS = {
    "sparsity": {"metric": "activation_sparsity", "sites": ["mlp.neurons"], "threshold": 0.01},
    "probe": {"study": "linear_probe", "sites": ["resid"]},
}


def a_measured_report(**metrics):
    return a_report(metrics={**VALUES, **metrics}, metric_settings=SETTINGS)


def test_means_are_results_with_their_settings_and_layers_where_asked():
    found = {result.metric_name: result for result in eval_results(a_measured_report())}
    assert list(found) == ["Cross-entropy (nats per token)", "Perplexity", "sparsity/mean", "sparsity/zeros/mean"]
    sparsity = found["sparsity/mean"]
    assert (sparsity.metric_type, sparsity.metric_value) == ("activation_sparsity", 0.1)
    assert sparsity.metric_args == {"sites": ["mlp.neurons"], "threshold": 0.01}
    assert (sparsity.dataset_type, sparsity.dataset_split) == ("synthetic_stories", "validation")
    assert sparsity.dataset_args["fingerprint"] == "cd" * 32
    names = [result.metric_name for result in eval_results(a_measured_report(), layers=True)]
    assert "sparsity/layer_0" in names and len(names) == 5


def test_a_study_is_named_like_a_metric():
    (probe,) = [r for r in eval_results(a_measured_report(**{"probe/mean": 0.9})) if r.metric_name == "probe/mean"]
    assert (probe.metric_type, probe.metric_args) == ("linear_probe", {"sites": ["resid"]})


def test_a_corpus_of_the_hub_goes_by_its_id():
    data = dataclasses.replace(a_report().data, name="tinystories")
    (first, *_) = eval_results(a_report(data=data))
    assert (first.dataset_type, first.dataset_name) == ("roneneldan/TinyStories", "tinystories")


def test_a_model_card_keeps_every_result():
    results = eval_results(a_measured_report(), layers=True)
    card = ModelCardData(model_name="baseline-seed1", eval_results=results)
    read = yaml.safe_load(card.to_yaml())
    assert model_index_to_eval_results(read["model-index"]) == ("baseline-seed1", results)
    assert len(read["model-index"][0]["results"]) == 1  # one corpus, one entry


def test_evaluate_would_push_the_same_metadata(monkeypatch):
    hub = pytest.importorskip("evaluate.hub")
    results = eval_results(a_measured_report())
    pushed = []
    monkeypatch.setattr(hub, "dataset_info", lambda _: None)
    monkeypatch.setattr(hub, "model_info", lambda _: None)
    monkeypatch.setattr(hub, "metadata_update", lambda repo_id, metadata, overwrite: pushed.append(metadata))
    for result in results:
        given = {key: value for key, value in vars(result).items() if value is not None}
        hub.push_to_hub("owner/name", **given)
    for result, metadata in zip(results, pushed, strict=True):
        (entry,) = eval_results_to_model_index("any", [result])
        assert metadata["model-index"][0]["results"] == entry["results"]
