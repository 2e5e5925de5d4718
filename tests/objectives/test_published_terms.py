"""What is special to the published terms, orthogonality and token entropy; the common laws are in tests/contracts."""

import math
from dataclasses import replace

import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.errors import UserError
from hf_tti.objectives.base import Scope, Setup
from hf_tti.objectives.orthogonality import Orthogonality
from hf_tti.objectives.token_entropy import TokenEntropy


def forward_of(ids, activations) -> ForwardPass:
    ids = torch.as_tensor(ids)
    return ForwardPass(ids, torch.ones_like(ids, dtype=torch.bool), {"h.0.mlp.c_proj": Site(activations)})


def value_of(objective, forward, **scope) -> tuple[float, dict]:
    scope = Scope(generator=torch.Generator().manual_seed(0), **scope)
    (term,) = objective.terms(forward, scope).values()
    return float(term.value.detach()), scope.logs


def test_orthogonality_is_the_published_formula_without_the_diagonal():
    activations = torch.randn(3, 8, 5)
    vectors = torch.nn.functional.normalize(activations.flatten(0, 1).T, dim=1)
    similarity = (vectors @ vectors.T).fill_diagonal_(0)
    wanted = float(similarity.abs().sum() / 20)
    assert value_of(Orthogonality(), forward_of(torch.zeros(3, 8), activations))[0] == pytest.approx(wanted, rel=1e-6)


def test_a_unit_that_never_fires_has_cosine_zero_and_is_counted():
    activations = torch.randn(1, 8, 1).expand(1, 8, 3).clone()
    activations[..., 2] = 0
    value, logs = value_of(Orthogonality(), forward_of(torch.zeros(1, 8), activations))
    assert value == pytest.approx(2 / 6)
    assert float(logs["alive_fraction"]) == pytest.approx(2 / 3)


def test_a_block_of_units_compares_that_many():
    activations = torch.randn(2, 9, 8, requires_grad=True)
    scope = Scope(generator=torch.Generator().manual_seed(0))
    terms = Orthogonality(neuron_block=3).terms(forward_of(torch.zeros(2, 9), activations), scope)
    terms["orthogonality"].value.backward()
    units = activations.grad.abs().sum(dim=(0, 1)).nonzero().flatten()
    wanted, _ = value_of(Orthogonality(), forward_of(torch.zeros(2, 9), activations[..., units]))
    assert len(units) == 3
    assert float(terms["orthogonality"].value.detach()) == pytest.approx(wanted, rel=1e-6)


def test_entropy_of_even_mass_is_the_logarithm_of_the_number_of_types():
    ids = torch.arange(24).view(2, 12) % 6
    assert value_of(TokenEntropy(), forward_of(ids, torch.ones(2, 12, 3)))[0] == pytest.approx(math.log(6))


def test_massless_units_are_left_out_and_counted():
    ids = torch.arange(24).view(2, 12) % 6
    activations = torch.ones(2, 12, 4)
    activations[..., :3] = 0
    value, logs = value_of(TokenEntropy(), forward_of(ids, activations))
    assert value == pytest.approx(math.log(6))
    assert float(logs["alive_fraction"]) == 0.25


def test_the_tables_height_is_the_number_of_types_present_not_the_vocabulary():
    objective, shapes = TokenEntropy(), []

    def spy(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    own = objective.own_module(Setup([], vocab_size=50_257))
    forward = forward_of([[50_256, 3, 3, 9, 8]], torch.rand(1, 5, 5))
    forward = replace(forward, token_mask=forward.input_ids != 8)
    value_of(objective, forward, own=own, all_reduce=spy)
    assert shapes == [(50_258,), (3, 5)]


def test_several_ranks_need_the_size_of_the_vocabulary():
    with pytest.raises(UserError, match="own_module"):
        value_of(TokenEntropy(), forward_of([[1, 2]], torch.rand(1, 2, 3)), world_size=2)
