"""Fresh SAEs: SAELens's own evaluator agrees, a planted dictionary is found, and the ends of every scale are where they
belong. Needs the extra `saelens`, but for what is said where it is missing.
"""

import json
import math
import random
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from hf_tti.errors import UserError
from hf_tti.studies import _sae
from hf_tti.studies._sae import Training, dictionary_match, train_sae
from hf_tti.studies.sae_quality import SaeQuality
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject
from tiny import VOCAB, tiny_model

needs_sae_lens = pytest.mark.skipif(find_spec("sae_lens") is None, reason="needs the extra saelens")
STUDY = SaeQuality(width=32, k=4, training_tokens=4000, batch_size=64)
LENGTH = 12


@pytest.fixture(scope="module")
def model():
    return tiny_model(initializer_range=0.3)


@pytest.fixture(scope="module")
def sample(model) -> Sample:
    """Documents that the model itself wrote, so that it predicts them and an ablation costs something."""
    torch.manual_seed(0)
    ids = torch.zeros(24, 1, dtype=torch.long)
    with torch.no_grad():
        while ids.shape[1] < LENGTH:
            logits = model.eval()(ids).logits[:, -1]
            logits[:, 0] = -torch.inf  # the end-of-text token stands before the document only
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return Sample(rows=ids.tolist(), texts={}, vocab_size=VOCAB)


@pytest.fixture
def subject(model) -> Subject:
    return Subject(model, STUDY.sites)


def assembled(encoder, decoder, bias, *, k: int):
    """A SAELens TopK SAE with these weights."""
    from sae_lens import TopKSAE, TopKSAEConfig

    sae = TopKSAE(TopKSAEConfig(d_in=decoder.shape[1], d_sae=decoder.shape[0], k=k))
    sae.load_state_dict({"W_enc": encoder, "W_dec": decoder, "b_enc": torch.zeros(len(decoder)), "b_dec": bias})
    return sae


def exact(width: int):
    """x = relu(x) − relu(−x)."""
    eye = torch.eye(width)
    both = torch.cat([eye, -eye])
    return assembled(both.T.contiguous(), both, torch.zeros(width), k=2 * width)


def constant(bias):
    return assembled(torch.zeros(len(bias), 8), torch.zeros(8, len(bias)), bias, k=4)


def numbers(found: dict) -> dict:
    return {key: value for key, value in found.items() if isinstance(value, float)}


@needs_sae_lens
def test_the_evaluator_of_sae_lens_agrees(model, subject, sample):
    """At the last layer, where its ablation of the end-of-text token reaches no other token's prediction."""
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activation_scaler import ActivationScaler

    class OddDocuments:
        store_batch_size_prompts, context_size = 12, LENGTH

        def get_batch_tokens(self, _size):
            return torch.tensor(sample.rows[1::2])

        def reset_input_dataset(self):
            pass

    study = SaeQuality(width=32, k=4, training_tokens=4000, batch_size=64, num_seeds=1)
    saes = study.fit(subject, sample)
    found = study.score(subject, sample, saes)
    # A copy: HookedProxyLM never takes its hooks off.
    copied = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    theirs, of_latents = run_evals(
        saes["h.1"][0],
        OddDocuments(),
        HookedProxyLM(copied.eval(), None, hook_names=["transformer.h.1"]),
        ActivationScaler(),
        EvalConfig(
            n_eval_reconstruction_batches=1,
            compute_kl=True,
            compute_ce_loss=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
        ),
        exclude_special_tokens=[0],
    )
    performance = theirs["model_performance_preservation"]
    assert 1 - found["layer_1"] == pytest.approx(theirs["reconstruction_quality"]["explained_variance"], abs=1e-5)
    assert found["l0/layer_1"] == pytest.approx(theirs["sparsity"]["l0"], abs=1e-6)
    assert found["kl/layer_1"] == pytest.approx(theirs["model_behavior_preservation"]["kl_div_with_sae"], rel=1e-4)
    assert found["delta_ce/layer_1"] == pytest.approx(
        performance["ce_loss_with_sae"] - performance["ce_loss_without_sae"], abs=1e-5
    )
    assert found["ce_recovered_zero/layer_1"] == pytest.approx(performance["ce_loss_score"], abs=1e-5)
    np.testing.assert_allclose(found["latent_density/layer_1"][0], of_latents["feature_density"], atol=1e-6)
    assert 0.05 < found["layer_1"] < 0.95 and found["kl/layer_1"] > 0.01


@needs_sae_lens
def test_a_planted_dictionary_is_recovered():
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(24, 16, generator=generator)).Q.T
    features = torch.zeros(4000, 16)
    chosen = torch.rand(4000, 16, generator=generator).argsort(1)[:, :2]
    features.scatter_(1, chosen, 1 + torch.rand(4000, 2, generator=generator))
    rows = features @ directions + 3
    training = Training(width=16, k=2, training_tokens=60_000, batch_size=128, learning_rate=1e-2)
    saes = [train_sae(rows, training, seed=seed, device=torch.device("cpu")) for seed in (0, 1)]
    planted = assembled(directions.T.contiguous(), directions.contiguous(), torch.zeros(24), k=2)
    everything = [torch.ones(16, dtype=torch.bool)] * 2
    for sae in saes:
        assert float((sae(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()) < 1e-3
        assert dictionary_match([sae, planted], everything) == pytest.approx((1, 1), abs=1e-2)
    assert dictionary_match(saes, everything) == pytest.approx((1, 1), abs=1e-2)


@needs_sae_lens
def test_a_perfect_reconstruction_recovers_everything(subject, sample):
    found = STUDY.score(subject, sample, {"h.0": [exact(16)] * 2, "h.1": [exact(16)] * 2})
    for layer in ("layer_0", "layer_1"):
        assert found[layer] == pytest.approx(0, abs=1e-12)
        assert found[f"delta_ce/{layer}"] == pytest.approx(0, abs=1e-6)
        assert found[f"kl/{layer}"] == pytest.approx(0, abs=1e-6)
        assert found[f"ce_recovered/{layer}"] == pytest.approx(1, abs=1e-5)
        assert found[f"ce_recovered_zero/{layer}"] == pytest.approx(1, abs=1e-5)
        assert found[f"l0/{layer}"] == 16  # of 32: one sign of each coordinate
        assert found[f"dictionary_match/{layer}"] == pytest.approx(1)


@needs_sae_lens
def test_an_ablation_as_reconstruction_recovers_nothing(subject, sample):
    scoring = torch.from_numpy(sample.for_scoring)
    points = subject.hookpoints(STUDY.sites)
    zeros = STUDY.score(subject, sample, {p.path: [constant(torch.zeros(16))] for p in points})
    training_means = {p.path: subject.activations(sample, p)[~scoring].double().mean(0).float() for p in points}
    means = STUDY.score(subject, sample, {path: [constant(mean)] for path, mean in training_means.items()})
    for layer in ("layer_0", "layer_1"):
        assert zeros[f"ce_recovered_zero/{layer}"] == 0
        assert means[f"ce_recovered/{layer}"] == 0
        assert zeros[f"delta_ce/{layer}"] > 0.01
        assert zeros[f"dead_latents/{layer}"] == zeros[f"dead_latents_in_training/{layer}"] == 1
        assert math.isnan(zeros[f"effective_latents/{layer}"]) and math.isnan(zeros[f"dictionary_match/{layer}"])


@needs_sae_lens
def test_predicting_the_mean_of_the_scored_tokens_has_fvu_one_and_zero_has_more(subject, sample):
    scoring = torch.from_numpy(sample.for_scoring)
    points = subject.hookpoints(STUDY.sites)
    scored_means = {p.path: subject.activations(sample, p)[scoring].double().mean(0).float() for p in points}
    found = STUDY.score(subject, sample, {path: [constant(mean)] for path, mean in scored_means.items()})
    zero = STUDY.score(subject, sample, {p.path: [constant(torch.zeros(16))] for p in points})
    for layer in ("layer_0", "layer_1"):
        assert found[layer] == pytest.approx(1, abs=1e-9)
        assert zero[layer] > 1 + 1e-6


@needs_sae_lens
def test_where_an_ablation_costs_nothing_there_is_nothing_to_recover(sample):
    """A model whose head is zero predicts the same whatever its residual stream holds."""
    silent = tiny_model()
    torch.nn.init.zeros_(silent.transformer.ln_f.weight)
    found = STUDY.score(Subject(silent), sample, {"h.0": [exact(16)], "h.1": [exact(16)]})
    assert math.isnan(found["ce_recovered/mean"]) and math.isnan(found["ce_recovered_zero/mean"])
    assert found["delta_ce/mean"] == 0 and found["kl/mean"] == pytest.approx(0, abs=1e-9)


@needs_sae_lens
def test_every_number_is_there_for_every_layer(subject, sample):
    found = STUDY.run(subject, sample)
    names = {key.rpartition("/")[0] for key in found}
    assert names == {
        "",
        "l0",
        "dead_latents",
        "dead_latents_in_training",
        "effective_latents",
        "effective_share",
        "delta_ce",
        "kl",
        "ce_recovered",
        "ce_recovered_zero",
        "dictionary_match",
        "dictionary_match_one_to_one",
        "latent_density",
    }
    for name in names:
        prefix = f"{name}/" if name else ""
        assert {f"{prefix}layer_0", f"{prefix}layer_1"} <= found.keys()
    assert all(math.isfinite(value) for value in numbers(found).values())
    assert found["latent_density/layer_0"].shape == (2, 32)
    assert found["latent_density/layer_0"].sum(1).mean() == pytest.approx(found["l0/layer_0"])
    assert 1 <= found["effective_latents/layer_0"] <= 32 and found["l0/layer_0"] <= 4
    assert found["dictionary_match_one_to_one/mean"] <= found["dictionary_match/mean"] <= 1


@needs_sae_lens
def test_the_same_seed_gives_the_same_numbers_and_draws_from_nobody(subject, sample, capfd):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = STUDY.run(subject, sample)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    torch.manual_seed(123)
    again = STUDY.run(subject, sample)
    assert numbers(first) == numbers(again)
    other = SaeQuality(width=32, k=4, training_tokens=4000, batch_size=64, seed=7).run(subject, sample)
    assert other["mean"] != first["mean"]
    assert capfd.readouterr() == ("", "")


@needs_sae_lens
def test_the_odd_documents_are_not_trained_on(subject, sample):
    """Others in their place leave the SAEs as they are."""
    shifted = [[0, *(i % (VOCAB - 1) + 1 for i in row[1:])] if n % 2 else row for n, row in enumerate(sample.rows)]
    other = Sample(rows=shifted, texts={}, vocab_size=VOCAB)
    ours, theirs = STUDY.fit(subject, sample), STUDY.fit(Subject(subject.model), other)
    for path in ours:
        assert torch.equal(ours[path][0].W_dec, theirs[path][0].W_dec)
    assert STUDY.score(subject, sample, ours)["mean"] != STUDY.score(subject, other, theirs)["mean"]


@needs_sae_lens
@pytest.mark.parametrize("scale, shift", [(1024.0, 0.0), (2.0**-10, 0.0), (1.0, 64.0)])
def test_scale_and_mean_of_the_activations_change_nothing(scale, shift):
    rows = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    training = Training(width=16, k=3, training_tokens=8000, batch_size=64, learning_rate=1e-2)

    def relative_error(rows):
        sae = train_sae(rows, training, seed=0, device=torch.device("cpu"))
        return float((sae(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum())

    assert relative_error(rows * scale + shift) == pytest.approx(relative_error(rows), rel=0.02)


@needs_sae_lens
def test_training_lowers_the_error_inside_no_grad(subject, sample):
    short = SaeQuality(width=32, k=4, training_tokens=64, batch_size=64)
    with torch.no_grad():
        assert STUDY.run(subject, sample)["mean"] < 0.8 * short.run(subject, sample)["mean"]


@needs_sae_lens
def test_what_is_saved_opens_in_sae_lens_and_computes_the_same(model, subject, sample, tmp_path):
    from sae_lens import SAE
    from sae_lens.load_model import HookedProxyLM

    found = STUDY.run_and_save(subject, sample, tmp_path)
    np.testing.assert_equal(found, STUDY.run(subject, sample))
    folders = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("sae_weights.safetensors"))
    assert folders == [f"sae/h.{layer}/seed_{seed}" for layer in (0, 1) for seed in (0, 1)]
    saes = STUDY.fit(subject, sample)
    hooks = HookedProxyLM(type(model)(model.config), None).hook_dict
    for path, of_seeds in saes.items():
        for seed, sae in enumerate(of_seeds):
            folder = tmp_path / "sae" / path / f"seed_{seed}"
            loaded = SAE.load_from_disk(folder)
            rows = subject.activations(sample, subject.hookpoints(["resid"])[0])
            assert torch.equal(loaded(rows), sae(rows))
            metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
            assert metadata["hook_name"] == f"transformer.{path}" and metadata["hook_name"] in hooks
            assert metadata["model_class_name"] == "AutoModelForCausalLM"
            assert metadata["context_size"] == LENGTH


@needs_sae_lens
def test_an_input_of_a_module_and_several_sites_keep_their_names(subject, sample, tmp_path):
    study = SaeQuality(sites=("mlp.out", "attn.heads"), width=32, k=4, training_tokens=640, num_seeds=1)
    found = study.run_and_save(subject, sample, tmp_path)
    assert {"mlp.out/layer_0", "attn.heads/layer_1", "kl/attn.heads/mean", "latent_density/mlp.out/layer_1"} <= set(
        found
    )
    assert math.isnan(found["dictionary_match/mlp.out/mean"])  # one seed has nothing to match
    folder = tmp_path / "sae" / "h.0.attn.c_proj_in" / "seed_0"
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"] == "transformer.h.0.attn.c_proj:in"


@needs_sae_lens
def test_a_site_that_never_varies_gives_no_nan_but_its_fvu(subject, sample):
    flat = tiny_model()
    for block in flat.transformer.h:
        torch.nn.init.zeros_(block.mlp.c_proj.weight)
    study = SaeQuality(sites=("mlp.out",), width=32, k=4, training_tokens=640)
    found = study.run(Subject(flat), sample)
    assert math.isnan(found["mean"])
    assert found["delta_ce/mean"] == pytest.approx(0, abs=1e-6)


@needs_sae_lens
def test_dictionaries_match_up_to_order_and_sign_and_not_when_orthogonal():
    def with_directions(directions):
        width = directions.shape[1]
        return assembled(torch.zeros(width, len(directions)), directions, torch.zeros(width), k=1)

    directions = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    everything = [torch.ones(5, dtype=torch.bool)] * 2
    shuffled = with_directions(-3 * directions[[3, 1, 4, 0, 2]])
    assert dictionary_match([with_directions(directions), shuffled], everything) == pytest.approx((1, 1))
    eye = torch.eye(8)
    halves = [with_directions(eye[:4]), with_directions(eye[4:])]
    assert dictionary_match(halves, [everything[0][:4]] * 2) == (0, 0)
    # Both latents of one are nearest to the same latent of the other, which only one can have.
    twins = [with_directions(eye[[0, 0]]), with_directions(eye[[0, 1]])]
    assert dictionary_match(twins, [everything[0][:2]] * 2) == pytest.approx((0.75, 0.5))
    # Latents that never fired do not count.
    assert dictionary_match(twins, [torch.tensor([True, False])] * 2) == pytest.approx((1, 1))


@needs_sae_lens
@pytest.mark.parametrize(
    "rows, said",
    [([[0, 1, 2]] * 4, "width 32 needs"), ([[0, *range(1, 50)]], "0 to score")],
)
def test_a_sample_too_small_is_said_so_in_one_line(subject, rows, said):
    with pytest.raises(UserError, match=said) as error:
        STUDY.run(subject, Sample(rows=rows, texts={}, vocab_size=VOCAB))
    assert "\n" not in str(error.value)


def test_more_latents_at_once_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"sae_quality.k: 16 must be at most the width, 8"):
        SaeQuality(width=8)


def test_without_sae_lens_one_line_says_what_to_install(monkeypatch, subject, sample):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(UserError, match=r'sae-lens is not installed; pip install "hf-tti\[saelens\]"') as error:
        STUDY.run(subject, sample)
    assert "\n" not in str(error.value)


def test_a_broken_installation_is_told_from_none(monkeypatch):
    """transformer-lens 4 has no module that sae-lens imports."""

    def broken(name, *_args, **_kwargs):
        if name == "sae_lens":
            raise ModuleNotFoundError("No module named 'x'", name="transformer_lens.HookedTransformer")
        return original(name, *_args, **_kwargs)

    original = __import__
    monkeypatch.setattr("builtins.__import__", broken)
    with pytest.raises(UserError, match="cannot be imported"):
        _sae.check_sae_lens()
