"""All runs of one or more recipes, each in a process of its own, and a table of what came out.

Finished runs are skipped and unfinished ones go on, so that the same command after an interruption
does the rest. A run that has not delivered what its recipe pushes to the Hub is not finished. A run
that fails does not stop the others.
"""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from hf_tti.console import complain, say
from hf_tti.errors import UserError
from hf_tti.processes import signal_run, start, wait_for_group
from hf_tti.pushes import is_delivered
from hf_tti.recipe import Recipe, RecipeError, expand_sweep, load_recipe
from hf_tti.run_folder import RunFolder, default_run_dir, resolve_paths
from hf_tti.table import duration, format_number, format_table, headline_metrics

LOG_FILE = "log.txt"
_POLL_S = 0.2
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its recipe, its folder, and the command's overrides."""

    recipe: Recipe
    folder: RunFolder
    overrides: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the recipe as the run's folder records it."""
        return resolve_paths(self.recipe).digest()

    @property
    def state(self) -> str:
        """`new`, `unfinished`, `finished`, or `another recipe's run`."""
        record = self.folder.record()
        if record is None:
            return "new"
        if record["digest"] != self.digest:
            return "another recipe's run"
        return "finished" if self.is_trained and self.is_delivered else "unfinished"

    @property
    def is_trained(self) -> bool:
        """Whether the folder holds this run's result."""
        record = self.folder.record()
        return record is not None and record["digest"] == self.digest and self.folder.result() is not None

    @property
    def is_delivered(self) -> bool:
        """Whether nothing of a trained run is to be pushed any more, by its recipe and its ledger."""
        hub = self.recipe.hub
        repo = (hub.get("repo") or "").replace("{run}", self.recipe.run_name)
        return hub.get("push", "none") == "none" or is_delivered(self.folder.path, repo)

    @property
    def command(self) -> list[str]:
        """The process that trains it."""
        overrides = [part for override in self.overrides for part in ("--set", override)]
        return [
            *(sys.executable, "-m", "hf_tti", "train", str(self.recipe.path), *overrides),
            *("--run", self.recipe.run_name, "--run-dir", str(self.folder.path), "--resume"),
        ]


def find_recipes(paths: Sequence[Path]) -> list[Path]:
    """Recipe files: those named, and the `.yaml` files in the folders named, or a folder below, in the order
    of their names.

    Raises:
        UserError: a path that does not exist, or a folder without recipes.
    """
    found = []
    for path in paths:
        if path.is_dir():
            files = sorted(path.glob("*.yaml")) or recipes_below(path)
            found += files
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such recipe or folder")
    return list(dict.fromkeys(found))


def recipes_below(folder: Path) -> list[Path]:
    """Files in a folder of recipe folders: every `.yaml` that is a recipe by having sections of
    one.

    Raises:
        UserError: there is none.
    """
    found = sorted(path for path in folder.glob("*/*.yaml") if path.parent.name != "accelerate")
    if not found:
        raise UserError(f"{folder}: no folder with recipes in it")
    return found


def load_recipes(paths: Sequence[Path], overrides: Sequence[str]) -> list[Recipe]:
    """The recipes of `find_recipes`.

    Raises:
        RecipeError: what is wrong with any of them, all of it.
    """
    recipes, problems = [], []
    for path in find_recipes(paths):
        try:
            recipes.append(load_recipe(path, overrides))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return recipes


def plan(paths: Sequence[Path], overrides: Sequence[str], runs_dir: Path) -> list[PlannedRun]:
    """Every run of the recipes, at `runs_dir/<experiment>/<run_name>`.

    Raises:
        RecipeError: what is wrong with any of the recipes, all of it.
        UserError: two runs would have the same folder.
    """
    recipes = load_recipes(paths, overrides)
    runs = [
        PlannedRun(run, RunFolder(default_run_dir(run, runs_dir)), tuple(overrides))
        for recipe in recipes
        for run in expand_sweep(recipe)
    ]
    seen: dict[Path, PlannedRun] = {}
    for run in runs:
        other = seen.setdefault(run.folder.path, run)
        if other is not run:
            raise UserError(
                f"{run.recipe.path} and {other.recipe.path} both have a run "
                f"{run.recipe.run_name!r} of experiment "
                f"{run.recipe.experiment!r}; rename one of the files"
            )
    return runs


@dataclass
class _Running:
    number: int
    run: PlannedRun
    process: subprocess.Popen
    log: BinaryIO
    started: float


class Sweep:
    """Runs the plan with up to `jobs` processes at a time, and says when each begins and ends.

    Args:
        command: what trains a run; default: one process of this machine.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        *,
        jobs: int = 1,
        command: Callable[[PlannedRun], Sequence[str]] = operator.attrgetter("command"),
    ):
        self.runs = list(runs)
        self.jobs = jobs
        self.failed: list[PlannedRun] = []
        self._command = command

    def train(self) -> None:
        """Trains what is not finished. Interrupted, it stops its processes first."""
        self._status = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), leave=False)
        waiting = list(enumerate(self.runs, start=1))
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    started = self._start(*waiting.pop(0))
                    running += [started] if started else []
                self._show(running)
                time.sleep(_POLL_S if running else 0)
                for item in [item for item in running if item.process.poll() is not None]:
                    running.remove(item)
                    self._end(item)
        finally:
            self._status.close()
            for item in running:
                signal_run(item.process.pid, signal.SIGTERM)
            for item in running:
                item.process.wait()
                wait_for_group(item.process.pid)
                item.log.close()

    def _show(self, running: Sequence[_Running]) -> None:
        """On a terminal: the last line of each running process, at the bottom."""
        if not self._status.disable:
            lines = [f"{item.run.recipe.run_name}: {last_line(item.run.folder.path / LOG_FILE)}" for item in running]
            self._status.set_description_str("  |  ".join(lines))

    def _say(self, number: int, run: PlannedRun, text: str) -> None:
        say(f"[{number:>{len(str(len(self.runs)))}}/{len(self.runs)}] {run.recipe.run_name}: {text}")

    def _start(self, number: int, run: PlannedRun) -> _Running | None:
        path = run.folder.path
        if run.state == "finished":
            self._say(number, run, f"already finished  {_outcome(run)}")
            return None
        try:
            run.folder.check(resolve_paths(run.recipe), resume=True)
        except UserError as error:
            self.failed.append(run)
            self._say(number, run, f"FAILED: {error}")
            return None
        path.mkdir(parents=True, exist_ok=True)
        doing = "pushing what is left" if run.is_trained else "training"
        self._say(number, run, f"{doing}, output in {path / LOG_FILE}")
        log = open(path / LOG_FILE, "ab")
        process = start(self._command(run), log, env=self._env())
        return _Running(number, run, process, log, time.monotonic())

    def _env(self) -> dict[str, str]:
        return {} if self.jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))}

    def _end(self, item: _Running) -> None:
        item.log.close()
        took = duration(time.monotonic() - item.started)
        if item.process.returncode == 0:
            self._say(item.number, item.run, f"finished in {took}  {_outcome(item.run)}")
            return
        self.failed.append(item.run)
        last = last_line(item.run.folder.path / LOG_FILE)
        self._say(
            item.number,
            item.run,
            f"FAILED after {took} with exit code {item.process.returncode}: {last}",
        )

    def report(self) -> int:
        """Says the table of all finished runs, where they are, and which failed; the exit code."""
        return report(self.runs, self.failed)


def report(runs: Sequence[PlannedRun], failed: Sequence[PlannedRun]) -> int:
    """Says the table of the runs that are trained, where they are, and which failed; the exit code."""
    rows = [row for run in runs if (row := _row(run))]
    if rows:
        say(f"\n{format_table(rows)}\n")
    say(f"{len(rows)} of {len(runs)} runs finished, in {common_folder(runs)}")
    for run in failed:
        complain(f"failed: {run.recipe.run_name}, see {run.folder.path / LOG_FILE}")
    return 1 if failed else 0


def _outcome(run: PlannedRun) -> str:
    metrics = run.folder.result()["metrics"]
    return f"perplexity {format_number(metrics.get('eval_perplexity'))}"


def _row(run: PlannedRun) -> dict[str, str | float | None] | None:
    result = run.folder.result() if run.is_trained else None
    if result is None:
        return None
    return {"run": run.recipe.run_name, **headline_metrics(result["metrics"])}


def common_folder(runs: Sequence[PlannedRun]) -> str:
    """The folder that all runs are below."""
    return os.path.commonpath([run.folder.path.parent for run in runs])


def last_line(path: Path) -> str:
    """The last line of a log that says something; what a launcher says of the processes that failed is passed over."""
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = handle.read().decode("utf-8", errors="replace")
    lines = text.replace("\r", "\n").split("\n")
    failures = [number for number, line in enumerate(lines) if "ChildFailedError: " in line]
    if failures:
        traces = [number for number in range(failures[-1]) if lines[number].startswith("Traceback")]
        lines = [line for line in lines[: traces[-1] if traces else 0] if "torch/distributed/elastic/" not in line]
    return next((line for line in reversed(lines) if line.strip()), "no output")
