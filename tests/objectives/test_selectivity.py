"""What is special to the selectivity objective; the common laws and the brute-force pairs are in tests/contracts."""

import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.errors import UserError
from hf_tti.objectives.base import Scope, Setup
from hf_tti.objectives.selectivity import CLASS_SOURCES, NO_CLASS, Selectivity

COUNTS = torch.tensor([5, 9, 0, 9, 2, 7])


def forward_of(ids, activations, mask=None, eos=None) -> ForwardPass:
    ids = torch.as_tensor(ids)
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    return ForwardPass(ids, mask, {"h.0.mlp.act": Site(activations)}, eos_token_id=eos)


def run(objective: Selectivity, forward: ForwardPass) -> tuple[float, dict]:
    scope = Scope(own=objective.own_module(Setup([], 6, COUNTS)))
    return float(objective.terms(forward, scope)["selectivity"].value.detach()), scope.logs


def test_classes_are_the_most_frequent_tokens_of_the_corpus_ties_by_id():
    own = Selectivity(num_classes=3).own_module(Setup([], 6, COUNTS))
    assert own.class_of_token.tolist() == [NO_CLASS, 0, NO_CLASS, 1, NO_CLASS, 2]


def test_a_token_that_never_occurs_is_no_class():
    own = Selectivity(num_classes=6).own_module(Setup([], 6, COUNTS))
    assert own.class_of_token.tolist() == [3, 0, NO_CLASS, 1, 4, 2]


def test_classes_are_part_of_the_saved_state():
    own = Selectivity(num_classes=3).own_module(Setup([], 6, COUNTS))
    other = Selectivity(num_classes=3).own_module(Setup([], 6, torch.arange(6)))
    other.load_state_dict(own.state_dict())
    assert torch.equal(other.class_of_token, own.class_of_token)


def test_the_next_token_stays_in_the_row_the_document_and_the_mask():
    ids = [[1, 3, 0, 5, 1], [3, 1, 3, 3, 3]]  # 0 ends a document
    mask = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    own = Selectivity(num_classes=4).own_module(Setup([], 6, COUNTS))  # classes: 1, 3, 5, 0
    classes = CLASS_SOURCES["next_token"](forward_of(ids, torch.zeros(2, 5, 1), mask, eos=0), own)
    assert classes.tolist() == [[1, 3, NO_CLASS, 0, NO_CLASS], [0, 1, NO_CLASS, NO_CLASS, NO_CLASS]]


def test_a_unit_that_knows_the_next_token_is_selective_for_that_and_not_for_the_token():
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([0, 1, 3, 5])[torch.randint(4, (8, 60), generator=generator)]
    following = torch.roll(ids, -1, dims=1)
    forward = forward_of(ids, (following == 3).float()[..., None])
    assert run(Selectivity(num_classes=6, classes="next_token"), forward)[0] < -0.95
    assert run(Selectivity(num_classes=6), forward)[0] > -0.1


def test_one_huge_activation_buys_no_selectivity():
    ids = torch.tensor([[1, 3] * 40])
    noise = torch.randn(1, 80, 1, generator=torch.Generator().manual_seed(1))
    spiked = noise.clone()
    spiked[0, 0] = 1e6
    before, after = (run(Selectivity(num_classes=2), forward_of(ids, a))[0] for a in (noise, spiked))
    assert abs(after - before) < 0.1


def test_dead_and_constant_units_are_left_out_and_counted():
    ids = torch.tensor([[1, 3, 5] * 20])
    activations = torch.randn(1, 60, 4, generator=torch.Generator().manual_seed(2)) + (ids == 3)[..., None]
    alone = run(Selectivity(num_classes=3), forward_of(ids, activations[..., :2]))[0]
    activations[..., 2], activations[..., 3] = 0.0, 123.4
    value, logs = run(Selectivity(num_classes=3), forward_of(ids, activations))
    assert value == pytest.approx(alone, rel=1e-5)
    assert float(logs["alive_fraction"]) == 0.5


def test_tokens_without_a_class_are_counted_and_change_nothing_but_the_scale():
    ids = torch.tensor([[1, 3, 4, 4] * 10])
    activations = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(3))
    activations[:, 2::4], activations[:, 3::4] = activations[:, ::4], activations[:, 1::4]
    value, logs = run(Selectivity(num_classes=2), forward_of(ids, activations))
    kept = (ids != 4)[0]
    assert value == pytest.approx(run(Selectivity(num_classes=2), forward_of(ids[:, kept], activations[:, kept]))[0])
    assert float(logs["classed_fraction"]) == 0.5


def test_no_token_counts_or_no_module_is_refused_in_one_line():
    with pytest.raises(UserError, match="token_counts") as error:
        Selectivity().own_module(Setup([], 6, None))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="own_module"):
        Selectivity().terms(forward_of([[1, 3]], torch.zeros(1, 2, 3)), Scope())


def test_an_unknown_kind_of_class_names_the_choices():
    with pytest.raises(UserError, match="did you mean 'next_token'.*choices: token, next_token"):
        Selectivity(classes="nexttoken")
