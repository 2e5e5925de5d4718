"""The names of rented GPUs."""

import pytest

from hf_tti.cost.gpus import GPUS, find_gpu
from hf_tti.errors import UserError


def test_exactly_an_h100_costs_what_an_h100_costs():
    assert find_gpu("H100!") == find_gpu("H100") != find_gpu("H200")


@pytest.mark.parametrize("name", [*(f"{name}!" for name in GPUS if name != "H100"), "h100", ""])
def test_no_other_name_is_taken(name):
    with pytest.raises(UserError, match="unknown"):
        find_gpu(name)


def test_modal_attaches_four_a10_and_eight_of_any_other():
    assert {name: card.most_in_a_container for name, card in GPUS.items()} == {**dict.fromkeys(GPUS, 8), "A10": 4}
