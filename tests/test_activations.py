"""Laws of sites and capture."""

import pytest
import torch

from hf_tti import capture
from hf_tti.activations import SITES, Recorder, make_forward_pass, resolve_sites
from hf_tti.errors import UserError
from tiny import VOCAB, tiny_configs, tiny_model

FAMILIES = list(tiny_configs())


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_site_gives_batch_position_width(kind):
    model = tiny_model(kind).eval()
    hookpoints = resolve_sites(model, SITES)
    assert [(p.site, p.layer) for p in hookpoints] == [(site, layer) for site in SITES for layer in (0, 1)]
    with capture(model, SITES) as recorder:
        model(torch.randint(0, VOCAB, (3, 5)))
    for point in hookpoints:
        site = recorder.sites[point.path]
        assert site.activations.shape == (3, 5, point.width)
        assert (site.name, site.layer) == (point.site, point.layer)
        assert site.write_norm.shape == (point.width,)


@pytest.mark.parametrize("kind", FAMILIES)
def test_out_weight_turns_neurons_into_the_mlp_output(kind):
    """a @ out_weight (+ bias) is what the MLP writes: rows are units, whatever layout the linear keeps."""
    model = tiny_model(kind).eval()
    with capture(model, ("mlp.neurons", "mlp.out", "attn.heads")) as recorder:
        model(torch.randint(0, VOCAB, (2, 6)))
    sites = list(recorder.sites.values())
    for layer in (0, 1):
        neurons = next(s for s in sites if s.name == "mlp.neurons" and s.layer == layer)
        out = next(s for s in sites if s.name == "mlp.out" and s.layer == layer)
        written = neurons.activations @ neurons.out_weight
        offset = (out.activations - written).flatten(0, 1)  # the bias: the same for every token
        torch.testing.assert_close(offset, offset[:1].expand_as(offset), rtol=0, atol=1e-6)
        assert out.out_weight is None


def test_a_block_gives_the_whole_batch():
    """A block returns a tensor or a tuple by version; taking [0] of a tensor would take the first row."""
    model = tiny_model().eval()
    ids = torch.randint(0, VOCAB, (4, 7))
    with capture(model, ("resid",)) as recorder:
        hidden = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(recorder.sites["h.0"].activations, hidden[1])


def test_star_matches_one_segment():
    model = tiny_model()
    assert [p.path for p in resolve_sites(model, ("h.*",))] == ["h.0", "h.1"]
    assert [p.path for p in resolve_sites(model, ("h.1.mlp.*",))] == [
        "h.1.mlp.act",
        "h.1.mlp.c_fc",
        "h.1.mlp.c_proj",
        "h.1.mlp.dropout",
    ]


def test_a_path_and_its_name_are_the_same_hookpoints():
    model = tiny_model()
    by_name, by_path = (
        resolve_sites(model, ("mlp.neurons",)),
        resolve_sites(model, ("h.*.mlp.act",)),
    )
    assert [(p.path, p.reader, p.width) for p in by_name] == [(p.path, p.reader, p.width) for p in by_path]
    absolute = resolve_sites(model, ("transformer.h.*.mlp.act",))
    assert [p.path for p in absolute] == [p.path for p in by_path]


def test_layers_are_in_numerical_order():
    config = tiny_configs()["gpt2"]
    config.n_layer = config.num_hidden_layers = 12
    from transformers import GPT2LMHeadModel

    assert [p.layer for p in resolve_sites(GPT2LMHeadModel(config), ("mlp.out",))] == list(range(12))


def test_hooks_are_idle_outside_recording_and_gone_after_close():
    model = tiny_model()
    recorder = Recorder(model, resolve_sites(model, ("mlp.out",)))
    model(torch.zeros(1, 3, dtype=torch.long))
    assert recorder.sites == {}
    with pytest.raises(RuntimeError), recorder.recording():
        raise RuntimeError
    model(torch.zeros(1, 3, dtype=torch.long))
    assert recorder.sites == {}
    recorder.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_resolving_leaves_modes_and_random_numbers_alone():
    model = tiny_model().train()
    model.transformer.h[0].eval()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    resolve_sites(model, SITES)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("mlp.nuerons", "did you mean 'mlp.neurons'"),
        ("h.*.mlp.actt", "did you mean 'h.0.mlp.act'"),
        ("h.*.mlp.act:out", "only choice is ':in'"),
        ("nowhere", "sites: mlp.neurons, mlp.out, attn.heads, resid"),
        ("wte.weight", "matches no module"),
    ],
)
def test_wrong_sites_are_named_in_one_line(site, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("*", r"\*")) as caught:
        resolve_sites(tiny_model(), (site,))
    assert "\n" not in str(caught.value)


def test_the_mask_comes_from_the_attention_mask_never_from_eos():
    inputs = {
        "input_ids": torch.tensor([[5, 0, 6, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0]]),
    }
    forward = make_forward_pass(inputs, None, {}, eos_token_id=0)
    assert forward.token_mask.tolist() == [[True, True, True, True, False]]
    assert make_forward_pass(inputs, None, {}, excluded_token_ids=[6]).num_active == 3


def test_documents_and_positions_restart_after_eos():
    forward = make_forward_pass({"input_ids": torch.tensor([[5, 0, 6, 7, 0, 8]])}, None, {}, eos_token_id=0)
    assert forward.document_ids.tolist() == [[0, 0, 1, 1, 1, 2]]
    assert forward.positions.tolist() == [[0, 1, 0, 1, 2, 0]]
