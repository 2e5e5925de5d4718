"""Killed at each named point of a save, and in the middle of each file; restarted unattended.

    python tests/faults/points.py
A point holds if right after the kill every folder called checkpoint-<step> verifies and no whole checkpoint is lost,
and if the restarted training ends bitwise as one that nothing interrupted. The points are those that a save passes,
found by recording one (`hf_tti.checkpoints.reached`); in the second set the save replaces a checkpoint of its step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import transformers.modeling_utils
from children import KILLED, last_line, run
from training import OUTCOME, checkpoints_of, differing, outcome_of, train
from transformers import PretrainedConfig, TrainerState

import hf_tti.checkpoints
import hf_tti.owning
import hf_tti.saving
import hf_tti.state_files

SAVE = 5  # which one is killed: from the fourth on every save also rotates
REPLACED = ("old moved away", "renamed", "published", "replaced one seen to")
_WRITERS = (
    (hf_tti.state_files, "save_file", 1),
    (hf_tti.owning, "save_file", 1),
    (transformers.modeling_utils, "safe_save_file", 1),
    (TrainerState, "save_to_json", 1),
    (PretrainedConfig, "to_json_file", 1),
    (Path, "write_text", 0),
)


def hook(reached: Callable[[str], None]) -> None:
    """In a child: call `reached` at every point of a save, and at `half of <file>` with half of a file written."""
    for module in (hf_tti.checkpoints, hf_tti.saving):
        module.reached = reached
    for owner, name, position in _WRITERS:
        setattr(owner, name, _halved(getattr(owner, name), position, reached))


def _halved(write: Callable, position: int, reached: Callable[[str], None]) -> Callable:
    def wrapper(*args, **kwargs):
        result = write(*args, **kwargs)
        path = Path(args[position])
        if any(part.startswith(".saving-") for part in path.parts):
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            reached(f"half of {path.name}")
            path.write_bytes(whole)
        return result

    return wrapper


def kill_at(point: str, save: int) -> None:
    """In a child: SIGKILL to itself when it first reaches the point in or after this save; 0 is before any."""
    begun = [0]

    def reached(name: str) -> None:
        begun[0] += name == "saving begins"
        if name == point and begun[0] >= save:
            os.kill(os.getpid(), signal.SIGKILL)

    hook(reached)


def record(path: Path) -> None:
    """In a child: append every point to a file."""

    def reached(name: str) -> None:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(name + "\n")

    hook(reached)


def whole(folder: Path) -> list[Path]:
    """The checkpoints that verify."""
    return [path for path in checkpoints_of(folder) if not hf_tti.checkpoints.problems_of(path)]


def after_kill(folder: Path, code: int, expected: dict[str, Any], log: Path, at_least: int = 3) -> str:
    """What is wrong after a kill and a restart; empty where nothing is."""
    if code != KILLED:
        return f"was not killed there: exit {code}, {last_line(log)}"
    if whole(folder) != checkpoints_of(folder):
        return "a folder called checkpoint does not verify"
    if len(whole(folder)) + len(list(folder.glob(".replaced-*"))) < at_least:
        return "a whole checkpoint is lost"
    if code := run(lambda: train("hf_tti", folder), log):
        return f"the restart stopped: exit {code}, {last_line(log)}"
    if len(whole(folder)) < 3:
        return "fewer than three whole checkpoints at the end"
    if left := [path.name for path in folder.iterdir() if path.name.startswith((".saving", ".re"))]:
        return f"left behind: {left}"
    return ", ".join(differing(expected, outcome_of(folder)))


def recorded(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What an uninterrupted training leaves in folder/run, and the points that its saves passed, in order."""

    def work() -> None:
        record(folder / "points")
        train("hf_tti", folder / "run")

    if run(work, folder / "log"):
        raise SystemExit(f"the uninterrupted training failed: {last_line(folder / 'log')}")
    return outcome_of(folder / "run"), list(dict.fromkeys((folder / "points").read_text().splitlines()))


def kill_in_first_saves(point: str, folder: Path, expected: dict[str, Any]) -> str:
    """A training killed at a point of its fifth save."""

    def work() -> None:
        kill_at(point, SAVE)
        train("hf_tti", folder)

    log = folder.with_suffix(".log")
    return after_kill(folder, run(work, log), expected, log)


def kill_while_replacing(point: str, finished: Path, folder: Path, expected: dict[str, Any]) -> str:
    """A finished training, resumed from its oldest checkpoint, killed while it replaces the next one."""
    shutil.copytree(finished, folder)
    (folder / OUTCOME).unlink()
    first, log = checkpoints_of(folder)[0], folder.with_suffix(".log")

    def work() -> None:
        kill_at("old moved away" if point == "replaced one seen to" else point, 1)
        train("hf_tti", folder, resume_from=first)

    def again() -> None:
        kill_at(point, 0)
        train("hf_tti", folder)

    code = run(work, log)
    if code == KILLED and point == "replaced one seen to":
        code = run(again, log)
    return after_kill(folder, code, expected, log)


def measure(keep: Callable[[str], bool] = lambda point: True) -> dict[str, Any]:
    """Point -> what is wrong there, and how many there are."""
    begun, wrong = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        expected, points = recorded(base)
        for index, point in enumerate(filter(keep, points)):
            wrong[point] = kill_in_first_saves(point, base / f"point-{index}", expected)
        for index, point in enumerate(filter(keep, REPLACED)):
            folder = base / f"replacing-{index}"
            wrong[f"{point} (replacing)"] = kill_while_replacing(point, base / "run", folder, expected)
    failed = {point: problem for point, problem in wrong.items() if problem}
    seconds = round(time.monotonic() - begun, 1)
    return {
        "points": len(wrong),
        "hold": len(wrong) - len(failed),
        "failed": failed,
        "names": [*wrong],
        "seconds": seconds,
    }


if __name__ == "__main__":
    found = measure()
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["failed"] else 0)
