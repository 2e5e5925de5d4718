"""Two processes (gloo): one of them or both killed at random moments, restarted; then another number of processes.

python tests/faults/ranks.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch.distributed as dist
from children import kill, last_line, start, wait
from points import whole
from training import OUTCOME, checkpoints_of, differing, outcome_of, train

import hf_tti.saving

RESUMED_FROM = 4  # step, by another number of processes
PATIENCE_S = 60  # for the rank that is left, to notice that the other is gone


def launch(world: int, folder: Path, before: Callable[[int], None] = lambda rank: None, **changes: Any) -> list[int]:
    """The pids of so many ranks that train in one folder, each with a log beside it; each calls `before` first."""
    port = free_port()

    def work(rank: int) -> None:
        as_rank(rank, world, port)
        if world > 1:
            changes["ddp_backend"] = "gloo"
        before(rank)
        train("hf_tti", folder, **changes)

    return [start(lambda rank=rank: work(rank), log_of(folder, rank)) for rank in range(world)]


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank: int, world: int, port: int) -> None:
    """In a child: what a launcher sets, and the group of processes."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(world),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GLOO_SOCKET_IFNAME="lo",
        ACCELERATE_USE_CPU="true",
    )
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE_S))


def log_of(folder: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return folder.with_name(f"{folder.name}.{rank}.log")


def together(world: int, folder: Path, **changes: Any) -> list[int]:
    """The exit codes of ranks that nothing kills."""
    return [wait(pid) for pid in launch(world, folder, **changes)]


def killed_and_restarted(folder: Path, kills: int, seconds: float, draw: random.Random, figures: dict) -> None:
    """One training on two ranks, until it is done."""
    while outcome_of(folder) is None:
        figures["starts"] += 1
        pids = launch(2, folder)
        if not kills:
            codes = [wait(pid) for pid in pids]
            if any(codes):
                figures["stuck_starts"] += 1
                raise SystemExit(f"stuck: {codes} {last_line(log_of(folder, 0))} | {last_line(log_of(folder, 1))}")
            continue
        time.sleep(draw.uniform(0, seconds))
        victims = draw.choice(((0,), (1,), (0, 1)))
        running = [wait(pid, seconds=0) is None for pid in pids]
        if not all(running):  # it was done sooner
            for pid, runs in zip(pids, running, strict=True):
                if runs:
                    wait(pid)
            continue
        for rank in victims:
            kill(pids[rank])
        kills -= 1
        figures["kills"] += 1
        for rank in {0, 1} - set(victims):
            if wait(pids[rank], seconds=PATIENCE_S) is None:
                figures["other_rank_had_to_be_ended"] += 1
                kill(pids[rank])


def other_worlds(base: Path) -> dict[str, Any]:
    """Two ranks' checkpoint on one: what is said, and how far the losses are with elastic_resume."""
    finished, stopped = base / "finished", base / "stopped"
    same: dict[str, Any] = {"by_batch": False, "save_total_limit": None}
    codes = together(2, finished, **same)
    expected = outcome_of(finished)
    shutil.copytree(finished, stopped)
    (stopped / OUTCOME).unlink()
    for folder in checkpoints_of(stopped)[RESUMED_FROM:]:
        shutil.rmtree(folder)
    half = {**same, "gradient_accumulation_steps": 4}
    refused = together(1, stopped, **half)
    said = last_line(log_of(stopped, 0))
    uneven = together(1, stopped, elastic_resume=True, **same)
    said_uneven = last_line(log_of(stopped, 0))
    went_on = together(1, stopped, elastic_resume=True, **half)
    pairs = [
        (a["loss"], b["loss"])
        for a, b in zip(expected["ledger"], outcome_of(stopped)["ledger"], strict=True)
        if "loss" in a and a["step"] > RESUMED_FROM
    ]
    return {
        "exit_codes": {"two": codes, "refused": refused, "other product": uneven, "elastic": went_on},
        "said": said.replace(str(base), "..."),
        "said_of_another_product": said_uneven.replace(str(base), "..."),
        "largest_loss_difference": max(abs(a - b) / abs(a) for a, b in pairs),
        "steps_compared": len(pairs),
    }


def break_third_save() -> None:
    """In a child: its disk is full when it comes to write its generators the third time."""
    write, left = hf_tti.saving.save_state, [3]

    def fails(state: Any, path: Path) -> None:
        left[0] -= path.name.startswith("rng_state_0")
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        write(state, path)

    hf_tti.saving.save_state = fails


def full_disk(base: Path) -> dict[str, Any]:
    """Exit codes where the third save fails on rank 0, which writes, and what is left: the two checkpoints before."""
    folder = base / "full"
    pids = launch(2, folder, lambda rank: break_third_save() if rank == 0 else None)
    codes = [wait(pid) for pid in pids]
    return {"exit_codes": codes, "left": sorted(path.name for path in folder.iterdir()), "whole": len(whole(folder))}


def measure(kills: int, seed: int = 0) -> dict[str, Any]:
    """The figures of both."""
    draw = random.Random(seed)
    counts = ("kills", "trials", "starts", "stuck_starts", "other_rank_had_to_be_ended", "bitwise_equal")
    figures: dict[str, Any] = {**dict.fromkeys(counts, 0), "differs": []}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        if any(together(2, base / "reference")):
            raise SystemExit(f"the uninterrupted training failed: {last_line(log_of(base / 'reference', 0))}")
        expected, seconds = outcome_of(base / "reference"), time.monotonic() - begun
        while figures["kills"] < kills:
            folder = base / f"trial-{figures['trials']}"
            killed_and_restarted(folder, min(2, kills - figures["kills"]), seconds, draw, figures)
            wrong = differing(expected, outcome_of(folder))
            figures["trials"] += 1
            figures["bitwise_equal"] += not wrong
            figures["differs"] += [wrong] if wrong else []
        figures["other_worlds"] = other_worlds(base)
        figures["full_disk"] = full_disk(base)
    figures["seconds"] = round(time.monotonic() - begun, 1)
    return figures


def holds(figures: dict[str, Any]) -> bool:
    """Bitwise after every kill; another number of processes refused, or elastic with the same losses."""
    other = figures["other_worlds"]
    return (
        figures["stuck_starts"] == 0
        and figures["bitwise_equal"] == figures["trials"]
        and other["exit_codes"] == {"two": [0, 0], "refused": [2], "other product": [2], "elastic": [0]}
        and "world_size was 2, is 1" in other["said"]
        and figures["full_disk"] == {"exit_codes": [2, 2], "left": ["checkpoint-1", "checkpoint-2"], "whole": 2}
        and other["largest_loss_difference"] <= 1e-4
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measure(options.kills, options.seed)
    print(json.dumps(found, indent=1))
    sys.exit(0 if holds(found) else 1)
