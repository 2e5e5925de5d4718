"""Stops of a recipe's training on two forked ranks, for the default tests; figures as JSON on standard output."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from children import kill, last_line, start, wait
from ranks import as_rank, free_port
from signals import PATIENCE_S, PLACES, SETTLE_S, STOPPED_AT, TRAINING, differences, finish, outcome, reference

from hf_tti.checkpoints import problems_of
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from tiny_runs import write_recipe

WORLD = 2
CELLS = {  # what comes where, to which ranks
    "SIGTERM in step to rank 1": ("step", "SIGTERM", (1,)),
    "SIGUSR1 in save to rank 1, which waits": ("save", "SIGUSR1", (1,)),
    "SIGINT in evaluation to rank 0, SIGTERM to rank 1": ("evaluation", "SIGINT", (0, 1)),
    "SIGTERM in begin to both": ("begin", "SIGTERM", (0, 1)),
}


def stop(base: Path, run_dir: Path, place: str, name: str, targets: tuple[int, ...]) -> dict:
    """Exit codes of the ranks and the last line of rank 0; the second of two targets gets a SIGTERM."""
    places, port = base / f"{run_dir.name}.places", free_port()
    places.mkdir()
    wanted = PLACES.get(place, f"{place}:0")

    def work(rank: int) -> None:
        os.environ.update(HF_TTI_CACHE=str(base / "cache"), PLACES_FOLDER=str(places), PLACES_WANTED=wanted)
        as_rank(rank, WORLD, port)
        train_run(expand_sweep(load_recipe(base / "tiny.yaml"))[0], run_dir)

    logs = [base / f"{run_dir.name}.{rank}.log" for rank in range(WORLD)]
    pids = [start(lambda rank=rank: work(rank), logs[rank]) for rank in range(WORLD)]
    waiting = [places / f"at.{rank}" for rank in range(1 if place == "save" else WORLD)]
    end = time.monotonic() + 10 * PATIENCE_S
    while not all(path.exists() for path in waiting) and time.monotonic() < end:
        time.sleep(0.02)
    for number, rank in enumerate(targets):
        os.kill(pids[rank], signal.SIGTERM if number else signal.Signals[name])
    time.sleep(SETTLE_S)
    (places / "go").touch()
    codes = [wait(pid, seconds=PATIENCE_S) for pid in pids]
    hung = [kill(pid) for pid, code in zip(pids, codes, strict=True) if code is None]
    return {"exit_codes": codes, "hung": len(hung), "said": last_line(logs[0])}


def measure() -> dict[str, dict]:
    """Each cell's figures."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        write_recipe(base, training=TRAINING, callbacks={"places:Announce": {}})
        expected = reference(base, WORLD)
        for number, (name, (place, sent, targets)) in enumerate(CELLS.items()):
            run_dir = base / f"run-{number}"
            cell = stop(base, run_dir, place, sent, targets)
            if place in STOPPED_AT:
                cell["problems"] = problems_of(run_dir / f"checkpoint-{STOPPED_AT[place]}")
            cell["claimed"] = (run_dir / "run.json").exists()
            cell["resumed"] = finish(base, run_dir, WORLD)
            cell["differs"] = differences(expected, outcome(run_dir)) if cell["resumed"] == 0 else None
            found[name] = cell
    return found


if __name__ == "__main__":
    print(json.dumps(measure()))
