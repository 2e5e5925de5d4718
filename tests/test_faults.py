"""A training that is killed, damaged or out of room ends bitwise as one that was not; `tests/faults/` has all of them.

The faults run in a process of its own: it forks trainings, and this one has threads.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def figures() -> dict:
    script = Path(__file__).with_name("faults") / "quick.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_at_random_moments_it_ends_bitwise_the_same(figures):
    found = figures["kills"]
    assert found["kills"] >= 2 and found["stuck_starts"] == 0, found
    assert found["bitwise_equal"] == found["trials"], found["differs"]


def test_killed_inside_a_save_it_loses_nothing(figures):
    assert figures["points"]["points"] == 3 and not figures["points"]["failed"], figures["points"]["failed"]


def test_damaged_checkpoints_are_passed_over_or_stop_it(figures):
    found = figures["corruption"]
    assert (found["cases"], found["right"], found["stopped"]) == (3, 2, 1), found["not_right"]
    assert "exit 3" in found["not_right"]["model.safetensors of all checkpoints: missing"]


def test_a_full_disk_costs_no_checkpoint(figures):
    assert figures["full_disk"]["cases"] == 1 and not figures["full_disk"]["failed"], figures["full_disk"]["failed"]
