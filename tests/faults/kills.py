"""`kill -9` at random moments of a training, restarted unattended until it is done.

    python tests/faults/kills.py --kills 200 [--trainer stock|run] [--seed 0]
Each trial is one training, killed one to three times. It holds if no restart needs a person and weights, objectives,
optimizer, schedule, generators and the ledger of losses are bitwise those of a training that nothing interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from children import KILLED, kill, last_line, run, start, wait
from training import checkpoints_of, differing, outcome_of, train, write_recipes


def reference(trainer: str, folder: Path) -> tuple[dict[str, Any], float]:
    """What an uninterrupted training leaves, and the seconds that it takes."""
    begun = time.monotonic()
    code = run(partial(train, trainer, folder / "run"), folder / "log")
    if code:
        raise SystemExit(f"the uninterrupted training failed: {last_line(folder / 'log')}")
    return outcome_of(folder / "run"), time.monotonic() - begun


def where(folder: Path) -> str:
    """What a killed training was doing, by what it left."""
    if any(folder.glob(".saving-*")) or any(folder.glob(".re*-checkpoint-*")):
        return "while saving"
    return "between saves" if checkpoints_of(folder) else "before the first checkpoint"


def trial(trainer: str, folder: Path, seconds: float, draw: random.Random, figures: dict[str, Any]) -> float:
    """One training with one to three kills within `seconds` of its starts; adds to the figures.

    Returns the seconds that a whole training takes by now: those of a start that was done before it was killed.
    """
    run_dir, log = folder / "run", folder / "log"
    job = partial(train, trainer, run_dir)
    kills = draw.choice((1, 1, 2, 3))
    while outcome_of(run_dir) is None:
        figures["starts"] += 1
        is_first, begun = not run_dir.exists(), time.monotonic()
        pid = start(job, log)
        code = wait(pid, seconds=draw.uniform(0, seconds)) if kills else wait(pid)
        if code is None:
            code = kill(pid)
        if code == KILLED:
            kills -= 1
            figures["kills"] += 1
            place = where(run_dir) if run_dir.is_dir() else "before the first checkpoint"
            figures["killed"][place] = figures["killed"].get(place, 0) + 1
        elif code:  # what a person does: look, remove the newest folder, start again
            figures["stuck_starts"] += 1
            figures["said"].append(last_line(log))
            if not checkpoints_of(run_dir):
                raise SystemExit(f"stuck for good: {last_line(log)}")
            shutil.rmtree(checkpoints_of(run_dir)[-1])
        elif is_first:
            seconds = time.monotonic() - begun
    return seconds


def measure(trainer: str, kills: int, seed: int = 0) -> dict[str, Any]:
    """The figures of trials until so many kills have landed."""
    draw = random.Random(seed)
    counts = ("kills", "trials", "starts", "stuck_starts", "bitwise_equal")
    figures: dict[str, Any] = {"trainer": trainer, **dict.fromkeys(counts, 0), "killed": {}, "said": [], "differs": []}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, write_recipes():
        expected, seconds = reference(trainer, _made(Path(temporary) / "reference"))
        while figures["kills"] < kills:
            folder = _made(Path(temporary) / f"trial-{figures['trials']}")
            seconds = trial(trainer, folder, seconds, draw, figures)
            wrong = differing(expected, outcome_of(folder / "run"))
            figures["trials"] += 1
            figures["bitwise_equal"] += not wrong
            figures["differs"] += [wrong] if wrong else []
            shutil.rmtree(folder)
    figures["seconds"] = round(time.monotonic() - begun, 1)
    return figures


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def holds(figures: dict[str, Any]) -> bool:
    """Whether every training came through by itself, bitwise."""
    return figures["stuck_starts"] == 0 and figures["bitwise_equal"] == figures["trials"] > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trainer", choices=("hf_tti", "stock", "run"), default="hf_tti")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measure(options.trainer, options.kills, options.seed)
    print(json.dumps(found, indent=1))
    sys.exit(0 if holds(found) else 1)
