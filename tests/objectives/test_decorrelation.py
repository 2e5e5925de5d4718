"""What is special to the decorrelation objective; the common laws are in tests/contracts."""

import math

import pytest
import torch

from hf_tti.activations import ForwardPass, Hookpoint, Site
from hf_tti.errors import UserError
from hf_tti.objectives.base import Scope, Setup
from hf_tti.objectives.decorrelation import Decorrelation

PATH = "h.0.mlp.act"


def forward_of(activations: torch.Tensor) -> ForwardPass:
    ids = torch.zeros(activations.shape[:2], dtype=torch.long)
    return ForwardPass(ids, torch.ones_like(ids, dtype=torch.bool), {PATH: Site(activations)})


def scope_with(seed: int = 0, **kwargs) -> Scope:
    return Scope(generator=torch.Generator().manual_seed(seed), **kwargs)


def value_of(objective: Decorrelation, activations: torch.Tensor, seed: int = 0) -> float:
    return float(objective.terms(forward_of(activations), scope_with(seed))["decorrelation"].value.detach())


def test_an_offset_of_ten_thousand_standard_deviations_cancels_nothing():
    activations = torch.randn(4, 64, 5, dtype=torch.float64)
    exact = value_of(Decorrelation(), activations)
    assert value_of(Decorrelation(), (activations + 1e4).float()) == pytest.approx(exact, abs=2e-5)


def test_units_below_the_variance_floor_are_left_out_and_counted():
    activations = torch.randn(2, 16, 6)
    activations[..., 4] = 1e-4 * activations[..., 0]
    activations[..., 5] = 3.0
    scope = scope_with()
    value = Decorrelation().terms(forward_of(activations), scope)["decorrelation"].value
    assert float(value) == pytest.approx(value_of(Decorrelation(), activations[..., :4]), rel=1e-5)
    assert float(scope.logs["alive_fraction"]) == pytest.approx(4 / 6)


def test_positive_only_ignores_exclusive_units_and_halves_the_floor():
    column = torch.randn(1, 20, 1)
    opposed = torch.cat([column, -column], dim=-1)
    assert value_of(Decorrelation(positive_only=True), opposed) == pytest.approx(-0.5 / 19, abs=1e-6)
    assert value_of(Decorrelation(), opposed) == pytest.approx(1 - 1 / 19, abs=1e-6)


def test_positive_only_has_expectation_zero_for_independent_symmetric_units():
    generator = torch.Generator().manual_seed(1)
    objective = Decorrelation(positive_only=True)
    values = torch.tensor([value_of(objective, torch.randn(1, 32, 24, generator=generator)) for _ in range(200)])
    standard_error = float(values.std()) / math.sqrt(len(values))
    assert standard_error < 0.01 / 31
    assert abs(float(values.mean())) < 4.5 * standard_error


def test_a_neuron_block_is_an_unbiased_estimate_and_the_same_for_the_same_seed():
    mixing = torch.eye(12) + 0.3 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    activations = torch.randn(4, 50, 12, generator=torch.Generator().manual_seed(1)) @ mixing
    objective = Decorrelation(neuron_block=4)
    values = torch.tensor([value_of(objective, activations, seed) for seed in range(400)])
    assert value_of(objective, activations, 7) == float(values[7])
    standard_error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - value_of(Decorrelation(), activations)) < 4 * standard_error
    assert standard_error < 0.02


def test_a_block_sends_gradient_to_its_units_only():
    activations = torch.randn(2, 20, 12, requires_grad=True)
    terms = Decorrelation(neuron_block=4).terms(forward_of(activations), scope_with())
    terms["decorrelation"].value.backward()
    assert int((activations.grad.abs().sum(dim=(0, 1)) > 0).sum()) == 4


def test_a_block_without_a_generator_is_refused():
    with pytest.raises(UserError, match="neuron_block"):
        Decorrelation(neuron_block=4).terms(forward_of(torch.randn(2, 3, 12)), Scope())


def autocorrelated(generator: torch.Generator, rows: int = 8, width: int = 24) -> torch.Tensor:
    """Independent units, each constant within a sequence up to a little noise."""
    level = torch.randn(rows, 1, width, generator=generator)
    return level + 0.1 * torch.randn(rows, 16, width, generator=generator)


def test_cross_half_is_zero_for_independent_units_where_tokens_depend_on_one_another():
    generator = torch.Generator().manual_seed(2)
    naive, crossed = [], []
    for _ in range(200):
        scope = scope_with()
        terms = Decorrelation(cross_half=True).terms(forward_of(autocorrelated(generator)), scope)
        naive.append(terms["decorrelation"].value)
        crossed.append(scope.logs["cross_half"])
    naive, crossed = torch.stack(naive), torch.stack(crossed)
    standard_error = float(crossed.std()) / math.sqrt(len(crossed))
    assert abs(float(crossed.mean())) < 4.5 * standard_error
    assert float(naive.mean()) > 20 * standard_error


def test_cross_half_is_the_product_of_the_halves_correlations():
    activations = torch.randn(5, 9, 6, dtype=torch.float64)
    scope = scope_with()
    value = Decorrelation(cross_half=True).terms(forward_of(activations), scope)["decorrelation"].value
    even, odd = (torch.corrcoef(activations[half::2].flatten(0, 1).T) for half in (0, 1))
    product = even * odd
    wanted = (product.sum() - product.diagonal().sum()) / 30
    assert float(scope.logs["cross_half"]) == pytest.approx(float(wanted), rel=1e-10)
    assert float(value) == pytest.approx(value_of(Decorrelation(), activations), rel=1e-10)


class Guarded:
    """A guarded objective whose running scales are known."""

    def __init__(self, width: int = 4):
        self.objective = Decorrelation(starvation_guard=2.0, starvation_ratio=0.5, scale_momentum=0.9)
        self.own = self.objective.own_module(Setup([Hookpoint("mlp.neurons", PATH, 0, width)], vocab_size=1))

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return self.objective.terms(forward_of(activations), scope_with(own=self.own))["starvation"].value


def test_the_guard_pushes_a_starving_unit_back_and_leaves_the_others_alone():
    guarded = Guarded()
    activations = torch.randn(2, 30, 4)
    assert float(guarded(activations)) == 0.0  # the first batch only sets the scale
    starved = (activations * torch.tensor([1.0, 1.0, 0.1, 0.8])).requires_grad_()
    value = guarded(starved)
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0 * (1 - 0.1 / 0.5) / 4, rel=1e-5)
    grown = (starved - 0.01 * starved.grad / starved.grad.abs().max()).std(dim=(0, 1)) - starved.std(dim=(0, 1))
    assert grown[2] > 0
    assert (grown[[0, 1, 3]] == 0).all()


def test_the_running_scale_is_an_average_of_standard_deviations_that_survives_a_reload():
    guarded = Guarded()
    first, second = torch.randn(2, 30, 4), 2 * torch.randn(2, 30, 4)
    guarded(first)
    guarded(second)
    wanted = 0.9 * first.std(dim=(0, 1)) + 0.1 * second.std(dim=(0, 1))
    scale = next(value for name, value in guarded.own.state_dict().items() if name.startswith("scale/"))
    torch.testing.assert_close(scale, wanted)
    reloaded = Guarded()
    reloaded.own.load_state_dict(guarded.own.state_dict())
    assert float(reloaded(0.1 * first)) == float(guarded(0.1 * first)) > 0


def test_no_guard_needs_no_module_and_a_guard_without_its_module_is_refused():
    assert Decorrelation().own_module(Setup([], vocab_size=1)) is None
    with pytest.raises(UserError, match="starvation_guard"):
        Decorrelation(starvation_guard=1.0).terms(forward_of(torch.randn(2, 3, 4)), scope_with())


def test_a_dead_unit_under_the_guard_gives_no_nan():
    guarded = Guarded()
    guarded(torch.randn(2, 30, 4))
    activations = torch.randn(2, 30, 4) * torch.tensor([1.0, 0.0, 1.0, 1.0])
    activations.requires_grad_()
    guarded(activations).backward()
    assert activations.grad.isfinite().all()
