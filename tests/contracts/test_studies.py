"""Laws of every study in `hf_tti/studies`: a new file there is tested by being there."""

import copy
import random
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from hf_tti.metrics.base import with_mean
from hf_tti.report import NULL_ROWS
from hf_tti.studies.subject import Subject, random_init, rotated
from study_samples import tiny_sample
from tiny import tiny_configs, tiny_model

DOCUMENTS = 20
NAMES = component_names("studies")
KINDS = tuple(tiny_configs())
# Settings for a sample of some hundred tokens, and what has to be installed.
SETTINGS = {
    "concept_auroc": {"min_count": 5},
    "linear_probe": {"min_class_tokens": 5, "l2": 1.0},
    "k_sparse_probe": {"min_class_tokens": 5, "l2": 1.0, "ks": (1, 3)},
    "sae_quality": {"width": 12, "k": 3, "training_tokens": 1500, "batch_size": 64},
}
LIBRARIES = {"linear_probe": "sklearn", "k_sparse_probe": "sklearn", "sae_quality": "sae_lens"}
# What may differ by rounding that starts in another place: a fit that stops early, a tie between units.
TOLERANCE = {"sae_quality": 1e-3, "linear_probe": 1e-2, "k_sparse_probe": 1e-2}


@pytest.fixture(params=NAMES)
def name(request):
    if request.param in LIBRARIES:
        pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def make_study(name: str):
    return load_component("studies", name)(**SETTINGS.get(name, {}))


def measure(name, model, sample=None, *, view=None, reference=None) -> dict:
    study = make_study(name)
    subject = Subject(model, study.sites, view=view)
    return study.run(subject, tiny_sample(DOCUMENTS) if sample is None else sample, reference)


@cache
def measured(name: str, kind: str) -> dict:
    """Of an untouched tiny model on a labelled sample."""
    return measure(name, tiny_model(kind))


def numbers_of(results: dict) -> dict[str, float]:
    return {key: value for key, value in results.items() if not isinstance(value, np.ndarray)}


def assert_well_formed(results: dict):
    numbers = numbers_of(results)
    assert "mean" in numbers
    for key, value in numbers.items():
        assert type(value) is float and not np.isinf(value), (key, value)
        assert re.fullmatch(r"([^/]+/)*(layer_\d+|mean)", key), key


def assert_same(got: dict, want: dict, tolerance: float = 0.0):
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=tolerance, atol=tolerance, err_msg=key)


def test_a_labelled_sample_gives_a_finite_mean_of_layers(name, kind):
    results = measured(name, kind)
    assert_well_formed(results)
    numbers = numbers_of(results)
    assert np.isfinite(numbers["mean"])
    layers = {key: value for key, value in numbers.items() if "layer_" in key}
    assert {"layer_0"} <= layers.keys()
    for key, value in with_mean(layers).items():
        assert numbers[key] == pytest.approx(value, nan_ok=True), key


def test_arrays_have_names_of_their_own_and_survive_a_file(name, kind):
    results = measured(name, kind)
    arrays = {key: value for key, value in results.items() if isinstance(value, np.ndarray)}
    heads = [{key.rpartition("/")[0] or key for key in keys} for keys in (arrays, numbers_of(results))]
    assert not heads[0] & heads[1]
    stored = load(save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
    assert_same(stored, arrays)


def test_a_sample_without_labels_is_no_exception(name, kind):
    assert_well_formed(measure(name, tiny_model(kind), tiny_sample(DOCUMENTS, labelled=False)))


def generators() -> list:
    return [torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


def test_a_second_run_gives_the_same_and_a_run_changes_nothing(name, kind):
    """Neither weights nor hooks, the sample, the global generators or torch's settings."""
    want = measured(name, kind)
    torch.manual_seed(99)
    model, sample = tiny_model(kind).eval(), tiny_sample(DOCUMENTS)
    weights, fingerprint, drawn = copy.deepcopy(model.state_dict()), sample.fingerprint, generators()
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    assert_same(measure(name, model, sample), want)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert not any(m.training for m in model.modules())
    assert replace(sample).fingerprint == fingerprint  # worked out anew
    assert generators() == drawn
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


@pytest.mark.parametrize("row", NULL_ROWS)
def test_a_null_says_the_same_numbers_and_says_something_else(name, row):
    study = make_study(name)
    assert set(study.null_rows) <= set(NULL_ROWS)
    if row not in study.null_rows:
        pytest.skip("not told apart")
    model, sample = tiny_model("gpt2"), tiny_sample(DOCUMENTS)
    if row == "random_init":
        null = measure(name, random_init(model, seed=1))
    elif row == "rotated":
        null = measure(name, model, view=rotated)
    else:
        null = measure(name, model, sample.with_shuffled_labels())
    want = numbers_of(measured(name, "gpt2"))
    assert numbers_of(null).keys() == want.keys()
    assert null["mean"] != want["mean"]


def with_permuted_neurons(kind: str):
    """The same function with the MLP's units in another order."""
    model = tiny_model(kind)
    for block in model.transformer.h if kind == "gpt2" else model.model.layers:
        if kind == "gpt2":
            into = [block.mlp.c_fc.weight.T, block.mlp.c_fc.bias]
            out = block.mlp.c_proj.weight
        else:
            into, out = [block.mlp.gate_proj.weight, block.mlp.up_proj.weight], block.mlp.down_proj.weight.T
        order = torch.randperm(len(out))
        with torch.no_grad():
            for tensor in (*into, out):
                tensor.copy_(tensor[order].clone())
    return model


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_order_of_units_changes_no_number(name, kind):
    got = measure(name, with_permuted_neurons(kind))
    want = measured(name, kind)
    assert_same(numbers_of(got), numbers_of(want), TOLERANCE.get(name, 1e-5))


def test_a_reference_adds_numbers_and_changes_none(name):
    reference = Subject(tiny_model("llama"))
    got = numbers_of(measure(name, tiny_model("gpt2"), reference=reference))
    want = numbers_of(measured(name, "gpt2"))
    assert_same({key: got[key] for key in want}, want)
    assert_well_formed(got)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_activations_that_do_not_vary_are_no_exception(name, value):
    def silent(_path, site):
        return replace(site, activations=torch.full_like(site.activations, value))

    assert_well_formed(measure(name, tiny_model("gpt2"), view=silent))


@pytest.mark.parametrize("documents", [0, 1, 2])
def test_too_small_a_sample_gives_nan_or_one_line_for_the_user(name, documents):
    try:
        results = measure(name, tiny_model("gpt2"), tiny_sample(documents=documents))
    except UserError as error:
        assert "\n" not in str(error) and name in str(error)
    else:
        assert_well_formed(results)
