"""Evaluation: exact cross-entropy, one set of numbers however it is driven, and nothing left behind."""

import json
import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import evaluation_worker
from hf_tti import evaluate_metrics
from hf_tti.activations import Recorder
from hf_tti.components import component_names, load_component
from hf_tti.cross_entropy import cross_entropy_sum
from hf_tti.errors import UserError
from hf_tti.evaluation import MetricAccumulator, accumulate
from hf_tti.metrics.activation_sparsity import ActivationSparsity
from hf_tti.metrics.l0 import L0
from hf_tti.metrics.token_entropy import TokenEntropy
from tiny import VOCAB, rows, tiny_model

PAIR = {"sparsity": ActivationSparsity(), "polysemanticity": TokenEntropy()}


def padded(examples: list[dict], *, labels: bool = False) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(examples):
        ids[index, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[index, : len(row["input_ids"])] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return {**batch, "labels": ids.masked_fill(mask == 0, -100)} if labels else batch


def batches(*, ragged: bool, labels: bool = False, sizes=(5, 1, 8, 2)) -> list[dict]:
    examples = iter(rows(sum(sizes), ragged=ragged))
    return [padded([next(examples) for _ in range(size)], labels=labels) for size in sizes]


@torch.no_grad()
def loss_by_hand(model, examples: list[dict]) -> tuple[float, int]:
    """Row by row, without padding, in float64."""
    total, count = 0.0, 0
    for row in examples:
        ids = torch.tensor(row["input_ids"])
        logs = model(input_ids=ids[None]).logits[0].double().log_softmax(dim=-1)
        total -= float(logs[:-1].gather(1, ids[1:, None]).sum())
        count += len(ids) - 1
    return total / count, count


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("ragged", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("labels", [False, True])
def test_cross_entropy_is_the_exact_token_mean(kind, ragged, labels):
    model = tiny_model(kind).eval()
    values = evaluate_metrics(model, batches(ragged=ragged, labels=labels), {})
    loss, count = loss_by_hand(model, rows(16, ragged=ragged))
    assert values["loss"] == pytest.approx(loss, abs=1e-6)
    assert values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert values["num_tokens"] == count
    assert list(values) == ["loss", "perplexity", "num_tokens"]


def test_cross_entropy_in_chunks_and_from_bfloat16_is_that_of_the_whole(monkeypatch):
    logits = 4 * torch.randn(3, 10, VOCAB).bfloat16()
    labels = torch.randint(0, VOCAB, (3, 10))
    labels[1, 4:] = -100
    logs = logits.double().log_softmax(-1)[:, :-1]
    keep = labels[:, 1:] != -100
    chosen = logs.gather(2, labels[:, 1:].clamp_min(0)[..., None])[..., 0]
    for size in (1, 7 * VOCAB, 1 << 24):
        monkeypatch.setattr("hf_tti.cross_entropy._LOGITS_PER_CHUNK", size)
        total, count = cross_entropy_sum(logits, labels)
        assert float(total) == pytest.approx(-float(chosen[keep].sum()), abs=1e-5)
        assert int(count) == int(keep.sum())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_metric_measures_every_layer_of_a_model(kind):
    metrics = {name: load_component("metrics", name)() for name in component_names("metrics")}
    values = evaluate_metrics(tiny_model(kind), batches(ragged=True), metrics)
    for label in metrics:
        layers = [values[f"{label}/layer_{layer}"] for layer in range(2)]
        assert all(math.isfinite(value) for value in layers), label
        assert values[f"{label}/mean"] == pytest.approx(sum(layers) / 2)
    assert all(isinstance(value, (int, float)) for value in values.values())


def test_a_model_is_measured_alike_however_its_rows_are_batched_and_padded():
    model = tiny_model("gpt2")
    metrics = {name: load_component("metrics", name)() for name in component_names("metrics")}
    want = evaluate_metrics(model, batches(ragged=True, sizes=(16,)), metrics)
    got = evaluate_metrics(model, batches(ragged=True, sizes=(1,) * 16), metrics)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-6)


def driven(model, given: list[dict], metrics, **settings) -> MetricAccumulator:
    """An evaluation loop of one's own, as a trainer runs it: labels go into the model."""
    accumulator = MetricAccumulator(model, metrics, **settings)
    recorder = Recorder(model, accumulator.hookpoints)
    model.eval()
    for batch in given:
        with torch.no_grad(), recorder.recording():
            outputs = model(**batch)
        sites = recorder.sites if accumulator.wants_activations else None
        accumulator.update(batch, outputs, sites)
    recorder.close()
    return accumulator


def test_analysis_gives_the_numbers_of_training():
    model = tiny_model("gpt2")
    given = batches(ragged=True, labels=True)
    assert evaluate_metrics(model, given, PAIR) == driven(model, given, PAIR).finalize()


def test_metrics_see_the_first_batches_and_cross_entropy_sees_all():
    model = tiny_model("gpt2")
    given = batches(ragged=True)
    limited = evaluate_metrics(model, given, PAIR, max_batches=2)
    first, whole = evaluate_metrics(model, given[:2], PAIR), evaluate_metrics(model, given, PAIR)
    assert limited["loss"] == whole["loss"] != first["loss"]
    for key in first.keys() - {"loss", "perplexity", "num_tokens"}:
        assert limited[key] == first[key]
    assert limited["polysemanticity/mean"] != whole["polysemanticity/mean"]


def test_activations_are_wanted_only_while_they_are_looked_at():
    model = tiny_model("gpt2")
    assert not MetricAccumulator(model, {}).wants_activations
    assert not MetricAccumulator(model, PAIR, max_batches=0).wants_activations
    accumulator = MetricAccumulator(model, PAIR, max_batches=1)
    assert accumulator.wants_activations
    accumulate(model, batches(ragged=False)[:1], accumulator)
    assert not accumulator.wants_activations


@pytest.mark.parametrize("keep", [0, 3, 5])
def test_rows_that_a_sampler_repeated_are_left_out(keep):
    model = tiny_model("gpt2").eval()
    examples = rows(5, ragged=True)
    batch, kept = padded(examples, labels=True), padded(examples, labels=True)
    kept = {key: value[:keep] for key, value in kept.items()}
    accumulator, want = MetricAccumulator(model, PAIR), MetricAccumulator(model, PAIR)
    recorder = Recorder(model, accumulator.hookpoints)
    with torch.no_grad(), recorder.recording():
        outputs = model(**batch)
    accumulator.update(batch, outputs, recorder.sites, keep_rows=keep)
    recorder.clear()
    if keep:
        with torch.no_grad(), recorder.recording():
            outputs = model(**kept)
        want.update(kept, outputs, recorder.sites)
        assert accumulator.finalize() == pytest.approx(want.finalize(), rel=1e-5)
    values = accumulator.finalize()
    assert values["num_tokens"] == sum(len(row["input_ids"]) - 1 for row in examples[:keep])
    assert math.isnan(values["loss"]) == (keep == 0)


def test_excluded_tokens_leave_the_metrics_and_not_the_cross_entropy():
    model = tiny_model("gpt2")
    given = batches(ragged=False)
    unmasked = evaluate_metrics(model, given, {"l0": L0(sites=("resid",))})
    masked = evaluate_metrics(model, given, {"l0": L0(sites=("resid",))}, excluded_token_ids=tuple(range(1, VOCAB, 2)))
    assert masked["loss"] == unmasked["loss"]
    assert masked["l0/mean"] != unmasked["l0/mean"]


def test_states_merge_to_the_whole_and_survive_pickle():
    model = tiny_model("gpt2")
    given = batches(ragged=True)
    parts = [MetricAccumulator(model, PAIR) for _ in range(3)]
    accumulate(model, given[:1], parts[0])
    accumulate(model, given[1:], parts[1])  # the third process saw nothing
    states = pickle.loads(pickle.dumps([part.state() for part in parts]))
    want = evaluate_metrics(model, given, PAIR)
    parts[2].merge_state(states[0])
    parts[2].merge_state(states[1])
    assert parts[2].finalize() == pytest.approx(want, rel=1e-6)
    parts[0].merge_all(states)
    assert parts[0].finalize() == pytest.approx(want, rel=1e-6)


def test_a_state_is_a_copy():
    model = tiny_model("gpt2")
    accumulator = MetricAccumulator(model, PAIR)
    accumulate(model, batches(ragged=True)[:1], accumulator)
    before = pickle.dumps(accumulator.state())
    state = accumulator.state()
    accumulate(model, batches(ragged=True), accumulator)
    other = MetricAccumulator(model, PAIR)
    other.merge_state(state)
    want = MetricAccumulator(model, PAIR)
    want.merge_state(pickle.loads(before))
    assert other.finalize() == want.finalize()


def test_two_processes_gather_the_bits_of_one_another_and_the_value_of_one(tmp_path):
    script = Path(evaluation_worker.__file__)
    command = [sys.executable, str(script), str(tmp_path / "result")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [subprocess.Popen([*command, str(rank), "2"], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    texts = [(tmp_path / f"result.{rank}.json").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    model, given = evaluation_worker.model_and_batches()
    whole = evaluation_worker.accumulator(model)
    accumulate(model, given, whole)
    want = whole.finalize()
    for key, value in json.loads(texts[0]).items():
        assert float.fromhex(value) == pytest.approx(want[key], rel=1e-6), key


def test_arrays_come_with_their_labels():
    model = tiny_model("gpt2")
    accumulator = MetricAccumulator(model, PAIR)
    accumulate(model, batches(ragged=True), accumulator)
    arrays = accumulator.arrays()
    assert {key: array.shape for key, array in arrays.items()} == {
        "polysemanticity/entropy/layer_0": (16,),
        "polysemanticity/entropy/layer_1": (16,),
    }


def test_evaluation_leaves_the_global_generators_modes_and_hooks_alone():
    model = tiny_model("gpt2")
    model.train()
    model.transformer.h[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    loader = DataLoader(rows(8), batch_size=4, shuffle=True, collate_fn=padded)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def drawing():
        for batch in loader:  # draws from torch's generator
            random.random()
            np.random.rand()
            yield batch

    evaluate_metrics(model, drawing(), PAIR)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_failure_inside_leaves_no_hook_and_the_training_mode():
    model = tiny_model("gpt2").train()

    def failing():
        yield from batches(ragged=False)[:1]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        evaluate_metrics(model, failing(), PAIR)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropout_is_off():
    model = tiny_model("gpt2").train()
    given = batches(ragged=True)
    assert evaluate_metrics(model, given, PAIR) == evaluate_metrics(model, given, PAIR)


def test_no_data_gives_nan():
    values = evaluate_metrics(tiny_model("gpt2"), [], PAIR)
    assert values.pop("num_tokens") == 0
    assert all(math.isnan(value) for value in values.values())
    assert set(values) == {"loss", "perplexity", "sparsity/mean", "polysemanticity/mean"}


def test_two_matches_of_a_pattern_in_one_layer_keep_their_own_numbers():
    site = "h.*.mlp.c_*"  # c_fc and c_proj, of different widths
    values = evaluate_metrics(tiny_model("gpt2"), batches(ragged=True), {"l0": L0(sites=(site,))})
    assert {key for key in values if key.startswith("l0/")} == {
        f"l0/h.*.mlp.{module}/{end}" for module in ("c_fc", "c_proj") for end in ("layer_0", "layer_1", "mean")
    }


def test_an_unknown_site_is_one_line_for_the_user():
    with pytest.raises(UserError, match="mlp.neuron"):
        MetricAccumulator(tiny_model("gpt2"), {"l0": L0(sites=("mlp.neuron",))})
