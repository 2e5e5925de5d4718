"""The laws that every objective obeys. Parametrised over hf_tti/objectives: a new file is tested by existing."""

import math
from dataclasses import fields, replace

import pytest
import torch
from distributed_objectives import run_rank, share_of
from objective_facts import (
    CASES,
    FACTS,
    LENGTHS,
    WIDTH,
    evaluate,
    evaluate_with_logs,
    facts_of,
    independent_forward,
    make_forward,
    one_row,
    ragged_forward,
    with_activations,
)

from hf_tti.activations import ForwardPass
from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from hf_tti.objectives.base import Objective

NAMES = component_names("objectives")
every_name = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize("case", CASES)


def requiring_grad(forward: ForwardPass) -> ForwardPass:
    return with_activations(forward, lambda a: a.detach().clone().requires_grad_())


def gradients(forward: ForwardPass) -> list[torch.Tensor]:
    return [site.activations.grad for site in forward.sites.values()]


def value_and_gradients(objective: Objective, forward: ForwardPass, **kwargs):
    forward = requiring_grad(forward)
    value = evaluate(objective, forward, **kwargs)
    value.backward()
    return value.detach(), gradients(forward)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


# ---- The table and the interface -------------------------------------------------------------------------------------


@every_name
def test_every_objective_has_an_entry_in_the_table_of_facts(name):
    assert isinstance(facts_of(name).objective, load_component("objectives", name))


@every_name
def test_every_option_has_a_help_text(name):
    options = [f for f in fields(load_component("objectives", name)) if f.name != "sites"]
    assert [f.name for f in options if not f.metadata.get("help")] == []


@every_name
def test_the_range_of_an_option_is_enforced_in_python_too(name):
    cls = load_component("objectives", name)
    outside = {"min": -1, "exclusive_min": -1, "max": 1}
    wrong = [
        (f.name, f.metadata[limit] + step)
        for f in fields(cls)
        for limit, step in outside.items()
        if limit in f.metadata
    ]
    wrong += [(f.name, "nothing of the sort") for f in fields(cls) if "choices" in f.metadata]
    for field_name, value in wrong:
        with pytest.raises(UserError, match=rf"{name}\.{field_name}: "):
            cls(**{field_name: value})


@every_case
def test_terms_are_float32_scalars_even_for_bfloat16_activations(case):
    forward = requiring_grad(ragged_forward(torch.bfloat16))
    value, terms, logs = evaluate_with_logs(CASES[case][1], forward)
    value.backward()
    exact = evaluate(CASES[case][1], with_activations(forward, lambda a: a.detach().double()))
    assert all(term.value.dtype == torch.float32 and term.value.shape == () for term in terms.values())
    assert all(not log.requires_grad and log.shape == () for log in logs.values())
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in gradients(forward))
    assert float(value.detach()) == pytest.approx(float(exact), rel=1e-5)


# ---- Values ----------------------------------------------------------------------------------------------------------


@every_case
def test_the_value_is_the_oracles(case):
    name, objective = CASES[case]
    forward = ragged_forward(torch.float64)
    rows = [site.activations[forward.token_mask] for site in forward.sites.values()]
    wanted = sum(facts_of(name).oracle(objective, forward, r) for r in rows) / len(rows)
    assert float(evaluate(objective, forward)) == pytest.approx(wanted, rel=1e-10)


@every_name
def test_golden_value(name):
    facts = facts_of(name)
    assert float(evaluate(facts.objective, ragged_forward())) == pytest.approx(facts.golden, rel=1e-5)


@every_name
def test_the_optimum_reaches_the_stated_bound_and_the_failure_is_far_from_it(name):
    facts = facts_of(name)
    assert float(evaluate(facts.objective, facts.optimum())) == pytest.approx(facts.bound, abs=1e-5)
    assert float(evaluate(facts.objective, facts.failure())) > facts.bound + 0.5


@pytest.mark.parametrize("name", [name for name in NAMES if name in FACTS and FACTS[name].zero_under_independence])
@pytest.mark.parametrize("num_tokens", [24, 96, 384])
def test_the_expectation_under_independence_is_zero(name, num_tokens):
    objective = facts_of(name).objective
    width, generator = 24, torch.Generator().manual_seed(num_tokens)
    values = torch.stack(
        [evaluate(objective, independent_forward(num_tokens, generator, width), width=width) for _ in range(150)]
    )
    standard_error = float(values.std()) / math.sqrt(len(values))
    assert standard_error < 0.15 / num_tokens  # a floor of 1 / N would show
    assert abs(float(values.mean())) < 4.5 * standard_error


# ---- Invariances -----------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("garbage", [0.0, 1e4, -3e15])
def test_pad_rows_and_columns_change_nothing(case, garbage):
    objective, forward = CASES[case][1], ragged_forward()
    wanted, wanted_gradients = value_and_gradients(objective, forward)
    batch, length = forward.input_ids.shape

    def pad(tensor, value):
        grown = tensor.new_full((batch + 2, length + 3, *tensor.shape[2:]), value)
        grown[:batch, :length] = tensor
        return grown

    padded = make_forward(
        pad(forward.input_ids, 0),
        pad(forward.token_mask, False),
        [
            pad(s.activations, 0).masked_fill(~pad(forward.token_mask, False)[..., None], garbage)
            for s in forward.sites.values()
        ],
    )
    got, got_gradients = value_and_gradients(objective, padded)
    assert float(got) == pytest.approx(float(wanted), rel=2e-6)
    for g, w in zip(got_gradients, wanted_gradients, strict=True):
        assert relative_error(g[:batch, :length], w) < 2e-6
        assert (g[~padded.token_mask] == 0).all()


@every_case
def test_masked_tokens_get_no_gradient_and_real_ones_do(case):
    forward = ragged_forward()
    _, grads = value_and_gradients(CASES[case][1], forward)
    for gradient in grads:
        assert (gradient[~forward.token_mask] == 0).all()
        assert gradient[forward.token_mask].abs().max() > 0


@every_case
def test_the_order_of_sequences_does_not_matter(case):
    objective, forward = CASES[case][1], ragged_forward()
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(3))
    shuffled = replace(
        with_activations(forward, lambda a: a[order]),
        input_ids=forward.input_ids[order],
        token_mask=forward.token_mask[order],
    )
    wanted, wanted_gradients = value_and_gradients(objective, forward)
    got, got_gradients = value_and_gradients(objective, shuffled)
    assert float(got) == pytest.approx(float(wanted), rel=2e-6)
    for g, w in zip(got_gradients, wanted_gradients, strict=True):
        assert relative_error(g, w[order]) < 2e-6


@pytest.mark.parametrize("name", [name for name in NAMES if name in FACTS and FACTS[name].token_permutation])
def test_the_order_of_tokens_does_not_matter(name):
    facts = facts_of(name)
    forward = ragged_forward()
    order = torch.randperm(forward.input_ids.numel(), generator=torch.Generator().manual_seed(4))

    def shuffle(tensor):
        return tensor.flatten(0, 1)[order].view(tensor.shape)

    shuffled = replace(
        with_activations(forward, shuffle),
        input_ids=shuffle(forward.input_ids),
        token_mask=shuffle(forward.token_mask),
    )
    wanted = float(evaluate(facts.objective, forward))
    assert float(evaluate(facts.objective, shuffled)) == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("case", [case for case, (name, _) in CASES.items() if FACTS[name].rescale_invariant])
def test_a_units_scale_does_not_matter(case):
    objective = CASES[case][1]
    forward = ragged_forward()
    scales = torch.tensor([0.03, 30.0, 1.0, 0.5, 200.0, 7.0])
    wanted, wanted_gradients = value_and_gradients(objective, forward)
    got, got_gradients = value_and_gradients(objective, with_activations(forward, lambda a: a * scales))
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)
    for g, w in zip(got_gradients, wanted_gradients, strict=True):
        assert relative_error(g * scales, w) < 1e-5


@pytest.fixture(scope="module", params=[2, 4])
def over_ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"gloo{request.param}")
    torch.multiprocessing.spawn(run_rank, args=(request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@every_case
def test_one_process_equals_several(case, over_ranks):
    """Values are alike on all ranks; gradients averaged over ranks, as DDP does, are those of one process."""
    wanted, wanted_gradients = value_and_gradients(CASES[case][1], ragged_forward())
    forward, world_size = ragged_forward(), len(over_ranks)
    for rank, result in enumerate(over_ranks):
        value, grads = result[case]
        assert float(value) == pytest.approx(float(wanted), rel=2e-6)
        rows = slice(rank * len(LENGTHS) // world_size, (rank + 1) * len(LENGTHS) // world_size)
        for got, w in zip(grads, wanted_gradients, strict=True):
            part = w[rows][forward.token_mask[rows]]
            assert got.shape == part.shape == (int(share_of(forward, rank, world_size).num_active), WIDTH)
            assert float((got / world_size - part).abs().max()) < 2e-6 * float(w.abs().max())


# ---- Gradients -------------------------------------------------------------------------------------------------------


class FrozenConstants:
    """An all_reduce that repeats what carried no gradient when first evaluated: stop-gradients under differencing."""

    def __init__(self):
        self.recorded: list[torch.Tensor] = []
        self.calls = 0
        self.frozen = False

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad:
            return tensor
        if not self.frozen:
            self.recorded.append(tensor.clone())
            return tensor
        constant = self.recorded[self.calls % len(self.recorded)]
        self.calls += 1
        return constant


@every_case
def test_gradients_are_those_of_finite_differences(case):
    name, objective = CASES[case]
    forward = requiring_grad(ragged_forward(torch.float64))
    if facts_of(name).stops_gradient:
        constants = FrozenConstants()
        evaluate(objective, forward, all_reduce=constants)
        constants.frozen = True
        scope = {"all_reduce": constants}
    else:
        scope = {}

    def function(*activations):
        return evaluate(objective, make_forward(forward.input_ids, forward.token_mask, activations), **scope)

    tensors = tuple(
        # Away from zero, where |a| has no derivative.
        (a + 0.05 * torch.where(a < 0, -1.0, 1.0)).detach().requires_grad_()
        for a in (site.activations for site in forward.sites.values())
    )
    assert torch.autograd.gradcheck(function, tensors, eps=1e-6, atol=1e-7, rtol=1e-5)


# ---- Degenerate inputs -----------------------------------------------------------------------------------------------


def assert_finite(objective: Objective, forward: ForwardPass, width: int = WIDTH) -> float:
    value, grads = value_and_gradients(objective, forward, width=width)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in grads)
    return float(value)


@every_case
@pytest.mark.parametrize("constant", [0.0, 1.0, -250.0])
def test_a_dead_or_constant_unit_gives_no_nan(case, constant):
    def switch_off(a):
        a = a.clone()
        a[..., 2] = constant
        return a

    assert_finite(CASES[case][1], with_activations(ragged_forward(), switch_off))


@every_case
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_all_units_dead_or_constant_give_no_nan(case, constant):
    assert_finite(CASES[case][1], with_activations(ragged_forward(), lambda a: torch.full_like(a, constant)))


@every_case
def test_an_empty_mask_gives_zero_without_nan(case):
    forward = ragged_forward()
    empty = replace(forward, token_mask=torch.zeros_like(forward.token_mask))
    assert assert_finite(CASES[case][1], empty) == 0.0


@every_case
@pytest.mark.parametrize("num_tokens", [1, 2])
def test_one_or_two_tokens_give_no_nan(case, num_tokens):
    assert_finite(CASES[case][1], one_row(torch.zeros(num_tokens, dtype=torch.long), torch.randn(num_tokens, WIDTH)))


@every_case
def test_one_unit_gives_no_nan(case):
    assert_finite(CASES[case][1], with_activations(ragged_forward(), lambda a: a[..., :1]), width=1)
