"""No hostile file runs anything or leads out of its folder; what is refused is refused in one printable line.

`tests/faults/hostile.py` runs those as well that are passed over, which train or evaluate a model.
"""

import pytest
from hostile_files import FILES
from world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", "")
        patch.setattr("builtins.input", lambda *_: "y")  # whoever asks is told to go on
        yield World(tmp_path_factory.mktemp("security"))


def test_there_are_forty_and_more():
    assert len({hostile.name for hostile in FILES}) == len(FILES) >= 40


@pytest.mark.parametrize(
    "hostile", [hostile for hostile in FILES if hostile.is_quick], ids=lambda hostile: hostile.name
)
def test_a_hostile_file_does_nothing(world, hostile):
    said = world.case(hostile.name).attempt(hostile.plant, hostile.use)
    assert said or not hostile.refused, f"{hostile.name}: not refused"
