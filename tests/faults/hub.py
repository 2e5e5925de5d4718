"""A Hub that fails in every way that has been seen, at the start, in the middle and at the end of a run's pushes.

    python tests/faults/hub.py [--trainer stock] [--kinds 503 409] [--moments middle]
Each cell is one training of 12 steps of 0.15 s, with a checkpoint every second step that is pushed while it goes on. It
holds if training ends with the weights of one that pushes nothing, its longest step is not a second longer, and every
branch is there byte for byte after one commit each; or the exit code is 4, the list names exactly the branches that are
not, and the command that it names brings them once the Hub is back. Stock: transformers' Trainer with push_to_hub.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from children import KILLED, kill, last_line, start, wait
from hub_server import HUB
from hub_weather import KINDS, MOMENTS, Kind, Weather
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_tti.run
from hf_tti import cli
from hf_tti.data import CausalLMCollator
from hf_tti.hub import remote
from hf_tti.hub.training import PushCheckpoints
from hf_tti.recipe import expand_sweep, load_recipe
from tiny import rows, tiny_model
from tiny_runs import write_recipe

STEPS, EVERY, STEP_S = 12, 2, 0.15
BRANCHES = [*(f"step{step}" for step in range(EVERY, STEPS + 1, EVERY)), "main"]
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
QUICK = (("503 for good", "middle"), ("commit's reply lost", "end"))
LIMIT_S = 60.0  # for one training: the stock client waits for ever
TIMES = "times.json"


class Clock(TrainerCallback):
    """Makes each step last `STEP_S` at least, and writes when each began."""

    def __init__(self, path: Path):
        self._path, self._begun, self.in_pushes = path, [], [0.0]

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun.append(time.perf_counter())
        time.sleep(STEP_S)

    def on_train_end(self, args, state, control, **kwargs):
        self._begun.append(time.perf_counter())
        lasted = [after - before for before, after in zip(self._begun, self._begun[1:], strict=False)]
        self._path.write_text(json.dumps({"steps": lasted, "in_pushes": max(self.in_pushes)}))


def train(recipe: Path, folder: Path, *overrides: str) -> None:
    """A run of hf_tti, in a child."""
    remote.TIMEOUT_S = 1.5
    clock, build, on_save = Clock(folder.parent / TIMES), hf_tti.run.build_trainer, PushCheckpoints.on_save

    def build_with_clock(*args: Any) -> Trainer:
        trainer = build(*args)
        trainer.add_callback(clock)
        return trainer

    def timed(*args: Any, **kwargs: Any) -> None:
        begun = time.perf_counter()
        on_save(*args, **kwargs)
        clock.in_pushes.append(time.perf_counter() - begun)

    hf_tti.run.build_trainer, PushCheckpoints.on_save = build_with_clock, timed
    hf_tti.run.train_run(expand_sweep(load_recipe(recipe, overrides))[0], folder)


def type_in(arguments: list[str]) -> None:
    """`hf-tti` with these arguments, in a child."""
    code = cli.main(arguments)
    if code:
        raise SystemExit(f"hf-tti ended with {code}")


def train_stock(folder: Path, *, push: bool) -> None:
    """The stock Trainer as its documentation has it, in a child."""
    pushing = {"push_to_hub": True, "hub_model_id": "me/tiny", "hub_always_push": True, "hub_private_repo": True}
    args = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=EVERY,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **(pushing if push else {}),
    )
    clock = Clock(folder.parent / TIMES)
    collator = CausalLMCollator(pad_token_id=0)
    trainer = Trainer(tiny_model(), args, train_dataset=rows(32), data_collator=collator, callbacks=[clock])
    trainer.train()
    if push:
        trainer.push_to_hub()


def run_child(work: Callable[[], None], folder: Path, weather: Weather | None) -> int | None:
    """Its exit code, or None where it did not come to an end. The Hub opens after the fork, since it has threads."""
    folder.mkdir(parents=True, exist_ok=True)
    ready, go = os.pipe()

    def waiting() -> None:
        os.read(ready, 1)
        work()

    pid = start(waiting, folder / "log")
    HUB.decide = weather
    HUB.accept()
    os.write(go, b".")
    code = wait(pid, seconds=LIMIT_S)
    if code is None:
        kill(pid)
    HUB.decide = None
    for end in (ready, go):
        os.close(end)
    while HUB.is_open or threading.active_count() > 1:  # the weather may open it once more
        HUB.refuse()
        time.sleep(0.01)
    return code


def missing_branches(run: Path) -> list[str]:
    """Branches that do not hold byte for byte what lies in the run's folder."""
    repo = HUB.repos.get("me/tiny")
    there = repo.branches if repo else {}
    folders = {branch: run / ("final" if branch == "main" else f"checkpoint-{branch[4:]}") for branch in BRANCHES}
    return [
        branch
        for branch, folder in folders.items()
        if any(there.get(branch, {}).get(name) != (folder / name).read_bytes() for name in FILES)
        or not {"README.md", "recipe.yaml"} <= there[branch].keys()
    ]


def commits_a_branch() -> int:
    """The largest number of commits on top of a branch's first."""
    repo = HUB.repos.get("me/tiny")
    return max((len(repo.history(branch)) - 1 for branch in repo.heads), default=0) if repo else 0


def cell(recipe: Path, folder: Path, kind: Kind, moment: str) -> dict[str, Any]:
    """One training of hf_tti under one fault."""
    alone = silent(partial(train, recipe), folder / "silent")
    HUB.forget()
    weather, run = Weather(kind, moment), folder / "run"
    wait_minutes = 3 / 60 if kind.lasts else 1.0  # what lasts is waited for in vain
    overrides = ("hub.push=steps", "hub.repo=me/tiny", f"hub.wait_minutes={wait_minutes}")
    begun = time.monotonic()
    code = run_child(partial(train, recipe, run, *overrides), folder, weather)
    seconds = time.monotonic() - begun
    missing, said = missing_branches(run), last_line(folder / "log")
    found = {
        "ended": (run / "result.json").is_file() and weights(run) == weights(alone / "run"),
        "exit": code,
        "met": weather.met,
        "extra_s": round(longest_step(folder) - longest_step(alone), 3),
        "in_pushes_s": round(json.loads((folder / TIMES).read_text())["in_pushes"], 4),
        "seconds": round(seconds, 1),
        "missing": missing,
        "commits": commits_a_branch(),
    }
    if code == 4:
        listed = re.search(r"me/tiny: (.*); to finish: (.*)", said)
        found["listed"] = listed and [item.split(" (")[0] for item in listed[1].split("; ") if " (" in item] == missing
        command = shlex.split(listed[2]) if listed else ["hf-tti", "push", "nothing"]
        found["command"] = run_child(partial(type_in, command[1:]), folder / "command", None)
        found["left"] = missing_branches(run)
        found["commits"] = commits_a_branch()
    arrived = not missing if code == 0 else code == 4 and found["listed"] and not found["left"]
    found["holds"] = bool(
        found["ended"] and arrived and weather.met and found["commits"] == 1 and found["extra_s"] < 1.0
    )
    return found


def stock_cell(folder: Path, kind: Kind, moment: str) -> dict[str, Any]:
    """One training of the stock Trainer under one fault."""
    alone = silent(partial(train_stock, push=False), folder / "silent")
    HUB.forget()
    weather, run = Weather(kind, moment), folder / "run"
    begun = time.monotonic()
    code = run_child(partial(train_stock, run, push=True), folder, weather)
    repo = HUB.repos.get("me/tiny")
    newest = run / f"checkpoint-{STEPS}" / "model.safetensors"
    return {
        "ended": (folder / TIMES).is_file(),
        "exit": "hangs" if code is None else "killed" if code == KILLED else code,
        "met": weather.met,
        "commits": len(repo.history("main")) - 1 if repo else 0,
        "last_weights_there": bool(
            repo and newest.is_file() and repo.branches["main"].get("model.safetensors") == newest.read_bytes()
        ),
        "extra_s": round(longest_step(folder) - longest_step(alone), 3) if (folder / TIMES).is_file() else None,
        "seconds": round(time.monotonic() - begun, 1),
        "said": "" if code == 0 else last_line(folder / "log")[:160],
    }


def weights(run: Path) -> bytes:
    """Of the final model."""
    return (run / "final" / "model.safetensors").read_bytes()


def longest_step(folder: Path) -> float:
    """Seconds of the longest step of the training in this folder."""
    return max(json.loads((folder / TIMES).read_text())["steps"])


def silent(work: Callable[[Path], None], folder: Path) -> Path:
    """A training that pushes nothing, at about the same time, since other work slows both down."""
    if run_child(partial(work, folder / "run"), folder, None):
        raise SystemExit(f"a training without pushes failed: {last_line(folder / 'log')}")
    return folder


def measure(trainer: str = "hf_tti", *, keep: Callable[[str, str], bool] = lambda kind, moment: True) -> dict[str, Any]:
    """The figures of every cell that `keep(kind, moment)` lets through."""
    cells: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_TTI_CACHE"] = str(folder / "cache")
        training = {"max_steps": STEPS, "save_steps": EVERY, "eval_strategy": "no", "logging_steps": STEPS}
        recipe = write_recipe(folder, training=training, objectives={}, callbacks={})
        for kind in KINDS:
            for moment in MOMENTS:
                if keep(kind, moment):
                    place = folder / f"{len(cells)}"
                    arguments = (place, KINDS[kind], moment)
                    found = cell(recipe, *arguments) if trainer == "hf_tti" else stock_cell(*arguments)
                    cells[f"{kind}, {moment}"] = found
                    print(f"{kind}, {moment}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return {"trainer": trainer, **summary(cells), "cells": cells}


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Counts over cells."""
    in_pushes = [found["in_pushes_s"] for found in cells.values() if "in_pushes_s" in found]
    extras = [found["extra_s"] for found in cells.values() if found["extra_s"] is not None]
    exits = [str(found["exit"]) for found in cells.values()]
    return {
        "num_cells": len(cells),
        "ended": sum(found["ended"] for found in cells.values()),
        "largest_extra_s": max(extras, default=None),
        "largest_in_pushes_s": max(in_pushes, default=None),
        "exits": {code: exits.count(code) for code in sorted(set(exits))},
        "holds": sum(found.get("holds", False) for found in cells.values()),
        "not": [name for name, found in cells.items() if not found.get("holds", False)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", choices=("hf_tti", "stock"), default="hf_tti")
    parser.add_argument("--kinds", nargs="+", default=[""], help="parts of their names")
    parser.add_argument("--quick", action="store_true", help="two cells, a few seconds: for the default tests")
    parser.add_argument("--moments", nargs="+", choices=tuple(MOMENTS), default=tuple(MOMENTS))
    options = parser.parse_args()
    if options.quick:
        STEP_S = 0.02
    figures = measure(
        options.trainer,
        keep=lambda kind, moment: (
            (kind, moment) in QUICK
            if options.quick
            else moment in options.moments and any(part in kind for part in options.kinds)
        ),
    )
    print(json.dumps(figures, indent=1))
    sys.exit(0 if options.trainer == "stock" or figures["holds"] == figures["num_cells"] > 0 else 1)
