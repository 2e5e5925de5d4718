"""A W&B sweep whose agents train the runs of `hf-tti sweep`, in the same folders.

    hf-tti sweep --wandb recipes/ > sweep.yaml;  wandb sweep sweep.yaml;  wandb agent ID    (any number of agents)

The sweep is a grid of one parameter, the run. An agent calls this module with it, which becomes `hf-tti train … --run
NAME --resume`. Format: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_tti.console import complain
from hf_tti.errors import UserError, did_you_mean
from hf_tti.recipe.sections import TrackingSection
from hf_tti.run_folder import resolve_paths
from hf_tti.sweep import PlannedRun, plan

_TRACKED = "tracking.tracker=wandb"


def sweep_definition(paths: Sequence[Path], overrides: Sequence[str], runs_dir: Path = Path("runs")) -> str:
    """YAML for `wandb sweep FILE`: every run of the recipes that is not finished.

    Args:
        paths: recipes or folders of them, as an agent will find them from where it is started.
        overrides: `section.key=value`, of every run.
        runs_dir: in which run folders lie.

    Raises:
        RecipeError: what is wrong with any of the recipes.
        UserError: all runs are finished, a folder holds another recipe's run, runs belong to several projects, or an
            override looks like a macro of W&B's agents.
    """
    if macro := next((text for text in [*map(str, paths), *overrides] if "${" in text), None):
        raise UserError(f"{macro!r}: W&B's agents would put something else in place of ${{…}}")
    overrides = [*overrides, _TRACKED]
    every = _by_name(plan(paths, overrides, runs_dir), runs_dir)
    runs = {name: run for name, run in every.items() if run.state != "finished"}
    if not runs:
        raise UserError(f"all {len(every)} runs are finished, in {runs_dir}")
    for run in runs.values():
        run.folder.check(resolve_paths(run.recipe), resume=True)
    arguments = [part for override in overrides for part in ("--set", override)]
    program = ["-m", "hf_tti.wandb_sweep", *map(str, paths), *arguments, "--runs-dir", str(runs_dir)]
    definition = {
        "name": ", ".join(dict.fromkeys(name.split("/")[0] for name in runs)),
        "project": _project(every.values()),
        "method": "grid",
        "metric": {"name": "eval/loss", "goal": "minimize"},
        "parameters": {"run": {"values": list(runs)}},
        "command": ["${env}", "${interpreter}", *program, "${args}"],
    }
    return yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=10_000)


def _by_name(runs: Sequence[PlannedRun], runs_dir: Path) -> dict[str, PlannedRun]:
    """`<experiment>/<run>` -> the run."""
    return {run.folder.path.relative_to(runs_dir).as_posix(): run for run in runs}


def _project(runs: Sequence[PlannedRun]) -> str:
    projects = {TrackingSection(**run.recipe.tracking).project: run.recipe.path for run in runs}
    if len(projects) > 1:
        (one, first), (other, second) = list(projects.items())[:2]
        raise UserError(
            f"{first} has tracking.project={one} and {second} {other}; a sweep has one: --set tracking.project=NAME"
        )
    return next(iter(projects))


def main(argv: Sequence[str] | None = None) -> int:
    """What an agent starts: finds the run and becomes the process that trains it."""
    parser = argparse.ArgumentParser(prog="python -m hf_tti.wandb_sweep")
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--run", required=True, metavar="EXPERIMENT/RUN")
    arguments = parser.parse_args(argv)
    try:
        runs = _by_name(plan(arguments.recipes, arguments.overrides, arguments.runs_dir), arguments.runs_dir)
        if arguments.run not in runs:
            raise UserError(f"--run {arguments.run}: no such run{did_you_mean(arguments.run, runs)}: {', '.join(runs)}")
    except UserError as error:
        complain(str(error))
        return error.exit_code
    command = runs[arguments.run].command
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    raise SystemExit(main())
