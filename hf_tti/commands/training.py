"""`hf-tti train`, `resume`, `import-checkpoint` and `verify`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.commands.base import positive, recipe_arguments, set_argument
from hf_tti.console import say
from hf_tti.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from hf_tti.recipe import Recipe


def train_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    _which_run_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint that is whole")
    parser.add_argument(
        "--elastic", action="store_true", help="resume with other processes or batch, the global batch being equal"
    )
    several_arguments(parser)


def several_arguments(parser: argparse.ArgumentParser, title: str = "several processes") -> None:
    group = parser.add_argument_group(title)
    group.add_argument("--num-processes", type=positive, metavar="N", help="default: the configuration's")
    group.add_argument("--accelerate-config", type=Path, metavar="FILE", help="as `accelerate config` writes it")


def _is_several(arguments: argparse.Namespace) -> bool:
    return arguments.accelerate_config is not None or (arguments.num_processes or 1) > 1


def _launch(arguments: argparse.Namespace) -> int:
    """The same command on several processes, each without the arguments that ask for them."""
    from hf_tti.launch import Accelerate, launch

    ours = argparse.ArgumentParser(add_help=False)
    several_arguments(ours)
    training = ours.parse_known_args(shlex.split(arguments.command_line)[1:])[1]
    return launch(Accelerate(arguments.accelerate_config, arguments.num_processes), training)


def _which_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        dest="run_name",
        metavar="NAME",
        help="which run of the recipe's sweep; default: first",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<experiment>/<run>")


def _which_run(arguments: argparse.Namespace, *, is_launcher: bool = False) -> tuple[Recipe, Path]:
    """The run that is meant, and its folder. Where it is the first of several, a launcher leaves that to its ranks to
    say.
    """
    from hf_tti.recipe import expand_sweep, load_recipe
    from hf_tti.run_folder import default_run_dir

    runs = {run.run_name: run for run in expand_sweep(load_recipe(arguments.recipe, arguments.overrides))}
    name = arguments.run_name or next(iter(runs))
    if name not in runs:
        raise UserError(
            f"--run {name}: {arguments.recipe} has no such run{did_you_mean(name, runs)}: " + ", ".join(runs)
        )
    if len(runs) > 1 and arguments.run_name is None and not is_launcher:
        say(f"{arguments.recipe} stands for {len(runs)} runs; taking the first (hf-tti sweep trains them all)")
    return runs[name], arguments.run_dir or default_run_dir(runs[name])


def train(arguments: argparse.Namespace) -> int:
    recipe, run_dir = _which_run(arguments, is_launcher=_is_several(arguments))
    if _is_several(arguments):
        return _launch(arguments)
    from hf_tti.run import train_run

    train_run(
        recipe,
        run_dir,
        resume=arguments.resume,
        elastic=arguments.elastic,
        command=arguments.command_line,
    )
    return 0


def import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint-<step> of transformers' Trainer"
    )
    recipe_arguments(parser)
    _which_run_arguments(parser)


def import_checkpoint(arguments: argparse.Namespace) -> int:
    recipe, run_dir = _which_run(arguments)
    from hf_tti.importing import import_checkpoint

    import_checkpoint(recipe, arguments.checkpoint, run_dir, command=arguments.command_line)
    return 0


def resume_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
    parser.add_argument("--elastic", action="store_true", help="with other processes, the global batch being equal")
    set_argument(parser)
    several_arguments(parser)


def run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")


def resume(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return verify(arguments)
    from hf_tti.run_folder import RunFolder

    recipe = RunFolder(arguments.folder).recipe(arguments.overrides)
    if _is_several(arguments):
        return _launch(arguments)
    from hf_tti.run import train_run

    train_run(recipe, arguments.folder, resume=True, elastic=arguments.elastic, command=arguments.command_line)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from hf_tti.checkpoints import NoValidCheckpoint, checkpoints_of, problems_of
    from hf_tti.run_folder import RunFolder

    folder = RunFolder(arguments.folder)
    recipe = folder.recipe()
    found = {path: problems_of(path) for path in checkpoints_of(folder.path)}
    for path, problems in found.items():
        say(f"{path.name}: {problems[0] if problems else 'whole'}")
    valid = [path for path, problems in found.items() if not problems]
    if folder.result() is not None:
        say(f"{recipe.run_name} is finished; resuming it does nothing")
    elif found and not valid:
        raise NoValidCheckpoint(f"{folder.path}: none of its {len(found)} checkpoints is whole")
    else:
        say(f"{recipe.run_name} would go on from {valid[-1].name if valid else 'the start: there is no checkpoint'}")
    return 0
