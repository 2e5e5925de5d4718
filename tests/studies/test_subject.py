"""Subjects of four architectures: activations that padding leaves alone, interventions that do what they say, nulls."""

import pytest
import torch

from hf_tti.activations import SITES, Site, capture, resolve_sites
from hf_tti.errors import UserError
from hf_tti.studies.subject import Subject, random_init, rotated
from study_samples import tiny_sample
from tiny import tiny_configs, tiny_model

KINDS = tuple(tiny_configs())


@pytest.fixture(params=KINDS)
def model(request):
    return tiny_model(request.param)


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def one_batch(documents: int = 6):
    return next(tiny_sample(documents).batches())


def logits_of(subject, batch, interventions=None):
    return subject.forward(batch, interventions=interventions)[0].logits


# ---- Activations -------------------------------------------------------------------------------


def test_activations_are_those_of_each_document_alone(model):
    sample = tiny_sample(documents=5)
    subject = Subject(model, SITES)
    alone = []
    for row in sample.rows:
        with torch.no_grad(), capture(model, SITES) as recorder:
            model(torch.tensor([row]))
        alone.append(recorder.sites)
    for point in subject.hookpoints(SITES):
        got = subject.activations(sample, point)
        assert got.shape == (sample.num_tokens, point.width)
        assert got.dtype == torch.float32 and not got.requires_grad
        want = [sites[point.path].activations[0, 1:] for sites in alone]  # without the end-of-text token before it
        torch.testing.assert_close(got, torch.cat(want), rtol=1e-5, atol=1e-6)


def test_activations_are_kept_for_a_sample_and_for_its_shuffles(model, monkeypatch):
    subject, sample = Subject(model, ["mlp.neurons"]), tiny_sample()
    first, second = subject.hookpoints(["mlp.neurons"])
    kept = subject.activations(sample, first)
    forwards = []
    monkeypatch.setattr(subject, "forward", lambda *args, **settings: forwards.append(args))
    assert subject.activations(sample.with_shuffled_labels(), first) is kept
    assert len(subject.activations(sample, second)) == sample.num_tokens  # recorded in the same pass
    assert not forwards


def test_another_sample_has_its_own_activations(model):
    subject = Subject(model, ["resid"])
    point = subject.hookpoints(["resid"])[-1]
    rows = [subject.activations(tiny_sample(seed=seed), point) for seed in (0, 1, 0)]
    assert rows[0].shape != rows[1].shape
    assert torch.equal(rows[0], rows[2])


def test_a_site_that_was_not_announced_is_recorded_when_asked_for(model):
    sample, announced = tiny_sample(documents=3), Subject(model, ["resid", "attn.heads"])
    for point in announced.hookpoints(["attn.heads"]):
        assert torch.equal(Subject(model).activations(sample, point), announced.activations(sample, point))


def test_a_sample_without_tokens_has_no_activations(model):
    subject, sample = Subject(model), tiny_sample(documents=0)
    point = subject.hookpoints(["resid"])[0]
    assert subject.activations(sample, point).shape == (0, point.width)


def test_a_subject_is_in_evaluation_mode_and_leaves_no_hook(model):
    model.train()
    before = hooks_of(model)
    subject = Subject(model, SITES)
    point = subject.hookpoints(SITES)[0]
    subject.activations(tiny_sample(), point)
    subject.write_norm(point)
    subject.forward(one_batch(), interventions={point.path: torch.zeros_like}, record=[point])
    assert not model.training and hooks_of(model) == before
    with pytest.raises(ZeroDivisionError):
        subject.forward(one_batch(), interventions={point.path: lambda _: 1 / 0}, record=[point])
    assert hooks_of(model) == before


def test_an_unknown_site_is_an_error_for_the_user(model):
    with pytest.raises(UserError, match="mlp.neuron"):
        Subject(model, ["mlp.neuron"])


def test_the_blocks_alone_give_the_same_sites(model):
    subject = Subject(model)
    points, batch = subject.hookpoints(SITES), one_batch()
    whole, blocks = (subject.forward(batch, record=points, logits=logits)[1] for logits in (True, False))
    assert all(torch.equal(whole[p.path].activations, blocks[p.path].activations) for p in points)


def test_write_norms_are_those_of_the_weights_that_read_the_units(model):
    subject = Subject(model)
    for point in subject.hookpoints(SITES):
        norm = subject.write_norm(point)
        assert norm.shape == (point.width,) and norm.dtype == torch.float32 and not norm.requires_grad
        if point.reader is None:
            assert torch.equal(norm, torch.ones(point.width))
            continue
        weight = model.base_model.get_submodule(point.reader).weight.detach()
        rows = weight.T if isinstance(model.base_model.get_submodule(point.reader), torch.nn.Linear) else weight
        torch.testing.assert_close(norm, rows.norm(dim=1))


# ---- Interventions -----------------------------------------------------------------------------


def test_an_intervention_that_changes_nothing_changes_nothing(model):
    subject, batch = Subject(model), one_batch()
    points = subject.hookpoints(SITES)
    assert torch.equal(logits_of(subject, batch, {p.path: lambda a: a for p in points}), logits_of(subject, batch))
    assert torch.equal(logits_of(subject, batch, {p.path: torch.clone for p in points}), logits_of(subject, batch))


@pytest.mark.parametrize("layer", [0, 1])
def test_zeroing_an_mlp_s_output_is_a_model_whose_last_weights_are_zero(model, layer):
    subject, batch = Subject(model), one_batch()
    point = subject.hookpoints(["mlp.out"])[layer]
    got = logits_of(subject, batch, {point.path: torch.zeros_like})
    assert not torch.equal(got, logits_of(subject, batch))
    with torch.no_grad():
        for parameter in model.base_model.get_submodule(point.path).parameters():
            parameter.zero_()
    torch.testing.assert_close(got, logits_of(subject, batch), rtol=0, atol=0)


def test_zeroing_neurons_is_a_model_whose_last_weights_are_zero_but_for_the_bias(model):
    """On Llama and Qwen the site is a module's input, `mlp.down_proj:in`."""
    subject, batch = Subject(model), one_batch()
    points = subject.hookpoints(["mlp.neurons"])
    assert all(p.path.endswith(":in") == (model.config.model_type in ("llama", "qwen2")) for p in points)
    got = logits_of(subject, batch, {p.path: torch.zeros_like for p in points})
    assert not torch.equal(got, logits_of(subject, batch))
    with torch.no_grad():
        for point in points:
            model.base_model.get_submodule(point.reader).weight.zero_()
    torch.testing.assert_close(got, logits_of(subject, batch))


def test_scaling_neurons_is_scaling_the_weights_that_read_them(model):
    subject, batch = Subject(model), one_batch()
    point = subject.hookpoints(["mlp.neurons"])[1]
    got = logits_of(subject, batch, {point.path: lambda a: 3 * a})
    with torch.no_grad():
        model.base_model.get_submodule(point.reader).weight *= 3
    torch.testing.assert_close(got, logits_of(subject, batch))


def test_the_residual_stream_after_the_last_block_decides_the_logits(model):
    subject, batch = Subject(model), one_batch()
    last = subject.hookpoints(["resid"])[-1]
    got = logits_of(subject, batch, {last.path: lambda a: a[..., :1, :].expand_as(a)})
    assert torch.equal(got, got[:, :1].expand_as(got))


def test_a_recorded_site_shows_what_an_intervention_put_there(model):
    subject = Subject(model)
    for point in subject.hookpoints(SITES):
        _, sites = subject.forward(one_batch(), interventions={point.path: lambda a: a * 0 + 2}, record=[point])
        assert (sites[point.path].activations == 2).all()


# ---- Nulls -------------------------------------------------------------------------------------


def test_fresh_weights_are_their_seed_s_and_leave_the_global_generator_alone(model):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = random_init(model, 1), random_init(model, 1), random_init(model, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [fresh.state_dict() for fresh in (first, again, other, model)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for changed in weights[2:]:
        assert changed.keys() == weights[0].keys()
        assert any(not torch.equal(weights[0][name], changed[name]) for name in changed)
    assert first.config is not model.config
    assert {**first.config.to_dict(), "dtype": None} == {**model.config.to_dict(), "dtype": None}
    assert first.dtype == model.dtype and not first.training


def sites_of(model, site: str) -> dict[str, Site]:
    return Subject(model).forward(one_batch(), record=resolve_sites(model, [site]))[1]


@pytest.mark.parametrize("name", ["mlp.neurons", "attn.heads"])
def test_a_rotation_keeps_the_writes_and_the_angles_between_tokens(model, name):
    for path, site in sites_of(model, name).items():
        turned = rotated(path, site)
        writes, tokens = site.activations @ site.out_weight, site.activations.flatten(0, 1)
        torch.testing.assert_close(turned.activations @ turned.out_weight, writes, rtol=1e-4, atol=1e-6)
        others = turned.activations.flatten(0, 1)
        torch.testing.assert_close(others @ others.T, tokens @ tokens.T, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(turned.activations, site.activations, atol=1e-3)
        assert (turned.layer, turned.name) == (site.layer, site.name)


def test_a_rotation_of_the_residual_stream_s_own_coordinates_has_no_weight(model):
    for path, site in sites_of(model, "resid").items():
        turned = rotated(path, site)
        assert turned.out_weight is None
        torch.testing.assert_close(turned.activations.norm(dim=-1), site.activations.norm(dim=-1))


def rotation(path: str, width: int, seed: int = 0) -> torch.Tensor:
    return rotated(path, Site(torch.eye(width)[None]), seed).activations[0]


@pytest.mark.parametrize("width", [1, 2, 24, 96])
def test_a_rotation_is_orthogonal_and_that_of_its_path_and_seed(width):
    turn = rotation("h.0.mlp.act", width)
    torch.testing.assert_close(turn @ turn.T, torch.eye(width), rtol=0, atol=1e-5)
    assert torch.equal(turn, rotation("h.0.mlp.act", width))
    if width > 1:
        assert not torch.allclose(turn, rotation("h.1.mlp.act", width), atol=1e-2)
        assert not torch.allclose(turn, rotation("h.0.mlp.act", width, seed=1), atol=1e-2)


def test_rotations_favour_no_direction():
    turns = torch.stack([rotation("h.0.mlp.act", 3, seed) for seed in range(400)])
    assert turns.mean(dim=0).abs().max() < 0.15  # QR alone, without the signs of R, has a mean of 0.5 on the diagonal
    torch.testing.assert_close(turns.square().mean(dim=0), torch.full((3, 3), 1 / 3), rtol=0, atol=0.06)


def test_a_rotated_subject_shows_rotated_activations_and_is_the_same_model(model):
    sample, batch = tiny_sample(), one_batch()
    plain, turned = Subject(model), Subject(model, view=rotated, name="rotated")
    point = plain.hookpoints(["mlp.neurons"])[0]
    want = rotated(point.path, Site(plain.activations(sample, point)[None])).activations[0]
    torch.testing.assert_close(turned.activations(sample, point), want, rtol=1e-4, atol=1e-6)
    assert torch.equal(logits_of(plain, batch), logits_of(turned, batch))
    assert not torch.allclose(turned.write_norm(point), plain.write_norm(point), rtol=1e-2)
