"""`signals.py` for transformers' own Trainer with `enable_jit_checkpoint`, which is what it has for signals.

    python tests/faults/stock_stops.py [--worlds 1 2] [--only TEXT]
The training is that of `training.py`. As a script with a folder it is that training, to be put under a launcher.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import transformers.trainer
from children import start, wait
from places import Announce
from ranks import as_rank, free_port
from signals import (
    LIMIT_S,
    SETTLE_S,
    Cell,
    begin_program,
    send,
    wait_for,
    wait_until_gone,
)
from training import OUTCOME, checkpoints_of, differing, outcome_of, train

STEPS = 300  # it goes on for three seconds after a signal, by design; no checkpoint is due in that time
SETTINGS = {
    "eval_steps": 50,
    "save_steps": STEPS,
    "max_steps": STEPS,
    "logging_steps": 50,
    "enable_jit_checkpoint": True,
}
PLACES = {"step": "step:2", "evaluation": "evaluation:50"}
SENT = (("none", 1, "rank"), ("accelerate", 1, "launcher"), ("accelerate", 2, "launcher"), ("accelerate", 2, "rank"))


def run(folder: Path) -> None:
    """Begin, or resume from the newest folder; places are announced as in our own training."""
    transformers.trainer.DEFAULT_CALLBACKS.append(Announce)
    train("stock", folder, **SETTINGS)


def finish(run_dir: Path, world: int) -> int:
    """By forked ranks; their highest exit code."""
    port = free_port()

    def work(rank: int) -> None:
        as_rank(rank, world, port)
        run(run_dir)

    pids = [
        start(lambda rank=rank: work(rank), run_dir.with_name(f"{run_dir.name}.forked.log")) for rank in range(world)
    ]
    return max(abs(wait(pid)) for pid in pids)


def measure_cell(base: Path, cell: Cell, expected: dict[str, Any]) -> dict[str, Any]:
    """Stop, resume, compare."""
    run_dir = base / str(cell).replace(": ", "-").replace(" ", "-")
    job = begin_program(
        base, run_dir, cell.launcher, cell.world, [str(Path(__file__)), str(run_dir)], PLACES[cell.place]
    )
    wait_for(job, [f"{file}.{rank}" for file in ("at", "pid") for rank in range(cell.world)])
    begun = time.monotonic()
    send(job, cell)
    time.sleep(SETTLE_S)
    (job.places / "go").touch()
    gone = wait_until_gone(job) is not None
    found: dict[str, Any] = {
        "seconds": round(time.monotonic() - begun, 2) if gone else None,
        "exit_code": job.process.returncode,
        "tracebacks": job.log.read_text().count("Traceback (most recent call last)"),
        "went_to_the_end": (run_dir / f"checkpoint-{STEPS}").exists(),
        "checkpoints": [path.name for path in checkpoints_of(run_dir)],
    }
    found["saved"] = bool(found["checkpoints"]) and not found["went_to_the_end"]
    if not found["went_to_the_end"]:
        (run_dir / OUTCOME).unlink(missing_ok=True)  # a run that is stopped returns like one that is done
        found["resumed"] = finish(run_dir, cell.world)
    left = outcome_of(run_dir)
    found["differs"] = None if left is None else differing(expected, left)
    found["holds"] = gone and found["seconds"] <= LIMIT_S and found["saved"] and found["differs"] == []
    return found


def measure(worlds: list[int], only: str = "") -> dict[str, Any]:
    """The figures of the cells whose name has `only` in it."""
    figures: dict[str, Any] = {"cells": 0, "hold": 0, "orphaned_or_hung": 0, "failed": {}}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        expected = {}
        for world in worlds:
            if finish(base / f"reference-{world}", world):
                raise SystemExit((base / f"reference-{world}.forked.log").read_text()[-2000:])
            expected[world] = outcome_of(base / f"reference-{world}")
        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            for launcher, world, target in SENT:
                for place in PLACES:
                    cell = Cell(launcher, world, place, target, name)
                    if world not in worlds or only not in str(cell):
                        continue
                    found = measure_cell(base, cell, expected[world])
                    print(cell, json.dumps(found), file=sys.stderr, flush=True)
                    figures["cells"] += 1
                    figures["hold"] += found["holds"]
                    figures["orphaned_or_hung"] += found["seconds"] is None or found["went_to_the_end"]
                    if not found["holds"]:
                        figures["failed"][str(cell)] = found
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose name has it")
    options = parser.parse_args()
    if options.folder is not None:
        run(options.folder)
        sys.exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PLACES_FOLDER", None)
    print(json.dumps(measure(options.worlds, options.only), indent=1))
