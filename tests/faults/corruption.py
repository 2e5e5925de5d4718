"""Every file of the newest checkpoint damaged in every way; resumed without looking.

    python tests/faults/corruption.py [--trainer stock]
right     ends bitwise as a training that nothing interrupted
stopped   says so and stops: exit code 3 where no checkpoint is whole (hf_tti), an exception (stock)
silent    goes on without a word and ends otherwise
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from children import KILLED, last_line, run
from training import checkpoints_of, differing, outcome_of, train
from transformers.trainer_callback import CallbackHandler

from hf_tti.checkpoints import NoValidCheckpoint

INTERRUPTED = 9  # whole checkpoints 7, 8 and 9 of 14 steps


def flip(path: Path, part: float) -> None:
    """One bit, at a part of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 4
    path.write_bytes(content)


def _zero(path: Path, first: float, last: float) -> None:
    content = bytearray(path.read_bytes())
    low, high = int(len(content) * first), int(len(content) * last)
    content[low:high] = bytes(high - low)
    path.write_bytes(content)


def _older(path: Path) -> Path:
    return checkpoints_of(path.parents[1])[0] / path.name


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "all zeros": lambda path: _zero(path, 0, 1),
    "zeros in its last quarter": lambda path: _zero(path, 0.75, 1),
    "a bit flipped in the middle": lambda path: flip(path, 0.5),
    "a bit flipped near the end": lambda path: flip(path, 0.97),
    "an older step's": lambda path: shutil.copy(_older(path), path),
}


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _in_all(run_dir: Path, damage: Callable[[Path], Any], name: str) -> None:
    for folder in checkpoints_of(run_dir):
        damage(folder / name)


def cases(prepared: Path) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Name and what it does to a run's folder."""
    newest = checkpoints_of(prepared)[-1]
    for name in sorted(path.name for path in newest.iterdir()):
        for damage, act in DAMAGES.items():
            yield f"{name}: {damage}", lambda run_dir, act=act, name=name: act(run_dir / newest.name / name)
    yield "the folder: empty", lambda run_dir: _empty_folder(run_dir / newest.name)
    yield (
        "the folder: an older one under its name",
        lambda run_dir: (
            shutil.rmtree(run_dir / newest.name),
            shutil.copytree(checkpoints_of(run_dir)[0], run_dir / newest.name),
        ),
    )
    for name in ("model.safetensors", "trainer_state.json"):
        for damage in ("missing", "a bit flipped in the middle"):
            yield (
                f"{name} of all checkpoints: {damage}",
                lambda run_dir, name=name, damage=damage: _in_all(run_dir, DAMAGES[damage], name),
            )


def kill_after_save(step: int) -> None:
    """In a child: SIGKILL to itself once a step is saved."""
    on_save = CallbackHandler.on_save

    def killing(self, args, state, control):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return on_save(self, args, state, control)

    CallbackHandler.on_save = killing


def prepare(trainer: str, base: Path) -> tuple[dict[str, Any], Path]:
    """What an uninterrupted training leaves, and the folder of one that was killed."""
    if run(partial(train, trainer, base / "whole"), base / "log"):
        raise SystemExit(f"the uninterrupted training failed: {last_line(base / 'log')}")

    def work() -> None:
        kill_after_save(INTERRUPTED)
        train(trainer, base / "killed")

    if run(work, base / "log") != KILLED:
        raise SystemExit(f"was not killed: {last_line(base / 'log')}")
    return outcome_of(base / "whole"), base / "killed"


def resume(trainer: str, run_dir: Path, expected: dict[str, Any]) -> tuple[str, str]:
    """(right, stopped, silent or otherwise; what was said or what differs)."""
    log = run_dir.with_suffix(".log")
    code = run(partial(train, trainer, run_dir), log)
    if code == 0:
        wrong = differing(expected, outcome_of(run_dir))
        return ("silent", ", ".join(wrong)) if wrong else ("right", "")
    named = code == NoValidCheckpoint.exit_code or trainer == "stock"
    return "stopped" if named else "stopped otherwise", f"exit {code}: {last_line(log)[:200]}"


def measure(trainer: str, keep: Callable[[str], bool] = lambda case: True) -> dict[str, Any]:
    """How many cases end how, and those that are not right."""
    begun, found = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as temporary:
        expected, prepared = prepare(trainer, Path(temporary))
        for case, act in filter(lambda pair: keep(pair[0]), list(cases(prepared))):
            run_dir = Path(shutil.copytree(prepared, Path(temporary) / "case", symlinks=True))
            act(run_dir)
            found[case] = resume(trainer, run_dir, expected)
            shutil.rmtree(run_dir)
    counts = Counter(kind for kind, _ in found.values())
    others = {case: f"{kind}: {said}" for case, (kind, said) in found.items() if kind != "right"}
    seconds = round(time.monotonic() - begun, 1)
    return {"trainer": trainer, "cases": len(found), **counts, "not_right": others, "seconds": seconds}


def holds(figures: dict[str, Any]) -> bool:
    """Whether every case ended right, or with its exit code where every checkpoint was damaged."""
    stopped = [case for case in figures["not_right"] if "of all checkpoints" not in case]
    return not stopped and figures.get("stopped", 0) == len(figures["not_right"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", choices=("hf_tti", "stock"), default="hf_tti")
    options = parser.parse_args()
    result = measure(options.trainer)
    print(json.dumps(result, indent=1))
    sys.exit(0 if holds(result) or options.trainer == "stock" else 1)
