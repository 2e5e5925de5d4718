"""A few of every kind of fault in half a minute, for the default tests; figures as JSON on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import corruption
import full_disk
import kills
import points

POINTS = ("half of model.safetensors", "old moved away", "rotation began")
DAMAGED = (
    "optimizer.safetensors: a bit flipped in the middle",
    "trainer_state.json: missing",
    "model.safetensors of all checkpoints: missing",
)

if __name__ == "__main__":
    figures = {
        "kills": kills.measure("hf_tti", kills=2, seed=1),
        "points": points.measure(keep=lambda point: point in POINTS),
        "corruption": corruption.measure("hf_tti", keep=lambda case: case in DAMAGED),
        "full_disk": full_disk.measure(rlimit=True, only=[30_000]),
    }
    print(json.dumps(figures))
