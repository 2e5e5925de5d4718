"""Two faults of a Hub on a training in a process of its own; `tests/faults/hub.py` has all of them, with figures."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_hub_that_fails_costs_no_step_no_weight_and_no_branch():
    script = Path(__file__).parents[1] / "faults" / "hub.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True)
    found = json.loads(done.stdout)["cells"]
    assert len(found) == 2
    down, lost = found["503 for good, middle"], found["commit's reply lost, end"]
    for cell in (down, lost):
        assert cell["ended"] and cell["met"] and cell["commits"] == 1, cell
    assert lost["exit"] == 0 and not lost["missing"]
    assert down["exit"] == 4 and down["missing"] == ["step8", "step10", "step12", "main"]
    assert down["listed"] and down["command"] == 0 and not down["left"]
